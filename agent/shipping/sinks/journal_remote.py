"""`journal-remote`: the journal export format to systemd-journal-remote over HTTP or HTTPS.

Source: systemd.io, "Journal Export Formats"; systemd-journal-remote(8).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.sinks.http_base import Poster, WebOptions

_PATH = "/upload"
_MEDIA_TYPE = "application/vnd.fdo.journal"
_PLAIN = re.compile(rb"[\x20-\x7e\x80-\xff\t]*")
_NAME_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRemoteOptions(WebOptions):
    url: str = setting("https://HOST:19532")
    gzip: bool = setting("compress what is sent; systemd-journal-remote before 257 does not accept that", False)


class JournalRemoteSink:
    """Posts each batch. With `fields = ["*"]` entries arrive complete. Labels become fields with names in capital letters."""

    options_class = JournalRemoteOptions
    wants_ids = False

    def __init__(self, options: JournalRemoteOptions, context: SinkContext) -> None:
        self._url = options.url.rstrip("/")
        self._url += "" if self._url.endswith(_PATH) else _PATH
        self._poster = Poster(options, context)

    def send(self, batch: Batch) -> SendResult:
        labels = b"".join(_field(_name(name), value.encode()) for name, value in batch.labels.items())
        columns = [(_name(name), column) for name, column in batch.columns.items()]
        parts = []
        for number, moment in enumerate(batch.times):
            parts.append(b"__REALTIME_TIMESTAMP=%d\n" % moment)
            parts += [_field(name, value) for name, column in columns if (value := column[number]) is not None]
            parts.append(labels + b"\n")
        self._poster.post(b"".join(parts), _MEDIA_TYPE, url=self._url)
        return ACCEPTED

    def close(self) -> None:
        self._poster.close()


def _field(name: bytes, value: bytes) -> bytes:
    if _PLAIN.fullmatch(value):
        return b"%b=%b\n" % (name, value)
    return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


def _name(name: str) -> bytes:
    """Return a valid name of a journal field: capital letters, digits and underscores, not a digit first."""
    plain = re.sub(r"[^A-Z0-9_]", "_", name.upper())[:_NAME_MAX]
    return (plain if not plain[:1].isdigit() else f"F{plain}"[:_NAME_MAX]).encode()
