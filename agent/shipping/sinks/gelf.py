"""`gelf`: Graylog's format over TCP or TLS (null-delimited), UDP (compressed, chunked) or HTTP.

Source: go2docs.graylog.org, "GELF via UDP/TCP/HTTP", GELF 1.1.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, Column, SendResult, SinkContext, SinkTooLarge
from agent.shipping.json_lines import JsonFields, joined, literal, seconds
from agent.shipping.sinks.connection_base import Transport, check_stream_url
from agent.shipping.sinks.http_base import Poster, WebOptions
from agent.shipping.sinks.stream_base import open_connection

_CHUNK_BYTES = 1420
_CHUNKS_MAX = 128
_PORT = 12201
_STANDARD_FIELDS = frozenset(("MESSAGE", "PRIORITY", "_HOSTNAME"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GelfOptions(WebOptions):
    url: str = setting("tcp://, tls:// or udp://HOST:12201, or http(s)://HOST:12201/gelf")
    bulk: bool = setting("send a batch as lines in one HTTP request: Graylog 5.2 on, with bulk receiving enabled", False)

    def __post_init__(self) -> None:
        if _is_http(self.url):
            WebOptions.__post_init__(self)
        else:
            check_stream_url(self.url)
            names = ("token_file", "username", "password_file", "headers_file", "bulk")
            if given := [name for name in names if getattr(self, name)]:
                raise ValueError(f"{', '.join(given)}: for http:// and https:// only; GELF over TCP and UDP has no such option")


class GelfSink:
    """Sends each entry as one message, over HTTP or over a connection without acknowledgements."""

    options_class = GelfOptions
    wants_ids = False

    def __init__(self, options: GelfOptions, context: SinkContext) -> None:
        self._options = options
        self._json = JsonFields()
        self._names: dict[str, str] = {}
        is_http = _is_http(options.url)
        self._loop_marker = "" if is_http else context.loop_marker  # over HTTP it is in a header
        self._poster = Poster(options, context) if is_http else None
        ports = dict.fromkeys(Transport, _PORT)
        self._connection = None if is_http else open_connection(options.url, ports, options, options.timeout, context)

    def send(self, batch: Batch) -> SendResult:
        messages = [message.encode() for message in self._messages(batch)]
        if self._connection is not None:
            is_udp = self._connection.transport == Transport.UDP
            return self._connection.send([c for m in messages for c in _chunks(m)] if is_udp else [m + b"\0" for m in messages])
        assert self._poster is not None
        if not self._options.bulk:
            return self._one_by_one(messages, self._poster)
        self._poster.post(b"\n".join(messages), "application/json")
        return ACCEPTED

    def _one_by_one(self, messages: Sequence[bytes], poster: Poster) -> SendResult:
        """Post one request per entry, so that each entry has its own answer and none is repeated because of another."""
        refused: list[tuple[int, str]] = []
        for number, message in enumerate(messages):
            try:
                poster.post(message, "application/json")
            except SinkRefused as error:
                if len(messages) == 1:
                    raise
                refused.append((number, str(error)))
            except (SinkUnavailable, SinkDenied) as error:
                if not number:
                    raise
                after = getattr(error, "retry_after_seconds", None)
                return SendResult(refused, range(number, len(messages)), retry_after_seconds=after)
        return SendResult(refused)

    def close(self) -> None:
        for peer in (self._poster, self._connection):
            if peer is not None:
                peer.close()

    def _messages(self, batch: Batch) -> Iterator[str]:
        """Yield each entry as JSON. GELF requires a host and a short_message that are not empty, and "_" before other names."""
        labels = "".join(f",{literal(_name(name))}:{literal(value)}" for name, value in batch.labels.items())
        labels += f',"_parbake_mark":{literal(self._loop_marker)}' if self._loop_marker else ""
        # A trusted field, with its underscore, comes after an application's field of that name and so replaces it.
        names = sorted(batch.columns, key=lambda name: name.startswith("_"))
        columns = {_name(name): batch.columns[name] for name in names if name not in _STANDARD_FIELDS}
        blank = [None] * len(batch)
        more = [fragment for name, column in columns.items() for fragment in self._json.members(name, column)]
        heads = zip(
            seconds(batch.times),
            self._json.literals(_filled(batch.columns.get("_HOSTNAME", blank), b"unknown")),
            self._json.literals(_filled(batch.columns.get("MESSAGE", blank), b"-")),
            batch.columns.get("PRIORITY", blank),
            joined(more, len(batch)),
            strict=False,
        )
        for when, host, text, priority, rest in heads:
            level = priority.decode() if priority in (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7") else "6"
            yield (f'{{"version":"1.1","host":{host},"short_message":{text},"timestamp":{when},"level":{level}{rest}{labels}}}')


def _is_http(url: str) -> bool:
    return url.partition(":")[0] in ("http", "https")


def _filled(column: Column, default: bytes) -> Column:
    return [value if value and value.strip() else default for value in column]


def _name(name: str) -> str:
    """Return the name of an additional field. It is never empty, and never `_id`, which Graylog reserves."""
    name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip("_").lower()
    return f"_{name}_" if name in ("", "id") else f"_{name}"


def _chunks(message: bytes) -> list[bytes]:
    """Return the datagrams of a message: one, or several with a common id. Raises SinkTooLarge for more than 128."""
    packed = zlib.compress(message, 1)
    if len(packed) <= _CHUNK_BYTES:
        return [packed]
    pieces = [packed[i : i + _CHUNK_BYTES] for i in range(0, len(packed), _CHUNK_BYTES)]
    if len(pieces) > _CHUNKS_MAX:
        raise SinkTooLarge("an entry is larger than 128 GELF chunks")
    name = os.urandom(8)
    return [b"\x1e\x0f" + name + bytes((i, len(pieces))) + piece for i, piece in enumerate(pieces)]
