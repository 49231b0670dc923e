"""Credentials that the platform's metadata service gives out: an instance's role, a service account, a managed identity.

The client uses no proxy and follows no redirect. Only configured backends ask, so no address is probed blindly.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from agent.errors import SourceDenied, SourceInvalid
from agent.net.http_client import Client, Reply, json_body
from agent.secret import Secret
from agent.sources import SourceContext

DEFAULT_URL = "http://169.254.169.254"
_SECONDS = 3.0
_EARLY_SECONDS = 120.0


class Metadata:
    """One metadata service. It keeps tokens until two minutes before they expire."""

    def __init__(self, url: str, context: SourceContext) -> None:
        """Keep the address; `url` is "" for the usual one."""
        self._url = url.rstrip("/") or DEFAULT_URL
        self._client = Client(context.paths, direct=True, stopping=context.stopping)
        self._tokens: dict[str, tuple[Secret, float]] = {}
        """Path -> (token, time of time.monotonic() at which it expires)."""

    def google_token(self) -> Secret:
        """Return an access token of the instance's default service account."""
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        return self._token(path, {"Metadata-Flavor": "Google"})

    def google_identity(self, audience: str) -> Secret:
        """Return a signed identity token (JWT) of the instance for an audience."""
        query = urlencode({"audience": audience, "format": "full"})
        path = f"/computeMetadata/v1/instance/service-accounts/default/identity?{query}"
        return Secret(self._get(path, {"Metadata-Flavor": "Google"}).body.decode("ascii", "replace").strip())

    def azure_token(self, resource: str, client_id: str = "") -> Secret:
        """Return an access token of the managed identity for a resource."""
        query = {"api-version": "2018-02-01", "resource": resource, **({"client_id": client_id} if client_id else {})}
        return self._token(f"/metadata/identity/oauth2/token?{urlencode(query)}", {"Metadata": "true"})

    def azure_instance(self) -> dict[str, str]:
        """Return the subscriptionId, resourceGroupName, name and vmScaleSetName of the instance, each "" if it has none."""
        answer = json_body(self._get("/metadata/instance/compute?api-version=2021-02-01", {"Metadata": "true"}))
        return {name: str(answer.get(name, "")) for name in ("subscriptionId", "resourceGroupName", "name", "vmScaleSetName")}

    def aws_credentials(self) -> dict[str, str]:
        """Return the access_key, secret_key, token and expiry_time of the instance's role, as botocore names them."""
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        reply = self._client.request("PUT", f"{self._url}/latest/api/token", headers=headers, timeout_seconds=_SECONDS)
        session = {"X-aws-ec2-metadata-token": reply.body.decode("ascii", "replace").strip()}
        roles_path = "/latest/meta-data/iam/security-credentials/"
        roles = self._get(roles_path, session).body.decode("ascii", "replace").strip().splitlines()
        if not roles:
            raise SourceDenied("the instance has no role", hint="give it an instance profile")
        answer = json_body(self._get(roles_path + roles[0], session))
        try:
            return {
                "access_key": str(answer["AccessKeyId"]),
                "secret_key": str(answer["SecretAccessKey"]),
                "token": str(answer["Token"]),
                "expiry_time": str(answer["Expiration"]),
            }
        except (KeyError, TypeError):
            raise SourceInvalid(f"{self._url}{roles_path}: the answer has no credentials") from None

    def _token(self, path: str, headers: dict[str, str]) -> Secret:
        token, expires_at = self._tokens.get(path, (Secret(""), 0.0))
        if time.monotonic() < expires_at - _EARLY_SECONDS:
            return token
        answer: Any = json_body(self._get(path, headers))
        try:
            token, expires_at = Secret(answer["access_token"]), time.monotonic() + float(answer["expires_in"])
        except (KeyError, TypeError, ValueError):
            raise SourceInvalid(f"{self._url}: the metadata service's answer has no token") from None
        self._tokens[path] = (token, expires_at)
        return token

    def forget(self) -> None:
        """Drop the tokens, because one was refused."""
        self._tokens.clear()

    def _get(self, path: str, headers: dict[str, str]) -> Reply:
        reply = self._client.request(
            "GET", f"{self._url}{path}", headers=headers, timeout_seconds=_SECONDS, expect=(200, 400, 404)
        )
        if reply.status != 200:
            hint = "give the instance a role, a service account or a managed identity, or name a token file"
            raise SourceDenied(f"{reply.url}: the platform has no credentials for this instance", hint=hint)
        return reply

    def close(self) -> None:
        """Close the client."""
        self._client.close()
