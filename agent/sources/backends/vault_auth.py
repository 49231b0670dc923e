"""Vault's auth methods: the options, and the body of a login at auth/MOUNT/login.

Credentials are read from their files at each login. The methods are at https://developer.hashicorp.com/vault/docs/auth.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from agent.errors import SourceDenied
from agent.net.credentials import read_secret
from agent.net.http_client import TlsOptions, check_url
from agent.settings.schema import setting
from agent.settings.urls import check_metadata_url
from agent.sources import SourceContext, optional
from agent.sources.backends.metadata import Metadata

Method = Literal["token", "approle", "aws", "gcp", "azure", "kubernetes", "cert", "jwt"]
_REQUIRED_OPTION = {"token": "token_file", "approle": "role_id", "jwt": "jwt_file"}
_METHODS_WITH_ROLE = ("aws", "gcp", "azure", "kubernetes", "jwt")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultOptions(TlsOptions):
    address: str = setting("the API: https:// or http://", "https://127.0.0.1:8200")
    mount: str = setting("the mount path of the KV engine", "secret")
    prefix: str = setting("the path that layers are below", "")
    namespace: str = setting("the namespace (Vault Enterprise)", "")
    auth: Method = setting("the auth method", "token")
    auth_mount: str = setting("the mount path of the auth method; default: its name", "")
    role: str = setting("the role to log in as (aws, gcp, azure, kubernetes, jwt; optional for cert)", "")
    token_file: str = setting("token: file, or credential:NAME, with the token", "")
    role_id: str = setting("approle: the role's id, which is not a secret", "")
    secret_id_file: str = setting("approle: file, or credential:NAME, with the secret id", "")
    jwt_file: str = setting("jwt, kubernetes: file, or credential:NAME, with a token that the platform renews", "")
    imds_url: str = setting("aws, gcp, azure: another address of the metadata service", "")
    dynamic: tuple[str, ...] = setting("paths with leases, such as database/creds/web, as config.dynamic.database...", ())

    def __post_init__(self) -> None:
        check_metadata_url(self.imds_url)
        check_url(self.address, "address")
        required = _REQUIRED_OPTION.get(self.auth, "")
        if required and not getattr(self, required):
            raise ValueError(f'auth = "{self.auth}" needs {required}')
        if self.auth in _METHODS_WITH_ROLE and not self.role:
            raise ValueError(f'auth = "{self.auth}" needs role')
        if self.auth == "cert" and not self.cert_file:
            raise ValueError('auth = "cert" needs cert_file')


class Login:
    """Logs in with one method: `path` below /v1 and `body` are the request."""

    def __init__(self, options: VaultOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._bodies: dict[str, Callable[[], dict[str, Any]]] = {
            "approle": self._approle,
            "aws": self._aws,
            "gcp": self._gcp,
            "azure": self._azure,
            "kubernetes": self._kubernetes,
            "cert": self._cert,
            "jwt": lambda: self._jwt(self._options.jwt_file),
        }

    @property
    def path(self) -> str:
        return f"auth/{self._options.auth_mount or self._options.auth}/login"

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the login. Raises SourceDenied if a credential cannot be read."""
        return self._bodies[self._options.auth]()

    def _secret(self, reference: str) -> str:
        return str(read_secret(reference, self._context.paths).reveal())

    def _approle(self) -> dict[str, Any]:
        secret = self._options.secret_id_file
        return {"role_id": self._options.role_id, **({"secret_id": self._secret(secret)} if secret else {})}

    def _jwt(self, reference: str) -> dict[str, Any]:
        return {"role": self._options.role, "jwt": self._secret(reference)}

    def _kubernetes(self) -> dict[str, Any]:
        return self._jwt(self._options.jwt_file or "/var/run/secrets/kubernetes.io/serviceaccount/token")

    def _cert(self) -> dict[str, Any]:
        return {"name": self._options.role} if self._options.role else {}

    def _gcp(self) -> dict[str, Any]:
        role = self._options.role
        return {"role": role, "jwt": self._metadata.google_identity(f"vault/{role}").reveal()}

    def _azure(self) -> dict[str, Any]:
        instance = self._metadata.azure_instance()
        machine = {"vmss_name": instance["vmScaleSetName"]} if instance["vmScaleSetName"] else {"vm_name": instance["name"]}
        return {
            "role": self._options.role,
            "jwt": self._metadata.azure_token("https://management.azure.com/").reveal(),
            "subscription_id": instance["subscriptionId"],
            "resource_group_name": instance["resourceGroupName"],
            **machine,
        }

    def _aws(self) -> dict[str, Any]:
        """Return a signed sts:GetCallerIdentity, which Vault sends to AWS. It proves the role and allows nothing else."""
        optional.require("botocore", "vault", "aws", "python3-botocore")
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        role_credentials = self._metadata.aws_credentials()
        url, body = "https://sts.amazonaws.com/", "Action=GetCallerIdentity&Version=2011-06-15"
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Host": "sts.amazonaws.com"}
        request = AWSRequest(method="POST", url=url, data=body, headers=headers)
        keys = (role_credentials["access_key"], role_credentials["secret_key"], role_credentials["token"])
        credentials = Credentials(*keys)
        SigV4Auth(credentials, "sts", "us-east-1").add_auth(request)
        signed = json.dumps({name: [value] for name, value in request.headers.items()})
        return {
            "role": self._options.role,
            "iam_http_request_method": "POST",
            "iam_request_url": base64.b64encode(url.encode()).decode(),
            "iam_request_body": base64.b64encode(body.encode()).decode(),
            "iam_request_headers": base64.b64encode(signed.encode()).decode(),
        }

    def close(self) -> None:
        """Close the client of the metadata service."""
        self._metadata.close()


def read_token(options: VaultOptions, context: SourceContext) -> str:
    """Return the token in `token_file`, which another program renews. Raises SourceDenied."""
    token = str(read_secret(options.token_file, context.paths).reveal())
    if not token.isascii():
        raise SourceDenied("token_file holds characters that no token has")
    return token
