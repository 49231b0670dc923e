"""The base of connections to receivers that give no acknowledgement: options, addresses, errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from agent.errors import SinkDenied, SinkUnavailable
from agent.net.sockets import describe_network_error
from agent.net.tls import TlsOptions
from agent.settings.schema import Seconds, setting
from agent.shipping import SinkContext


class Transport(StrEnum):
    """The scheme of a URL."""

    TCP = "tcp"
    TLS = "tls"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions(TlsOptions):
    """Options of sinks over TCP, TLS or UDP."""

    timeout: Seconds = setting("how long connecting, or sending one batch, may take", Seconds(15.0))


def check_stream_url(url: str) -> None:
    """Check the `url` of an options class. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url is not a URL: {error}") from None
    if parts.scheme not in tuple(Transport) or not host or parts.path.strip("/") or "@" in parts.netloc:
        forms = " or ".join(f"{transport}://HOST:PORT" for transport in Transport)
        raise ValueError(f'url "{url}" must be {forms}')


class Connection:
    """The address of a receiver, and its errors."""

    def __init__(self, url: str, default_port: int, tls: TlsOptions, timeout_seconds: float, context: SinkContext) -> None:
        parts = urlsplit(url)
        self.transport = Transport(parts.scheme)
        self._host, self._port = parts.hostname or "", parts.port or default_port
        self._shown_url = f"{parts.scheme}://{parts.netloc}"
        self._tls, self._timeout_seconds, self._context = tls, timeout_seconds, context
        tls.warn()

    def _remaining_seconds(self) -> float:
        """Return the time-out of an operation, shortened while the shipper drains."""
        return max(0.5, self._context.stop.clamp(self._timeout_seconds))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the errors of sockets and TLS into SinkUnavailable and SinkDenied."""
        try:
            yield
        except UnicodeError:
            option = "server_name" if self._tls.server_name else "url"
            message = f"{self._shown_url}: {option} contains an invalid host name"
            raise SinkDenied(message, hint=f"correct {option} of the sink") from None
        except OSError as error:
            text, hint = _describe(error)
            raise SinkUnavailable(f"{self._shown_url}: {text}", hint=hint) from None


def _describe(error: OSError) -> tuple[str, str | None]:
    """Return a description of the error for an operator, and a hint."""
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        alert = str(error.reason).rpartition("ALERT_")[2].lower().replace("_", " ")
        return f"it ended the TLS connection: {alert}", "see its log, and check cert_file and key_file"
    return describe_network_error(error) or (str(error.args[0]) if error.args else "it closed the connection", None)
