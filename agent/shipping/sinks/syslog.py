"""`syslog`: RFC 5424 messages over TCP with octet counting (RFC 6587), TLS (RFC 5425), or UDP (RFC 5426) by request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.settings.schema import setting
from agent.shipping import Batch, SendResult, SinkContext
from agent.shipping.json_lines import timestamps
from agent.shipping.sinks.stream_base import Stream, StreamOptions, check_stream_url

_ID = "parbake@32473"
"""The SD-ID. 32473 is the enterprise number that RFC 5612 sets aside for examples; ours is none."""
_PORTS = {"tcp": 601, "tls": 6514, "udp": 514}
_HEAD_FIELDS = frozenset(("MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "_HOSTNAME", "SYSLOG_IDENTIFIER", "_PID", "MESSAGE_ID"))
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_SEVERITIES = frozenset("01234567")
_FACILITY_NUMBERS = frozenset(map(str, range(24)))
_FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
FacilityName = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogOptions(StreamOptions):
    url: str = setting("tcp://HOST:601, tls://HOST:6514 or udp://HOST:514; over UDP lines are lost without notice")
    facility: FacilityName = setting("the facility of entries that have none", "user")

    def __post_init__(self) -> None:
        check_stream_url(self.url, ("tcp", "tls", "udp"))


class SyslogSink:
    """No receiver acknowledges syslog: see agent.shipping.sinks.stream_base for what that costs."""

    options_class: ClassVar[type[Any]] = SyslogOptions
    wants_ids: ClassVar[bool] = False

    def __init__(self, options: SyslogOptions, context: SinkContext) -> None:
        scheme = options.url.partition(":")[0]
        self._stream = Stream(options.url, _PORTS[scheme], options, options.timeout, context)
        self._counted = scheme != "udp"
        name = options.facility
        self._facility = 16 + int(name[-1]) if name.startswith("local") else _FACILITIES.index(name)
        self._mark = context.mark

    def send(self, batch: Batch) -> SendResult:
        labels = "".join(_parameter(name, value) for name, value in batch.labels.items())
        labels += _parameter("origin", self._mark) if self._mark else ""
        messages = [self._message(stamp, row, labels) for stamp, row in zip(timestamps(batch.times), batch.rows(), strict=True)]
        return self._stream.send([b"%d %b" % (len(m), m) for m in messages] if self._counted else messages)

    def close(self) -> None:
        self._stream.close()

    def _message(self, stamp: str, row: Mapping[str, str], labels: str) -> bytes:
        priority, facility = row.get("PRIORITY", "6"), row.get("SYSLOG_FACILITY", "")
        severity = int(priority) if priority in _SEVERITIES else 6
        number = int(facility) if facility in _FACILITY_NUMBERS else self._facility
        head = " ".join(
            (
                f"<{number * 8 + severity}>1",
                stamp,
                _word(row.get("_HOSTNAME", ""), 255),
                _word(row.get("SYSLOG_IDENTIFIER") or row.get("_COMM") or row.get("FILE", ""), 48),
                _word(row.get("_PID", ""), 128),
                _word(row.get("MESSAGE_ID", ""), 32),
            )
        )
        more = "".join(_parameter(name.lstrip("_"), value) for name, value in row.items() if name not in _HEAD_FIELDS)
        elements = f"[{_ID}{labels}{more}]" if labels or more else "-"
        return f"{head} {elements} {row.get('MESSAGE', '')}".encode()


def _word(text: str, most: int) -> str:
    return _UNPRINTABLE.sub("_", text)[:most] or "-"


def _parameter(name: str, value: str) -> str:
    name = re.sub(r'[^\x21-\x7e]|[="\]]', "_", name)[:32]
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return f' {name}="{escaped}"'
