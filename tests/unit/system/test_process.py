"""Programs that the settings name: checks, verifications, systemctl."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from agent.system.process import OUTPUT_BYTES, run


def test_code_and_output() -> None:
    """The exit code and both outputs come back, and nothing is read as a shell would."""
    ran = run(["sh", "-c", 'echo "$0"; echo err >&2; exit 3', "$HOME; x"], 10)
    assert (ran.code, ran.ok, ran.output) == (3, False, "$HOME; x\nerr")
    assert run(["true"], 10).ok


def test_no_environment_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5: a secret is never in an environment handed to another program: nothing of ours is."""
    monkeypatch.setenv("PARBAKE_TOKEN", "hunter2")
    names = {line.split("=")[0] for line in run(["env"], 10).output.splitlines()}
    assert names == {"PATH", "LANG", "HOME"}


def test_no_descriptor_leaks() -> None:
    """A check inherits its three standard descriptors, and none of parbake's lock, journal or targets."""
    with open("/etc/passwd"):
        assert run(["sh", "-c", "ls /proc/$$/fd | wc -w"], 10).output in ("3", "4")  # dash opens none, ls is another process


def test_a_time_out_kills_the_group(tmp_path: Path) -> None:
    """A check that hangs is killed with all that it started."""
    pids = tmp_path / "pids"
    started = time.monotonic()
    ran = run(["sh", "-c", f"sleep 60 & echo $! $$ > {pids}; wait"], 0.5)
    assert ran.code is None
    assert time.monotonic() - started < 10
    assert "0.5 s" in ran.output
    for pid in pids.read_text().split():
        assert _gone(int(pid))


def test_it_can_be_cut_short(tmp_path: Path) -> None:
    """A daemon that is to stop waits for no program longer than systemd waits for it."""
    started = time.monotonic()
    assert run(["sleep", "60"], 60, cancelled=lambda: time.monotonic() > started + 0.2).code is None
    assert time.monotonic() - started < 20


def test_what_stays_in_the_background_neither_outlives_nor_holds_up(tmp_path: Path) -> None:
    """A check that leaves a process behind ends when it ends, with its own exit code, and the process goes."""
    pid = tmp_path / "pid"
    started = time.monotonic()
    ran = run(["sh", "-c", f"sleep 60 & echo $! > {pid}; echo fine"], 20)
    assert (ran.code, ran.output) == (0, "fine")
    assert time.monotonic() - started < 10
    assert _gone(int(pid.read_text()))


def test_a_session_of_its_own_does_not_hold_up(tmp_path: Path) -> None:
    """A process that escapes the group and keeps the output open costs the check no time either."""
    pid = tmp_path / "pid"
    started = time.monotonic()
    ran = run(["sh", "-c", f"setsid sh -c 'echo $$ > {pid}; exec sleep 60' & while [ ! -s {pid} ]; do sleep 0.01; done"], 20)
    try:
        assert ran.code == 0
        assert time.monotonic() - started < 10
    finally:
        os.kill(int(pid.read_text()), 9)


def test_output_is_bounded() -> None:
    """A check that prints without end fills neither the memory nor the time: the end of it is kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ran = run(["sh", "-c", "head -c 200000000 /dev/zero | tr '\\0' x; echo; echo the end"], 60)
    assert ran.ok
    assert ran.output.endswith("the end")
    assert len(ran.output) <= OUTPUT_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_program_that_closes_its_output_is_still_waited_for() -> None:
    """The end of the output is not the end of the program."""
    started = time.monotonic()
    assert run(["sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 4"], 10).code == 4
    assert time.monotonic() - started >= 0.5


def test_killed_by_a_signal() -> None:
    """A crash of a check is a failure, not a success."""
    assert run(["sh", "-c", "kill -SEGV $$"], 10).code == -11


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"], ["nul\0byte"]])
def test_what_cannot_start(argv: list[str]) -> None:
    """A program that is not there says so in its result; it never raises."""
    ran = run(argv, 10)
    assert ran.code is None
    assert not ran.ok
    assert ran.output


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_whole_standard_output_of_what_is_fed() -> None:
    """More than a pipe holds goes in and comes out whole, and standard error is not in it."""
    content = os.urandom(3 * OUTPUT_BYTES)
    result = run(["sh", "-c", "cat; echo noise >&2"], 20, stdin=content, stdout_max_bytes=len(content))
    assert (result.ok, result.stdout, result.output) == (True, content, "")


def test_more_output_than_is_allowed_is_an_end() -> None:
    """A program that prints without end is killed at the limit."""
    result = run(["yes"], 20, stdout_max_bytes=100_000)
    assert (result.code, result.too_large, result.stdout) == (None, True, b"")


def test_a_program_that_does_not_read_its_input_holds_nothing_up() -> None:
    """It ends with its own exit code, however much was to be written to it."""
    assert run(["sh", "-c", "exit 5"], 20, stdin=b"x" * 1_000_000, stdout_max_bytes=10).code == 5


def test_what_is_not_there_did_not_start() -> None:
    """The caller can tell a program that is missing from one that failed."""
    assert not run(["/nowhere/at/all"], 5).started
    assert run(["false"], 5).started
