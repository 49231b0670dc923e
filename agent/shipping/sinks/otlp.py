"""`otlp`: OpenTelemetry logs over HTTP, in JSON.

Sources: opentelemetry.io, "OTLP Specification" (JSON mapping: 64-bit integers are strings), "Logs Data Model" (severity of
syslog), "Semantic Conventions" (attribute names).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent import __version__
from agent.errors import SinkUnavailable
from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import literal
from agent.shipping.sinks.http_base import Poster, WebOptions, excerpt

_PATH = "/v1/logs"
_SEVERITY = {"0": 21, "1": 19, "2": 18, "3": 17, "4": 13, "5": 10, "6": 9, "7": 5}
_SEVERITY_TEXT = {"0": "emerg", "1": "alert", "2": "crit", "3": "err", "4": "warning", "5": "notice", "6": "info", "7": "debug"}
_FIELDS = {
    "_HOSTNAME": "host.name",
    "_PID": "process.pid",
    "_UID": "process.user.id",
    "_COMM": "process.executable.name",
    "_EXE": "process.executable.path",
    "_CMDLINE": "process.command_line",
    "_MACHINE_ID": "host.id",
    "_SYSTEMD_UNIT": "systemd.unit",
    "SYSLOG_IDENTIFIER": "syslog.identifier",
    "FILE": "log.file.path",
    "CODE_FILE": "code.file.path",
    "CODE_LINE": "code.line.number",
    "CODE_FUNC": "code.function.name",
}
_RESOURCE = {
    "component": "service.name",
    "version": "service.version",
    "environment": "deployment.environment.name",
    "instance": "service.instance.id",
    "instance_id": "service.instance.id",
    "region": "cloud.region",
    "zone": "cloud.availability_zone",
    "platform": "cloud.provider",
    "account_id": "cloud.account.id",
    "image_id": "host.image.id",
    "instance_type": "host.type",
}
_NOT_ATTRIBUTES = frozenset(("MESSAGE", "PRIORITY"))
_NUMBERS = frozenset(("process.pid", "process.user.id", "code.line.number"))
_WHOLE = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpOptions(WebOptions):
    service_name: str = setting("the resource's service.name if no label gives it", "{{ build.component }}")


class OtlpSink:
    """Posts each batch as one ExportLogsServiceRequest."""

    options_class = OtlpOptions
    wants_ids = False

    def __init__(self, options: OtlpOptions, context: SinkContext) -> None:
        self._options = options
        self._url = options.url.rstrip("/")
        self._url += "" if self._url.endswith(_PATH) else _PATH
        self._poster = Poster(options, context)
        self._memo: dict[tuple[str, str], str] = {}

    def send(self, batch: Batch) -> SendResult:
        reply = self._poster.post(self._body(batch).encode(), "application/json", url=self._url)
        try:
            partial = json.loads(reply.body or b"{}").get("partialSuccess") or {}
            rejected = int(partial.get("rejectedLogRecords") or 0)
            reason = excerpt(str(partial.get("errorMessage") or "").encode())
        except (ValueError, AttributeError, TypeError):
            return ACCEPTED  # a 2xx that is not JSON: protobuf, or a proxy's page
        except (OverflowError, RecursionError):
            raise SinkUnavailable(f"{reply.url} answers with invalid JSON") from None
        return SendResult(dropped=min(rejected, len(batch)), reason=reason) if rejected > 0 else ACCEPTED

    def close(self) -> None:
        self._poster.close()

    def _body(self, batch: Batch) -> str:
        resource = {_RESOURCE.get(name, name): value for name, value in batch.labels.items()}
        resource.setdefault("service.name", self._options.service_name)
        observed = time.time_ns()
        records = ",".join(self._record(m, observed, row) for m, row in zip(batch.times, batch.rows(), strict=True))
        scope = f'{{"name":"parbake","version":"{__version__}"}}'
        attributes = self._attributes(resource.items())
        return (
            f'{{"resourceLogs":[{{"resource":{{"attributes":[{attributes}]}},'
            f'"scopeLogs":[{{"scope":{scope},"logRecords":[{records}]}}]}}]}}'
        )

    def _record(self, moment_us: int, observed_ns: int, row: Mapping[str, str]) -> str:
        priority = row.get("PRIORITY", "")
        severity = ""
        if priority in _SEVERITY:
            severity = f'"severityNumber":{_SEVERITY[priority]},"severityText":"{_SEVERITY_TEXT[priority]}",'
        # Keys are unique: a trusted field, with its underscore, replaces an application's field of that name.
        named = {
            _FIELDS.get(name) or f"journald.{name.lower().lstrip('_')}": row[name]
            for name in sorted(row, key=_is_trusted)
            if name not in _NOT_ATTRIBUTES
        }
        attributes = self._attributes(named.items())
        return (
            f'{{"timeUnixNano":"{moment_us}000","observedTimeUnixNano":"{observed_ns}",{severity}'
            f'"body":{{"stringValue":{literal(row.get("MESSAGE", ""))}}},"attributes":[{attributes}]}}'
        )

    def _attributes(self, pairs: Iterable[tuple[str, str]]) -> str:
        memo = self._memo
        if len(memo) > 20_000:
            memo.clear()
        attributes = []
        for pair in pairs:
            text = memo.get(pair)
            if text is None:
                name, value = pair
                whole = name in _NUMBERS and _WHOLE.fullmatch(value)
                typed = f'"intValue":"{value}"' if whole else f'"stringValue":{literal(value)}'
                text = memo[pair] = f'{{"key":{literal(name)},"value":{{{typed}}}}}'
            attributes.append(text)
        return ",".join(attributes)


def _is_trusted(name: str) -> bool:
    return name.startswith("_")
