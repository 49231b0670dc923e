"""The table of sinks: `type` in [[sink]] to the class. Only the modules of configured sinks are imported."""

from __future__ import annotations

from typing import cast

from agent.settings import plugins
from agent.shipping import Sink

SINKS: dict[str, str] = {
    "file": "agent.shipping.sinks.file:FileSink",
    "stdout": "agent.shipping.sinks.stdout:StdoutSink",
    "http": "agent.shipping.sinks.http:HttpSink",
    "loki": "agent.shipping.sinks.loki:LokiSink",
    "elasticsearch": "agent.shipping.sinks.elasticsearch:ElasticsearchSink",
    "otlp": "agent.shipping.sinks.otlp:OtlpSink",
    "splunk-hec": "agent.shipping.sinks.splunk:SplunkSink",
    "syslog": "agent.shipping.sinks.syslog:SyslogSink",
    "journal-remote": "agent.shipping.sinks.journal_remote:JournalRemoteSink",
    "gelf": "agent.shipping.sinks.gelf:GelfSink",
    "cloudwatch": "agent.shipping.sinks.cloudwatch:CloudwatchSink",
    "s3": "agent.shipping.sinks.s3:S3Sink",
}


def load_sink(kind: str) -> type[Sink[object]]:
    """Return the class for a `type` in [[sink]]: a name of the table, or "module:Class" of a third party.

    The loader of the settings has built the options of [[sink]] with the `options_class` of the same class. Raises
    SettingsError if there is no such class.
    """
    return cast("type[Sink[object]]", plugins.load(SINKS, kind, "type"))
