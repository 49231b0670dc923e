"""Strict fakes, written from the documentation, of services without a server in any registry: Google's Secret Manager,
Azure's Key Vault, AWS AppConfig's data API, and the credentials of the metadata services."""

from __future__ import annotations

import base64
import secrets
import time
from typing import Any

from tests.servers.fakehttp import Answer, FakeHttp, Request


class SecretManagerFake(FakeHttp):
    """projects/site of secretmanager.googleapis.com/v1, small pages."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "ya29.token"
        self.page = 3
        self.secrets: dict[str, list[bytes]] = {}
        self.disabled: set[str] = set()

    def answer(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": {"code": 401, "status": "UNAUTHENTICATED"}}
        top = "/v1/projects/site/secrets"
        if request.method != "GET" or not request.path.startswith(top):
            return 403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}}
        if request.path == top:
            return 200, self._list(request.query)
        name, _, action = request.path.removeprefix(f"{top}/").partition("/")
        if action != "versions/latest:access" or not self.secrets.get(name):
            return 404, {"error": {"code": 404, "status": "NOT_FOUND"}}
        if name in self.disabled:
            return 400, {"error": {"code": 400, "status": "FAILED_PRECONDITION"}}
        versions = self.secrets[name]
        data = base64.b64encode(versions[-1]).decode()
        full = f"projects/1234/secrets/{name}/versions/{len(versions)}"
        return 200, {"name": full, "payload": {"data": data, "dataCrc32c": "0"}}

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        kind, _, part = query.get("filter", "name:").partition(":")
        assert kind == "name", "the only filter that the fake understands"
        names = sorted(name for name in self.secrets if part in name)
        start = int(query.get("pageToken", "0"))
        size = min(self.page, int(query.get("pageSize", "25000")))
        answer: dict[str, Any] = {"totalSize": len(names)}
        if names[start : start + size]:
            answer["secrets"] = [{"name": f"projects/1234/secrets/{name}"} for name in names[start : start + size]]
        if start + size < len(names):
            answer["nextPageToken"] = str(start + size)
        return answer


class KeyVaultFake(FakeHttp):
    """The secrets of one vault, API version 7.4, small pages."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "eyJ.token"
        self.page = 2
        self.secrets: dict[str, tuple[str, int]] = {}
        self.disabled: set[str] = set()
        self.base = self.url

    def put(self, name: str, value: str, age_seconds: int = 0) -> None:
        assert all(char.isascii() and (char.isalnum() or char == "-") for char in name), "not a name of Key Vault"
        self.secrets[name] = (value, int(time.time()) - age_seconds)

    def answer(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": {"code": "Unauthorized"}}
        if request.query.get("api-version") != "7.4" or request.method != "GET":
            return 400, {"error": {"code": "BadParameter"}}
        if request.path == "/secrets":
            names, start = sorted(self.secrets), int(request.query.get("$skiptoken", "0"))
            page = names[start : start + self.page]
            more = (
                f"{self.base}/secrets?api-version=7.4&$skiptoken={start + self.page}"
                if start + self.page < len(names)
                else None
            )
            return 200, {"value": [self._entry(name) for name in page], "nextLink": more}
        name = request.path.removeprefix("/secrets/")
        if name not in self.secrets:
            return 404, {"error": {"code": "SecretNotFound"}}
        if name in self.disabled:
            return 403, {"error": {"code": "Forbidden"}}
        return 200, {"value": self.secrets[name][0], **self._entry(name)}

    def _entry(self, name: str) -> dict[str, Any]:
        updated = self.secrets[name][1]
        attributes = {"enabled": name not in self.disabled, "created": updated, "updated": updated}
        return {"id": f"{self.base}/secrets/{name}", "attributes": attributes}


class AppConfigFake(FakeHttp):
    """The data API: a token is good for one request, and an answer without changes is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.profiles: dict[str, bytes] = {}
        self._tokens: dict[str, tuple[str, bytes | None]] = {}

    def answer(self, request: Request) -> Answer:
        if "AWS4-HMAC-SHA256" not in request.headers.get("authorization", ""):
            return 403, {"message": "Missing Authentication Token", "__type": "MissingAuthenticationTokenException"}
        if request.path == "/configurationsessions" and request.method == "POST":
            body = request.json()
            named = (body["ApplicationIdentifier"], body["EnvironmentIdentifier"])
            profile = body["ConfigurationProfileIdentifier"]
            if named != ("site", "dev") or profile not in self.profiles:
                return 404, {"__type": "ResourceNotFoundException", "Message": "no such profile"}
            return 201, {"InitialConfigurationToken": self._token(profile, None)}
        if request.path != "/configuration" or request.method != "GET":
            return 404, {"__type": "ResourceNotFoundException"}
        profile, known = self._tokens.pop(request.query.get("configuration_token", ""), ("", None))
        if not profile:
            return 400, {"__type": "BadRequestException", "Message": "the token was used"}
        if profile not in self.profiles:
            return 404, {"__type": "ResourceNotFoundException"}
        content = self.profiles[profile]
        self.next = self._token(profile, content)
        return 200, b"" if content == known else content

    def _token(self, profile: str, known: bytes | None) -> str:
        token = secrets.token_hex(8)
        self._tokens[token] = (profile, known)
        return token

    def headers(self, request: Request) -> dict[str, str]:
        if request.path != "/configuration":
            return {}
        return {"Next-Poll-Configuration-Token": self.next, "Next-Poll-Interval-In-Seconds": "60"}


class MetadataTokens(FakeHttp):
    """The credentials of Google's, Azure's and AWS's metadata services."""

    def __init__(self) -> None:
        super().__init__()
        self.google = "ya29.token"
        self.azure = "eyJ.token"
        self.aws = True

    def answer(self, request: Request) -> Answer:
        google = request.headers.get("metadata-flavor") == "Google"
        azure = request.headers.get("metadata") == "true"
        account = "/computeMetadata/v1/instance/service-accounts/default/"
        if request.path == account + "token" and google:
            return 200, {"access_token": self.google, "expires_in": 3599, "token_type": "Bearer"}
        if request.path == account + "identity" and google and request.query.get("format") == "full":
            return 200, f"jwt-for-{request.query['audience']}".encode()
        if request.path == "/metadata/identity/oauth2/token" and azure and request.query["api-version"] == "2018-02-01":
            if not self.azure:
                return 400, {"error": "invalid_request", "error_description": "Identity not found"}
            return 200, {"access_token": self.azure, "expires_in": "3599", "resource": request.query["resource"]}
        if request.path == "/metadata/instance/compute" and azure:
            return 200, {"subscriptionId": "sub", "resourceGroupName": "group", "name": "vm1", "vmScaleSetName": ""}
        return self._aws(request)

    def _aws(self, request: Request) -> Answer:
        if request.path == "/latest/api/token" and request.method == "PUT":
            return 200, b"imds-token"
        if request.headers.get("x-aws-ec2-metadata-token") != "imds-token":
            return 401, b""
        roles = "/latest/meta-data/iam/security-credentials/"
        if request.path == roles and self.aws:
            return 200, b"web-role"
        if request.path == roles + "web-role":
            return 200, {
                "Code": "Success",
                "AccessKeyId": "ASIAEXAMPLE",
                "SecretAccessKey": "secret",
                "Token": "session",
                "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 21600)),
            }
        return 404, b""
