"""The TLS options that every backend and sink over TLS has, flat among its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agent.schema import setting

log = logging.getLogger("parbake")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """Inherit from it: `class ConsulOptions(TlsOptions)`."""

    ca_file: str = setting("PEM file of the CA that signed the server's certificate; default: the system's CAs", "")
    cert_file: str = setting("PEM file of the client certificate, with its key where key_file is not set", "")
    key_file: str = setting("PEM file of the client certificate's key, or credential:NAME", "")
    server_name: str = setting("the name that the server's certificate must have; default: the address's host", "")
    insecure: bool = setting("accept any certificate: whoever is in between can read and change everything", False)

    def warn(self) -> None:
        """Say at every start that nobody checks who answers."""
        if self.insecure:
            log.warning("insecure = true: the server's certificate is not checked; who is in between can change all")
