"""`syslog`: RFC 5424 messages over TCP with octet counting (RFC 6587), over TLS (RFC 5425) or over UDP (RFC 5426)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.settings.schema import setting
from agent.shipping import Batch, SendResult, SinkContext
from agent.shipping.json_lines import timestamps
from agent.shipping.sinks.connection_base import StreamOptions, Transport, check_stream_url
from agent.shipping.sinks.stream_base import open_connection

_ID = "parbake@32473"
"""The SD-ID. 32473 is the enterprise number for examples (RFC 5612); parbake has no enterprise number."""
_PORTS = {Transport.TCP: 601, Transport.TLS: 6514, Transport.UDP: 514}
_HEADER_FIELDS = frozenset(("MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "_HOSTNAME", "SYSLOG_IDENTIFIER", "_PID", "MESSAGE_ID"))
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
    facility: FacilityName = setting("the facility of entries without one", "user")

    def __post_init__(self) -> None:
        check_stream_url(self.url)


class SyslogSink:
    """Sends each entry as one message. Receivers of syslog do not acknowledge; see `agent.shipping.sinks.stream_base`."""

    options_class = SyslogOptions
    wants_ids = False

    def __init__(self, options: SyslogOptions, context: SinkContext) -> None:
        self._connection = open_connection(options.url, _PORTS, options, options.timeout, context)
        self._octet_counting = self._connection.transport != Transport.UDP
        name = options.facility
        self._facility = 16 + int(name[-1]) if name.startswith("local") else _FACILITIES.index(name)
        self._loop_marker = context.loop_marker

    def send(self, batch: Batch) -> SendResult:
        labels = "".join(_parameter(name, value) for name, value in batch.labels.items())
        labels += _parameter("origin", self._loop_marker) if self._loop_marker else ""
        messages = [self._message(stamp, row, labels) for stamp, row in zip(timestamps(batch.times), batch.rows(), strict=True)]
        return self._connection.send([b"%d %b" % (len(m), m) for m in messages] if self._octet_counting else messages)

    def close(self) -> None:
        self._connection.close()

    def _message(self, stamp: str, row: Mapping[str, str], labels: str) -> bytes:
        priority, facility = row.get("PRIORITY", "6"), row.get("SYSLOG_FACILITY", "")
        severity = int(priority) if priority in _SEVERITIES else 6
        number = int(facility) if facility in _FACILITY_NUMBERS else self._facility
        header = " ".join(
            (
                f"<{number * 8 + severity}>1",
                stamp,
                _word(row.get("_HOSTNAME", ""), 255),
                _word(row.get("SYSLOG_IDENTIFIER") or row.get("_COMM") or row.get("FILE", ""), 48),
                _word(row.get("_PID", ""), 128),
                _word(row.get("MESSAGE_ID", ""), 32),
            )
        )
        more = "".join(_parameter(name.lstrip("_"), value) for name, value in row.items() if name not in _HEADER_FIELDS)
        elements = f"[{_ID}{labels}{more}]" if labels or more else "-"
        return f"{header} {elements} {row.get('MESSAGE', '')}".encode()


def _word(text: str, length_max: int) -> str:
    """Return a value of the header: printable ASCII without spaces, "-" if it is empty."""
    return _UNPRINTABLE.sub("_", text)[:length_max] or "-"


def _parameter(name: str, value: str) -> str:
    """Return a parameter of the structured data, with a space in front."""
    name = re.sub(r'[^\x21-\x7e]|[="\]]', "_", name)[:32]
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return f' {name}="{escaped}"'
