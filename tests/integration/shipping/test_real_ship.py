"""`parbake ship` as a person uses it, below a root with real journal files and log files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.cli.ship import since
from agent.errors import UsageError
from tests.servers import journal_directory
from tests.servers.journal_directory import write_journal
from tests.servers.processes import free_port

pytestmark = pytest.mark.skipif(not journal_directory.available, reason="systemd-journal-remote is not installed")
SETTINGS = """
[component]
name = "web"
[ship]
files = ["/var/log/*.log"]
mask = ["hunter2"]
[[sink]]
name = "copy"
type = "file"
path = "/out/copy.ndjson"
labels = { component = "{{ build.component }}" }
[[sink]]
name = "out"
type = "stdout"
[[sink]]
name = "down"
type = "http"
url = "http://127.0.0.1:PORT/"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """50 journal entries of November 2023 and 30 lines of today."""
    settings = tmp_path / "etc/parbake/parbake.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(SETTINGS.replace("PORT", str(free_port())))
    write_journal(tmp_path / "var/log/journal" / ("a" * 32), [f"entry {number}" for number in range(50)])
    (tmp_path / "var/log/app.log").write_text("".join(f"line {number} hunter2\n" for number in range(30)))
    return tmp_path


def ship(root: Path, *words: str) -> int:
    return main(["--root", str(root), "ship", *words])


def shipped(root: Path) -> list[str]:
    path = root / "out/copy.ndjson"
    return [json.loads(line)["MESSAGE"] for line in path.read_text().splitlines()] if path.exists() else []


def test_dry_run_shows_what_would_leave_and_sends_and_keeps_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each entry as it would go to the sink, masked and labelled, and not a file afterwards that was not there before."""
    before = sorted(root.rglob("*"))
    assert ship(root, "--dry-run", "--sink", "copy") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["MESSAGE"] for row in rows) == sorted(
        [*(f"entry {number}" for number in range(50)), *(f"line {number} ********" for number in range(30))]
    )
    assert {(row["component"], row["sink"]) for row in rows} == {("web", "copy")}
    assert sorted(root.rglob("*")) == before


def test_once_ships_what_is_there_and_reads_on_the_next_time(root: Path) -> None:
    """Everything arrives once, for any number of calls; then the entries since."""
    for _ in range(2):
        assert ship(root, "--once", "--sink", "copy") == 0
        assert len(shipped(root)) == 80
    with (root / "var/log/app.log").open("a") as file:
        file.write("later\n")
    assert ship(root, "--once", "--sink", "copy") == 0
    assert shipped(root)[80:] == ["later"]


def test_since_ships_again_from_there_and_leaves_the_checkpoints(root: Path) -> None:
    """A gap at the receiver is filled by hand, and the service goes on from its checkpoint."""
    assert ship(root, "--once", "--sink", "copy") == 0
    assert ship(root, "--once", "--sink", "copy", "--since", "2023-11-14T22:13:20.040Z") == 0
    again = shipped(root)[80:]
    assert [message for message in again if message.startswith("entry")] == [f"entry {number}" for number in range(40, 50)]
    count = len(shipped(root))
    assert ship(root, "--once", "--sink", "copy") == 0
    assert len(shipped(root)) == count


def test_a_sink_that_is_down_costs_its_own_entries_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 74 naming that sink and why; the other sinks have everything, and the next run has the rest to ship."""
    settings = root / "etc/parbake/parbake.toml"
    settings.write_text(settings.read_text().replace("[ship]", '[ship]\ndrain = "1s"'))
    assert ship(root, "--once") == 74
    said = capsys.readouterr().err
    assert "not everything could be shipped to: down" in said
    assert "connection refused" in said
    assert len(shipped(root)) == 80
    assert ship(root, "--dry-run", "--sink", "down") == 0
    assert len(capsys.readouterr().out.splitlines()) == 80


def test_a_name_that_is_no_sink_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 78 with the names there are."""
    assert ship(root, "--once", "--sink", "cpy") == 78
    assert "copy, out, down" in capsys.readouterr().err
    assert not (root / "out").exists()


@pytest.mark.parametrize("words", [["--dry-run", "--sink", "copy"], ["--once", "--sink", "out"]])
def test_a_pipe_that_is_closed_ends_the_command(words: list[str], root: Path) -> None:
    """`parbake ship ... | head -1` ends at once and complains of nothing."""
    (root / "var/log/app.log").write_text("x" * 99 + "\n")
    with (root / "var/log/app.log").open("a") as file:
        file.writelines(f"{number} {'x' * 90}\n" for number in range(20_000))
    command = [sys.executable, "-m", "agent", "--root", str(root), "ship", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())
        child.stdout.close()
        assert child.wait(30) == 0
        assert child.stderr.read() == b""


def test_times_are_understood_as_people_write_them() -> None:
    """Absolute, relative and by name; an invalid time is an error with examples of valid ones."""
    now = time.mktime((2026, 1, 31, 12, 30, 0, 0, 0, -1))
    midnight = time.mktime((2026, 1, 31, 0, 0, 0, 0, 0, -1))
    assert since("1h ago", now) == since("-1h", now) == since("1h", now) == int((now - 3600) * 1e6)
    assert since("today", now) == since("2026-01-31", now) == int(midnight * 1e6)
    assert since("yesterday", now) == since("2026-01-30 00:00", now)
    assert since("2026-01-31T12:00:00Z", now) == 1_769_860_800_000_000
    assert since("@1700000000.5", now) == 1_700_000_000_500_000
    for wrong in ("", "soon", "1700000000", "12:30"):
        with pytest.raises(UsageError, match="is not a time"):
            since(wrong, now)


def test_a_sink_that_waits_for_a_fact_keeps_no_other_waiting(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An address with an unknown fact in it is a sink that is not there yet: the others ship, and it does once it is known."""
    settings = root / "etc/parbake/parbake.toml"
    later = '[[sink]]\nname = "later"\ntype = "file"\npath = "/out/{{ facts.region }}.ndjson"\n'
    head, _, _ = settings.read_text().partition('[[sink]]\nname = "out"')
    settings.write_text(head.replace("[ship]", '[ship]\ndrain = "1s"') + later)
    assert ship(root, "--once") == 74
    assert "later" in capsys.readouterr().err
    assert len(shipped(root)) == 80
    (root / "run/parbake").mkdir(parents=True, exist_ok=True)
    (root / "run/parbake/status.json").write_text(json.dumps({"schema": 1, "facts": {"region": "eu-1"}}))
    assert ship(root, "--once") == 0
    assert len((root / "out/eu-1.ndjson").read_text().splitlines()) == 80
    assert len(shipped(root)) == 80
