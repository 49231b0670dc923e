"""A strict fake of Vault's HTTP API, written from its documentation: no Vault is in the registries.

It has KV 1 and 2, logins with every auth method of the backend, leases with renewal up to a maximum age, and revocation.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

from tests.servers.fakehttp import Answer, FakeHttp, Request

DENIED: Answer = (403, {"errors": ["permission denied"]})
ABSENT: Answer = (404, {"errors": []})


class VaultFake(FakeHttp):
    """`kv` maps paths to secrets (None: deleted). `logins` maps auth/MOUNT to the fields that a login must have."""

    def __init__(self, version: int = 2) -> None:
        super().__init__()
        self.version = version
        self.kv: dict[str, list[dict[str, Any] | None]] = {}
        self.tokens: dict[str, float] = {"root-token": float("inf")}
        self.logins: dict[str, dict[str, Any]] = {}
        self.token_seconds = 3600.0
        self.lease_seconds = 3600.0
        self.longest_seconds = 7200.0
        self.leases: dict[str, tuple[float, float]] = {}

    def answer(self, request: Request) -> Answer:
        if not request.path.startswith("/v1/") or request.headers.get("x-vault-request") != "true":
            return 400, {"errors": ["not a request of the API"]}
        path = request.path.removeprefix("/v1/")
        if path.startswith("auth/") and path.endswith("/login"):
            return self._login(request, path.removesuffix("/login"))
        if self.tokens.get(request.headers.get("x-vault-token", ""), 0.0) < time.monotonic():
            return DENIED
        if path == "auth/token/renew-self" and request.method == "PUT":
            return self._token(request.headers["x-vault-token"])
        if path == "sys/leases/renew" and request.method == "PUT":
            return self._renew(request.json())
        if request.method != "GET":
            return 405, {"errors": ["unsupported operation"]}
        if path.startswith("sys/internal/ui/mounts/"):
            if path != "sys/internal/ui/mounts/secret":
                return DENIED
            return 200, {"data": {"type": "kv", "options": {"version": str(self.version)} if self.version == 2 else None}}
        if path.startswith("database/creds/"):
            return self._credentials()
        return self._read(path)

    def _read(self, path: str) -> Answer:
        start = "secret/data/" if self.version == 2 else "secret/"
        versions = self.kv.get(path.removeprefix(start)) if path.startswith(start) else None
        if not versions:
            return ABSENT
        current = versions[-1]
        if self.version == 1:
            return (200, {"lease_duration": 2764800, "data": current}) if current is not None else ABSENT
        metadata = {"version": len(versions), "destroyed": False, "deletion_time": "" if current is not None else "2024"}
        return 200 if current is not None else 404, {"data": {"data": current, "metadata": metadata}}

    def _login(self, request: Request, mount: str) -> Answer:
        wanted = self.logins.get(mount)
        body = request.json()
        if wanted is None or request.method not in ("PUT", "POST"):
            return DENIED
        if mount == "auth/aws":
            headers = json.loads(base64.b64decode(body["iam_request_headers"]))
            if "AWS4-HMAC-SHA256" not in headers["Authorization"][0] or body["iam_http_request_method"] != "POST":
                return DENIED
        if any(body.get(name) != value for name, value in wanted.items()):
            return 400, {"errors": ["invalid role or credential"]}
        token = f"hvs.{secrets.token_hex(8)}"
        return self._token(token)

    def _token(self, token: str) -> Answer:
        self.tokens[token] = time.monotonic() + self.token_seconds
        auth = {"client_token": token, "lease_duration": self.token_seconds, "renewable": True}
        return 200, {"auth": auth}

    def _credentials(self) -> Answer:
        lease = f"database/creds/web/{secrets.token_hex(8)}"
        now = time.monotonic()
        self.leases[lease] = (now, now + self.lease_seconds)
        number = len(self.leases)
        return 200, {
            "lease_id": lease,
            "lease_duration": self.lease_seconds,
            "renewable": True,
            "data": {"username": f"v-web-{number}", "password": f"p-{number}"},
        }

    def _renew(self, body: Any) -> Answer:
        born, ends = self.leases.get(body["lease_id"], (0.0, 0.0))
        now = time.monotonic()
        if ends < now:
            return 400, {"errors": ["lease not found"]}
        granted = min(self.lease_seconds, born + self.longest_seconds - now)
        self.leases[body["lease_id"]] = (born, now + granted)
        return 200, {"lease_id": body["lease_id"], "lease_duration": granted, "renewable": True}
