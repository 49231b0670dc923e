"""UDP to a receiver: one datagram per message, which may be lost without notice."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from agent.shipping import SendResult
from agent.shipping.sinks.connection_base import Connection


class DatagramConnection(Connection):
    """Looks the host up at the first batch, and again after an error."""

    _socket: socket.socket | None = None

    def send(self, datagrams: Sequence[bytes]) -> SendResult:
        """Send each datagram. Those that are too large for UDP are refused. Raises SinkUnavailable or SinkDenied."""
        refused = []
        with self._translated():
            try:
                connected = self._socket or self._connect()
                for number, datagram in enumerate(datagrams):
                    try:
                        connected.send(datagram)
                    except OSError as error:
                        if error.errno != errno.EMSGSIZE:
                            raise
                        refused.append((number, f"{len(datagram)} bytes are more than a datagram holds"))
            except (UnicodeError, OSError):
                self.close()
                raise
        return SendResult(refused)

    def _connect(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.settimeout(self._remaining_seconds())
        self._socket.connect(address)
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
