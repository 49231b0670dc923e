"""`gelf`: Graylog's format over TCP or TLS (null-delimited), UDP (compressed, chunked) or HTTP.

Source: go2docs.graylog.org, "GELF via UDP/TCP/HTTP", GELF 1.1.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, Column, SendResult, SinkContext, SinkTooLarge
from agent.shipping.json_lines import JsonFields, joined, literal, seconds
from agent.shipping.sinks.http_base import Poster, WebOptions
from agent.shipping.sinks.stream_base import Stream, check_stream_url

_CHUNK_BYTES = 1420
_CHUNKS_MAX = 128
_WEB = ("http", "https")
_OWN_PLACE = frozenset(("MESSAGE", "PRIORITY", "_HOSTNAME"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GelfOptions(WebOptions):
    url: str = setting("tcp://, tls:// or udp://HOST:12201, or http(s)://HOST:12201/gelf")
    bulk: bool = setting("send a batch as lines in one HTTP request: Graylog 5.2 on, with bulk receiving enabled", False)

    def __post_init__(self) -> None:
        if self.url.partition(":")[0] in _WEB:
            WebOptions.__post_init__(self)
        else:
            check_stream_url(self.url, ("tcp", "tls", "udp"))
            names = ("token_file", "username", "password_file", "headers_file", "bulk")
            if given := [name for name in names if getattr(self, name)]:
                raise ValueError(f"{', '.join(given)}: for http:// and https:// only; GELF over TCP and UDP has no such thing")


class GelfSink:
    options_class: ClassVar[type[Any]] = GelfOptions
    wants_ids: ClassVar[bool] = False

    def __init__(self, options: GelfOptions, context: SinkContext) -> None:
        self._options = options
        self._json = JsonFields()
        self._names: dict[str, str] = {}
        web = options.url.partition(":")[0] in _WEB
        self._mark = "" if web else context.mark  # over HTTP it is in a header
        self._poster = Poster(options, context) if web else None
        self._stream = None if web else Stream(options.url, 12201, options, options.timeout, context)

    def send(self, batch: Batch) -> SendResult:
        messages = [message.encode() for message in self._messages(batch)]
        if self._stream is not None:
            udp = self._stream.scheme == "udp"
            return self._stream.send([c for m in messages for c in _chunks(m)] if udp else [m + b"\0" for m in messages])
        assert self._poster is not None
        if not self._options.bulk:
            return self._one_by_one(messages, self._poster)
        self._poster.post(b"\n".join(messages), "application/json")
        return ACCEPTED

    def _one_by_one(self, messages: Sequence[bytes], poster: Poster) -> SendResult:
        """One request an entry, so that each has an answer of its own and none is repeated for another's sake."""
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
        for peer in (self._poster, self._stream):
            if peer is not None:
                peer.close()

    def _messages(self, batch: Batch) -> Iterator[str]:
        """GELF wants a host and a short_message that are not empty, and further fields that begin with "_"."""
        labels = "".join(f",{literal(_name(name))}:{literal(value)}" for name, value in batch.labels.items())
        labels += f',"_parbake_mark":{literal(self._mark)}' if self._mark else ""
        # A trusted field, with its underscore, comes after an application's own of that name, and so in its place.
        names = sorted(batch.columns, key=lambda name: name.startswith("_"))
        columns = {_name(name): batch.columns[name] for name in names if name not in _OWN_PLACE}
        blank = [None] * len(batch)
        more = [piece for name, column in columns.items() for piece in self._json.members(name, column)]
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


def _filled(column: Column, default: bytes) -> Column:
    return [value if value and value.strip() else default for value in column]


def _name(name: str) -> str:
    """A further field's name, never empty; `_id` is Graylog's own."""
    name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip("_").lower()
    return f"_{name}_" if name in ("", "id") else f"_{name}"


def _chunks(message: bytes) -> list[bytes]:
    """A datagram, or several with a common id. Raises SinkTooLarge beyond 128."""
    packed = zlib.compress(message, 1)
    if len(packed) <= _CHUNK_BYTES:
        return [packed]
    pieces = [packed[i : i + _CHUNK_BYTES] for i in range(0, len(packed), _CHUNK_BYTES)]
    if len(pieces) > _CHUNKS_MAX:
        raise SinkTooLarge("an entry is larger than 128 GELF chunks")
    name = os.urandom(8)
    return [b"\x1e\x0f" + name + bytes((i, len(pieces))) + piece for i, piece in enumerate(pieces)]
