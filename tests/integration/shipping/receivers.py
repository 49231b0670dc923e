"""A receiver for each sink of the table. The contract suite sends to it and reads back."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.schema import Problems, read
from agent.settings.source_lines import Location
from agent.shipping import Batch, Column, OpenSink, SinkContext
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.delivery import Delivery
from agent.shipping.shutdown import Stop
from agent.shipping.sinks import load_sink
from agent.shipping.status_file import PipelineStatus
from tests.servers import log_receivers as fakes
from tests.servers.faulty import Certificates
from tests.servers.journal_directory import WRITER
from tests.servers.log_receivers import HttpReceiver, Stored, TcpReceiver
from tests.servers.processes import Child, free_port, wait_until

TOKEN = "token-5f1c9b0e77"


@dataclass
class Target:
    """A running receiver. `messages()` returns its stored messages, `label(name)` its name of a label."""

    options: Mapping[str, Any]
    messages: Callable[[], list[str]]
    rows: Callable[[], list[dict[str, str]]]
    label: Callable[[str], str] = str
    web: HttpReceiver | None = None
    """The scripted server behind it, if a test can choose its status."""
    complaints: list[str] = field(default_factory=list)
    binary: bool = True
    """Whether it keeps line ends and empty messages unchanged."""


def make(kind: str, options: Mapping[str, Any], root: Path, stop: Stop | None = None) -> OpenSink:
    """Make a sink as the settings would. Raises AssertionError for options that it does not have."""
    cls = load_sink(kind)
    problems = Problems()
    found = read(cls.options_class, dict(options), Location(kind), problems)
    assert not problems.messages, problems.messages
    return cls(found, SinkContext(kind, Paths(root), stop or Stop(), "parbake-mark0123"))


def _web(take: Callable[[Stored], Any], path: str = "", **options: Any) -> Callable[[Path], Any]:
    @contextmanager
    def open_target(root: Path) -> Iterator[Target]:
        stored = Stored()
        server = HttpReceiver(take(stored))
        (root / "token").write_text(TOKEN + "\n")
        try:
            yield Target(
                {"url": server.url + path, "timeout": "3s", **options},
                lambda: stored.messages,
                lambda: [row for _, row in stored.rows],
                web=server,
                complaints=server.complaints,
            )
        finally:
            server.close()

    return open_target


@contextmanager
def _file(root: Path) -> Iterator[Target]:
    def rows() -> list[dict[str, str]]:
        path = root / "out.log"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    yield Target({"path": "/out.log"}, lambda: [row["MESSAGE"] for row in rows()], rows)


_STREAMS = {"gelf": (fakes.null_delimited, fakes.gelf_message), "syslog": (fakes.octet_counted, fakes.syslog_message)}


def stream_target(kind: str) -> Callable[[Path], Any]:
    """The strict receiver of a protocol over TCP."""
    split, take = _STREAMS[kind]

    @contextmanager
    def open_target(root: Path) -> Iterator[Target]:
        stored = Stored()
        server = TcpReceiver(split, lambda frame: take(frame, stored))
        try:
            yield Target(
                {"url": f"tcp://127.0.0.1:{server.port}", "timeout": "3s"},
                lambda: stored.messages,
                lambda: [row for _, row in stored.rows],
                complaints=server.complaints,
            )
        finally:
            server.close()

    return open_target


@contextmanager
def udp(take: Callable[[bytes], None]) -> Iterator[int]:
    """A datagram listener; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind(("127.0.0.1", 0))

        def listen() -> None:
            while text := server.recv(65536):
                take(text)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", server.getsockname())
        thread.join(5)


@contextmanager
def journal_remote(root: Path, certificates: Certificates | None = None) -> Iterator[Target]:
    """systemd-journal-remote; over HTTPS with certificates. Debian's is built without the check of its clients."""
    port, directory = free_port(), root / "remote"
    directory.mkdir()
    scheme, listen = "http", [f"--listen-http={port}"]
    if certificates is not None:
        certificate, key = certificates.good
        scheme = "https"
        listen = [f"--listen-https={port}", f"--cert={certificate}", f"--key={key}"]
    child = Child([str(WRITER), *listen, "--split-mode=none", "-o", f"{directory}/remote.journal"], root / "remote.log")

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def rows() -> list[dict[str, str]]:
        command = ["journalctl", "-D", str(directory), "-o", "json", "--all", "--no-pager"]
        out = subprocess.run(command, capture_output=True, check=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    try:
        child.wait_ready(listening, 10, "systemd-journal-remote to listen")
        yield Target(
            {"url": f"{scheme}://127.0.0.1:{port}", "timeout": "5s"},
            lambda: [_text(row.get("MESSAGE", "")) for row in rows()],
            rows,
            label=str.upper,
        )
    finally:
        child.stop()


def _text(value: Any) -> str:
    """journalctl writes a field that is not text as a list of bytes."""
    return bytes(value).decode("utf-8", "replace") if isinstance(value, list) else str(value)


@contextmanager
def aws(root: Path, kind: str) -> Iterator[Target]:
    import boto3
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    place = f"logs-{uuid.uuid4().hex}"  # moto keeps its state for the whole process
    url = f"http://127.0.0.1:{server._port}"
    common = {"region": "eu-west-1", "endpoint_url": url, "timeout": "10s"}
    api = boto3.client("logs" if kind == "cloudwatch" else "s3", region_name="eu-west-1", endpoint_url=url)

    def cloudwatch_rows() -> list[dict[str, str]]:
        found = api.get_log_events(logGroupName=place, logStreamName="s", startFromHead=True)
        return [json.loads(event["message"]) for event in found["events"]]

    def s3_rows() -> list[dict[str, str]]:
        keys = sorted(found["Key"] for found in api.list_objects_v2(Bucket=place).get("Contents", []))
        bodies = [gzip.decompress(api.get_object(Bucket=place, Key=key)["Body"].read()) for key in keys]
        return [json.loads(line) for body in bodies for line in body.splitlines()]

    rows = cloudwatch_rows if kind == "cloudwatch" else s3_rows
    try:
        if kind == "s3":
            api.create_bucket(Bucket=place, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        own = {"log_group": place, "log_stream": "s"} if kind == "cloudwatch" else {"bucket": place}
        yield Target(common | own, lambda: [row["MESSAGE"] for row in rows()], rows)
    finally:
        server.stop()


@contextmanager
def _cloudwatch(root: Path) -> Iterator[Target]:
    with aws(root, "cloudwatch") as target:
        yield target


@contextmanager
def _s3(root: Path) -> Iterator[Target]:
    with aws(root, "s3") as target:
        yield target


TARGETS: dict[str, Callable[[Path], Any]] = {
    "file": _file,
    "http": _web(fakes.ndjson, "/logs", token_file="/token"),
    "loki": _web(fakes.loki, token_file="/token"),
    "elasticsearch": _web(fakes.elasticsearch, token_file="/token"),
    "otlp": _web(fakes.otlp, token_file="/token", service_name="web"),
    "splunk-hec": _web(lambda stored: fakes.splunk(stored, TOKEN), token_file="/token"),
    "gelf": _web(fakes.gelf_http, "/gelf", token_file="/token"),
    "gelf-tcp": stream_target("gelf"),
    "syslog": stream_target("syslog"),
    "journal-remote": journal_remote,
    "cloudwatch": _cloudwatch,
    "s3": _s3,
}
WEB = ("http", "loki", "elasticsearch", "otlp", "splunk-hec", "gelf")


def kind_of(name: str) -> str:
    return name.removesuffix("-tcp")


def arrived(target: Target, count: int) -> list[str]:
    """The messages, once there are `count` of them: a stream's receiver may still be reading."""
    wait_until(lambda: len(target.messages()) >= count or bool(target.complaints), 30, f"{count} messages")
    assert not target.complaints
    return target.messages()


def row(message: str, **fields: str) -> Batch:
    """A batch of one entry of this moment with these fields, and no label."""
    columns: dict[str, Column] = {name: [value.encode()] for name, value in {"MESSAGE": message, **fields}.items()}
    return Batch([time.time_ns() // 1000], columns, {}, ["id-0"], {})


def deliver(sink: Any, root: Path, *batches: Batch, stop: Stop | None = None) -> PipelineStatus:
    """Deliver as a pipeline does, with its repeats. Return the status."""
    progress = PipelineStatus("s", "kind", "journal")
    delivery = Delivery(sink, DeadLetters(root / "dead", "s"), progress, stop or Stop(), patience_seconds=60)
    for each in batches:
        delivery.deliver(each)
    return progress


def letters(root: Path) -> list[dict[str, str]]:
    """Return the entries that were set aside."""
    path = root / "dead/s.ndjson"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
