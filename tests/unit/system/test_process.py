"""Programs of the settings: checks, verifications, systemctl."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from agent.system.process import OUTPUT_BYTES, run


def test_code_and_output() -> None:
    """The exit code and both outputs are returned, and arguments are not interpreted by a shell."""
    result = run(["sh", "-c", 'echo "$0"; echo err >&2; exit 3', "$HOME; x"], 10)
    assert (result.code, result.ok, result.output) == (3, False, "$HOME; x\nerr")
    assert run(["true"], 10).ok


def test_no_environment_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5: a secret is never in the environment of another program. Nothing of parbake's environment is."""
    monkeypatch.setenv("PARBAKE_TOKEN", "hunter2")
    names = {line.split("=")[0] for line in run(["env"], 10).output.splitlines()}
    assert names == {"PATH", "LANG", "HOME"}


def test_no_descriptor_leaks() -> None:
    """A check inherits the three standard descriptors, and no lock, journal or target of parbake."""
    with open("/etc/passwd"):
        assert run(["sh", "-c", "ls /proc/$$/fd | wc -w"], 10).output in ("3", "4")  # dash opens none, ls is another process


def test_a_time_out_kills_the_group(tmp_path: Path) -> None:
    """A check that hangs is killed with all processes that it started."""
    pids = tmp_path / "pids"
    started = time.monotonic()
    result = run(["sh", "-c", f"sleep 60 & echo $! $$ > {pids}; wait"], 2.5)
    assert result.code is None
    assert time.monotonic() - started < 30
    assert "2.5 s" in result.output
    for pid in pids.read_text().split():
        assert _gone(int(pid))


def test_a_run_can_be_cancelled(tmp_path: Path) -> None:
    """A daemon that stops does not wait for a program longer than systemd waits for the daemon."""
    started = time.monotonic()
    assert run(["sleep", "60"], 60, cancelled=lambda: time.monotonic() > started + 0.2).code is None
    assert time.monotonic() - started < 20


def test_a_background_process_neither_outlives_nor_delays_a_check(tmp_path: Path) -> None:
    """A check with a background process ends with its own exit code, and the process is killed."""
    pid = tmp_path / "pid"
    started = time.monotonic()
    result = run(["sh", "-c", f"sleep 60 & echo $! > {pid}; echo fine"], 20)
    assert (result.code, result.output) == (0, "fine")
    assert time.monotonic() - started < 10
    assert _gone(int(pid.read_text()))


def test_a_process_in_another_session_does_not_delay_a_check(tmp_path: Path) -> None:
    """A process that leaves the group and keeps the output open does not delay the check either."""
    pid = tmp_path / "pid"
    started = time.monotonic()
    result = run(["sh", "-c", f"setsid sh -c 'echo $$ > {pid}; exec sleep 60' & while [ ! -s {pid} ]; do sleep 0.01; done"], 20)
    try:
        assert result.code == 0
        assert time.monotonic() - started < 10
    finally:
        os.kill(int(pid.read_text()), 9)


def test_output_is_bounded() -> None:
    """A check that prints 200 MB costs neither memory nor time. The end of the output is kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run(["sh", "-c", "head -c 200000000 /dev/zero | tr '\\0' x; echo; echo the end"], 60)
    assert result.ok
    assert result.output.endswith("the end")
    assert len(result.output) <= OUTPUT_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_program_that_closes_its_output_is_still_waited_for() -> None:
    """The end of the output is not the end of the program."""
    started = time.monotonic()
    assert run(["sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 4"], 10).code == 4
    assert time.monotonic() - started >= 0.5


def test_killed_by_a_signal() -> None:
    """The crash of a check is a failure."""
    assert run(["sh", "-c", "kill -SEGV $$"], 10).code == -11


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"], ["nul\0byte"]])
def test_a_program_that_cannot_start_is_a_result(argv: list[str]) -> None:
    """The result says why a program did not start; nothing is raised."""
    result = run(argv, 10)
    assert result.code is None
    assert not result.ok
    assert result.output


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


def test_input_and_whole_standard_output() -> None:
    """More than a pipe holds is written and read whole, without standard error."""
    content = os.urandom(3 * OUTPUT_BYTES)
    result = run(["sh", "-c", "cat; echo noise >&2"], 20, stdin=content, stdout_max_bytes=len(content))
    assert (result.ok, result.stdout, result.output) == (True, content, "")


def test_a_program_is_killed_at_its_output_limit() -> None:
    """An endless output ends the program, and nothing of it is returned."""
    result = run(["yes"], 20, stdout_max_bytes=100_000)
    assert (result.code, result.too_large, result.stdout) == (None, True, b"")


def test_a_program_that_does_not_read_its_input_ends() -> None:
    """It ends with its own exit code, although there is more input than a pipe holds."""
    assert run(["sh", "-c", "exit 5"], 20, stdin=b"x" * 1_000_000, stdout_max_bytes=10).code == 5


def test_a_missing_program_did_not_start() -> None:
    """A caller can distinguish a missing program from one that failed."""
    assert not run(["/nowhere/at/all"], 5).started
    assert run(["false"], 5).started


@pytest.mark.parametrize("script", ["(sleep 0.3; echo late) & exit 0", "exec 3>&1; { sleep 0.3; echo late; } >&3 & exit 0"])
def test_the_whole_output_has_what_comes_after_the_program(script: str) -> None:
    """A shell's pipeline may write after the shell has ended: its output is not cut off there."""
    result = run(["sh", "-c", script], 20, stdout_max_bytes=100)
    assert (result.code, result.stdout) == (0, b"late\n")


def test_an_output_that_stays_open_ends_with_the_time(tmp_path: Path) -> None:
    """A process that was left behind and keeps the output open makes the output incomplete: that is no success."""
    result = run(["sh", "-c", "sleep 60 & echo out"], 0.5, stdout_max_bytes=100)
    assert (result.code, result.stdout) == (None, b"")
