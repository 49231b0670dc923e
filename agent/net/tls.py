"""The TLS options that every backend and sink over TLS has, flat among its own."""

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
    """What every library that speaks TLS can be told."""

    ca_file: str = setting("PEM file of the CA that signed the server's certificate; default: the system's CAs", "")
    cert_file: str = setting("PEM file of the client certificate, with its key where key_file is not set", "")
    key_file: str = setting("PEM file of the client certificate's key, or credential:NAME", "")
    insecure: bool = setting("accept any certificate: whoever is in between can read and change everything", False)

    def warn(self) -> None:
        """Say at every start that nobody checks who answers."""
        if self.insecure:
            log.warning("insecure = true: the server's certificate is not checked; who is in between can change all")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions(TlsFiles):
    """Inherit from it: `class ConsulOptions(TlsOptions)`."""

    server_name: str = setting("the name that the server's certificate must have; default: the address's host", "")

    def ssl_context(
        self,
        paths: Paths,
        unreachable: type[ParbakeError] = SourceUnreachable,
        denied: type[ParbakeError] = SourceDenied,
    ) -> ssl.SSLContext:
        """These options for protocols that are not HTTP. Raises `unreachable` where a file is missing or no PEM."""
        try:
            ca = str(resolve_path(self.ca_file, paths, denied)) if self.ca_file else None
            context = ssl.create_default_context(cafile=ca)
            if self.cert_file:
                key = str(resolve_path(self.key_file, paths, denied)) if self.key_file else None
                context.load_cert_chain(str(resolve_path(self.cert_file, paths, denied)), key)
        except OSError as error:  # ssl.SSLError is one
            raise unreachable(f"ca_file, cert_file or key_file: {error.strerror or 'no PEM'}") from None
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
