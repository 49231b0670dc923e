"""Feedback loops: files that facts name, syslog daemons on this host, and lines to drop if no setting shows the loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.masking.masker import Masker
from agent.paths import Paths
from agent.settings.models import Component, Settings, Ship
from agent.settings.models import Sink as SinkSettings
from agent.shipping import Batch, feedback_loops
from agent.shipping.scrubbing import own_lines, scrub
from agent.shipping.sinks.file import FileOptions
from tests.conftest import Image
from tests.integration.shipping.receivers import make

FILE = '[[sink]]\ntype = "file"\npath = "{}"\nkeep = 1\n'
STREAM = '[[sink]]\ntype = "{}"\nurl = "{}"\n'


def check(image: Image, files: str, sink: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    image.settings(f'[ship]\njournal = false\nfiles = ["{files}"]\n{sink}')
    code = main(["--root", str(image.root), "check"])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ("/var/log/web.log", "/var/log/{{ build.component }}.log"),
        ("/var/log/*.log", "/var/log/{{build.component}}.log"),
        ("/var/log/[v-x]eb-1*", "/var/log/{{ build.component }}-{{ build.version }}.log"),
        ("/var/log/app-*.log", "/var/log/{{ facts.role }}.log"),
        ("/var/log/app-?.log", "/var/log/app-{{ facts.role }}.log"),
        ("/var/log/app/out.log", "/var/log/{{ facts.role }}/out.log"),
        ("/var/log/**", "/var/log/{{ facts.role }}/{{ facts.zone }}/out"),
        ("/var/log/out-*.1", "/var/log/out-{{ build.generation }}"),
        ("/var/log/linked/x.log", "/srv/{{ facts.role }}/x.log"),
    ],
)
def test_a_file_with_a_placeholder_is_compared_filled(
    files: str, path: str, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the settings of the image, and with every possible value of a fact: exit 78, in check and in ship."""
    image.write("/srv/logs/x.log", "")
    image.path("/var/log").mkdir(parents=True)
    image.path("/var/log/linked").symlink_to(image.path("/srv/logs"))
    code, err = check(image, files, FILE.format(path), capsys)
    assert code == 78, err
    assert "would ship again" in err
    assert main(["--root", str(image.root), "ship", "--once"]) == 78


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ("/var/log/app.log", "/var/log/{{ build.component }}.log"),
        ("/var/log/*.log", "/var/log/{{ facts.role }}.ndjson"),
        ("/var/log/app-*.log", "/var/log/{{ facts.role }}/out.log"),
        ("/var/log/app-*.log", "/var/log/web-{{ facts.role }}.log"),
    ],
)
def test_a_file_that_no_fact_makes_one_that_is_read(
    files: str, path: str, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that cannot match for any value of the fact is no loop."""
    assert check(image, files, FILE.format(path), capsys) == (0, "")


@pytest.mark.parametrize("files", ["/var/log/syslog", "/var/log/*.log", "/var/log/**", "/var/log/mess*"])
@pytest.mark.parametrize(
    "sink",
    [
        STREAM.format("syslog", "tcp://localhost:601"),
        STREAM.format("syslog", "udp://127.0.0.1"),
        STREAM.format("syslog", "tcp://[::1]:601"),
        STREAM.format("gelf", "udp://127.0.1.1:12201"),
        STREAM.format("gelf", "tcp://[::ffff:127.0.0.1]:12201"),
    ],
)
def test_a_syslog_daemon_here_writes_what_it_is_sent(
    files: str, sink: str, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's rsyslog leaves structured data, and the mark in it, out of its files: one line would come back for ever."""
    code, err = check(image, files, sink, capsys)
    assert code == 78
    assert "on this host" in err
    assert main(["--root", str(image.root), "ship", "--once"]) == 78


@pytest.mark.parametrize(
    ("files", "sink"),
    [
        ("/var/log/syslog", STREAM.format("syslog", "tcp://logs.example:601")),
        ("/var/log/syslog", STREAM.format("syslog", "tcp://{{ facts.collector }}:601")),
        ("/var/log/nginx/*.log", STREAM.format("syslog", "tcp://localhost:601")),
        ("/var/log/syslog", STREAM.format("gelf", "http://localhost:12201/gelf")),
        ("/var/log/syslog", STREAM.format("loki", "http://localhost:3100")),
    ],
)
def test_a_receiver_elsewhere_is_fine(files: str, sink: str, image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Another host, an application's own file, and a sink with the marker in a header."""
    assert check(image, files, sink, capsys) == (0, "")


@pytest.mark.parametrize(("url", "marked"), [("tcp://h:1", True), ("udp://h:1", True), ("http://h:1/gelf", False)])
def test_gelf_carries_the_mark_where_no_header_does(url: str, marked: bool, tmp_path: Path) -> None:
    """The marker reveals a receiver on this host that writes whole messages to a file."""
    sink: Any = make("gelf", {"url": url}, tmp_path)
    text = next(sink._messages(Batch([0], {"MESSAGE": [b"one"]})))
    assert ("parbake-mark0123" in text) == marked


def lines(files: list[bytes | None], messages: list[bytes]) -> Batch:
    return Batch(list(range(len(files))), {"FILE": files, "MESSAGE": messages})


def test_a_loop_that_no_settings_show_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fact makes a path one that is read: its lines, under the number of a rotation too, are left out, with one error."""
    sink: Any = SinkSettings(type="file", name="copy", options=FileOptions(path="/log/{{ facts.role }}/out"))
    facts: dict[str, str] = {}
    values = [{"facts": facts, "build": {}}]
    settings = Settings(component=Component(name="web"), ship=Ship(), sinks=(sink,))
    written = feedback_loops.SinkFiles(settings, Paths(tmp_path), lambda: values[-1])
    batch = lines([b"/log/a/out", b"/log/b/out", b"/log/a/out.1", None], [b"one", b"two", b"three", b"four"])
    assert len(written.without_own_lines(batch)) == 4
    values.append({"facts": {"role": "a"}, "build": {}})
    for _ in range(2):
        assert written.without_own_lines(batch).columns["MESSAGE"] == [b"two", b"four"]
    assert len(caplog.messages) == 2
    assert "/log/a/out is written by a sink" in caplog.text


def test_a_shipper_does_not_ship_what_it_says_itself() -> None:
    """A syslog daemon writes the journal to a file that is read: the line about each failure would fail, too."""
    pid = os.getpid()
    mine = [
        f"Nov 26 02:03:59 host parbake[{pid}]: sink web: connection refused".encode(),
        f"2026-11-26T02:03:59.123456+00:00 host parbake-ship[{pid}]: x".encode(),
    ]
    others = [
        f"2026-11-26T02:03:59+00:00 host parbake[{pid}0]: the daemon, or an earlier shipper".encode(),
        f"2026-11-26T02:03:59+00:00 host app[1]: it says parbake[{pid}]: x".encode(),
        f"parbake[{pid}]: x".encode(),
    ]
    batch = lines([b"/var/log/syslog"] * 5, [*mine, *others])
    masker = Masker((), ())
    assert scrub(batch, masker, 1000, "mark", own_lines(pid)).columns["MESSAGE"] == others
    assert len(scrub(batch, masker, 1000, "mark")) == 5
