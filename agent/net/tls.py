"""The TLS options of all backends and sinks that use TLS."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass

from agent.errors import ParbakeError, SourceDenied, SourceUnreachable
from agent.net.credentials import resolve_path
from agent.paths import Paths
from agent.settings.schema import setting

log = logging.getLogger("parbake")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The options that every TLS library supports."""

    ca_file: str = setting("PEM file of the CA that signed the server's certificate; default: the system's CAs", "")
    cert_file: str = setting("PEM file of the client certificate, with its key if key_file is not set", "")
    key_file: str = setting("PEM file of the client certificate's key, or credential:NAME", "")
    insecure: bool = setting("accept any certificate: a machine in the middle can read and change all traffic", False)

    def warn(self) -> None:
        """Log a warning if the certificate is not checked. Call it at every start."""
        if self.insecure:
            log.warning(
                "insecure = true: the server's certificate is not checked; a machine in the middle can change everything"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions(TlsFiles):
    """The options of a backend or sink inherit from this: `class ConsulOptions(TlsOptions)`."""

    server_name: str = setting("the name that the server's certificate must have; default: the address's host", "")

    def ssl_context(
        self,
        paths: Paths,
        unreachable: type[ParbakeError] = SourceUnreachable,
        denied: type[ParbakeError] = SourceDenied,
    ) -> ssl.SSLContext:
        """Return an SSL context for protocols other than HTTP.

        Raises `unreachable` if a file is missing or not PEM, and `denied` for an invalid credential reference.
        """
        try:
            ca = str(resolve_path(self.ca_file, paths, denied)) if self.ca_file else None
            context = ssl.create_default_context(cafile=ca)
            if self.cert_file:
                key = str(resolve_path(self.key_file, paths, denied)) if self.key_file else None
                context.load_cert_chain(str(resolve_path(self.cert_file, paths, denied)), key)
        except OSError as error:  # ssl.SSLError is one
            raise unreachable(f"ca_file, cert_file or key_file: {error.strerror or 'not PEM'}") from None
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
