"""The table of sinks: `type` in [[sink]] -> the class. Only the modules of configured sinks are imported."""

from __future__ import annotations

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
