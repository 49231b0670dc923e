"""botocore's sessions and clients for the sources and sinks on AWS. boto3 is the extra `aws`.

botocore is imported at the first call: it costs 100 ms and more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import ParbakeError
from agent.net.credentials import resolve_path
from agent.net.tls import TlsFiles
from agent.paths import Paths

_DENIED = (
    "AccessDenied", "UnrecognizedClient", "InvalidClientTokenId", "ExpiredToken", "SignatureDoesNotMatch", "InvalidAccessKey",
    "InvalidSignature", "MissingAuthenticationToken", "AuthFailure", "RequestExpired", "OptInRequired", "KMSAccessDenied",
    "Forbidden", "401", "403",
)  # fmt: skip
"""The beginnings of the error codes for wrong or missing credentials and permissions; services add suffixes to them."""
_CHECKSUMS = "request_checksum_calculation"


def is_denied(code: str) -> bool:
    """Return whether the error code of an answer means wrong or missing credentials or permissions."""
    return code.startswith(_DENIED)


def new_session(credentials_file: Path | None = None) -> Any:
    """Return a botocore session.

    With `credentials_file` (the format of ~/.aws/credentials) the session reads that file and ignores the keys in the
    environment; otherwise it searches botocore's usual locations. Raises ImportError if boto3 is not installed.
    """
    import botocore.session

    session = botocore.session.Session()
    if credentials_file is not None:
        session.set_config_variable("credentials_file", str(credentials_file))
        session.get_component("credential_provider").remove("env")
    return session


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How a client reaches its service.

    `endpoint_url` is "" for the service's own address. `retries` is botocore's mapping of that name. `denied` is raised for
    a `credential:NAME` that does not exist.
    """

    region: str
    endpoint_url: str
    tls: TlsFiles
    paths: Paths
    denied: type[ParbakeError]
    connect_timeout_seconds: float
    read_timeout_seconds: float
    retries: Mapping[str, Any]
    user_agent_extra: str

    def new_client(self, session: Any, service: str) -> Any:
        """Return a client of `service` ("s3"), which keeps one connection. Raises `denied` and what botocore raises."""
        from botocore.config import Config

        # Newer versions of botocore add checksums that stores other than Amazon's do not understand.
        checksum_options = {_CHECKSUMS: "when_required"} if self.endpoint_url and _CHECKSUMS in Config.OPTION_DEFAULTS else {}
        return session.create_client(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint_url or None,
            verify=self._verify(),
            config=Config(
                connect_timeout=self.connect_timeout_seconds,
                read_timeout=self.read_timeout_seconds,
                retries=dict(self.retries),
                client_cert=self._certificate(),
                max_pool_connections=1,
                user_agent_extra=self.user_agent_extra,
                **checksum_options,
            ),
        )

    def _verify(self) -> str | bool | None:
        """Return the CA's file, False to accept any certificate, or None for the system's CAs."""
        if self.tls.insecure:
            return False
        return self._file(self.tls.ca_file) if self.tls.ca_file else None

    def _certificate(self) -> str | tuple[str, str] | None:
        """Return the client certificate's file, with the key's file if it is another."""
        if not self.tls.cert_file:
            return None
        certificate = self._file(self.tls.cert_file)
        return (certificate, self._file(self.tls.key_file)) if self.tls.key_file else certificate

    def _file(self, reference: str) -> str:
        return str(resolve_path(reference, self.paths, self.denied))
