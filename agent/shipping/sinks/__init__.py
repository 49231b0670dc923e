"""The table of sinks: `type` in [[sink]] -> the class. Only the modules of configured sinks are imported."""

from __future__ import annotations

SINKS: dict[str, str] = {
    "file": "agent.shipping.sinks.file:FileSink",
    "http": "agent.shipping.sinks.http:HttpSink",
}
