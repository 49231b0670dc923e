"""A convergence in a child process that is killed, or refused by the system, at its n-th operation on the disk.

The child wraps the functions of `os` that the disk is written through, and the raw file behind `open`, so that every
operation of the real code is counted: nothing of parbake is replaced.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import ParbakeError
from agent.model import UnitOutcome, UnitResult, UnitStep
from agent.system.units import UnitState

OPERATIONS = (
    "open", "stat", "rename", "replace", "link", "unlink", "fsync", "fchmod", "fchown", "mkdir", "chmod", "pwrite", "write",
)  # fmt: skip
NEEDS_SPACE = frozenset(("create", "mkdir", "link", "write"))
CHANGES = NEEDS_SPACE | frozenset(("rename", "replace", "unlink", "fsync", "fchmod", "fchown", "chmod", "pwrite"))
EVERY = CHANGES | frozenset(("open", "stat"))
KILLED = 99
_REAL_OPEN = builtins.open


@dataclass
class Fault:
    """What goes wrong at the `at`-th of the operations that `counts`: the process is killed, or is given an error.

    Being killed before an operation that only looks is being killed before the next one that changes something, so only
    those need to be tried. A `lasting` error meets every later one as well, as a full disk does.
    """

    at: int = 10**9
    kill: bool = False
    number: int = errno.EIO
    lasting: bool = False
    counts: frozenset[str] = EVERY
    met: list[str] = field(default_factory=list)

    def meet(self, name: str, undo: Callable[[], Any] = lambda: None) -> None:
        if name not in self.counts:
            return
        self.met.append(name)
        if len(self.met) < self.at or (len(self.met) > self.at and not self.lasting):
            return
        undo()
        if self.kill:
            os._exit(KILLED)
        raise OSError(self.number, os.strerror(self.number))

    def install(self) -> None:
        """Count every operation of this process from now on."""
        for name in OPERATIONS[:-1]:
            setattr(os, name, self._counted(name, getattr(os, name)))
        builtins.open = self._open

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            creates = name == "open" and len(arguments) > 1 and arguments[1] & os.O_CREAT
            if _ours(arguments[0], options):
                self.meet("create" if creates else name)
            return real(*arguments, **options)

        return counted

    def _open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" not in mode or not isinstance(file, int):
            return _REAL_OPEN(file, mode, *arguments, **options)
        fault = self

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                half = bytes(content)[: len(content) // 2]
                fault.meet("write", lambda: io.FileIO.write(self, half))
                return io.FileIO.write(self, content)

        return io.BufferedWriter(Raw(file, "w"))


def _ours(path: Any, options: Any) -> bool:
    """Whether this is on the way to a target or in parbake's own directories, and not a provider or a source looking."""
    below = isinstance(path, int) or any(options.get(name) is not None for name in ("dir_fd", "src_dir_fd"))
    return below or "/parbake" in str(path) or str(path).endswith(("/root", "/spare"))


@dataclass(frozen=True)
class Outcome:
    """How the child ended: `code` of the convergence or of its ParbakeError, None where it was killed."""

    code: int | None
    error: str
    operations: tuple[str, ...]


def in_child(work: Callable[[], int], fault: Fault) -> Outcome:
    """Do `work` in a child of its own under a fault. Fails the test on anything but a ParbakeError."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            fault.install()
            try:
                result: tuple[int | None, str, str] = (work(), "", "")
            except ParbakeError as error:
                result = (error.exit_code, f"{type(error).__name__}: {error}", "")
            except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
                result = (None, "", traceback.format_exc())
            pipe.write(pickle.dumps((result, fault.met)))
            pipe.flush()
        os._exit(0)
    os.close(writer)
    with _REAL_OPEN(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == KILLED:
        return Outcome(None, "", ())
    (code, text, bug), met = pickle.loads(said)
    assert not bug, f"under {fault}:\n{bug}"
    return Outcome(code, text, tuple(met))


def _content(path: Path) -> str | None:
    """What a service reads is not counted: the fault is parbake's, and a service has its own."""
    try:
        with _REAL_OPEN(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


class Services:
    """Services as the machine has them: each loads its targets when it is acted on, and is down with a bad config.

    What they loaded is on the disk, since they outlive the process that acts on them.
    """

    def __init__(self, log: Path, root: Path, targets: dict[str, tuple[str, ...]]) -> None:
        self._log, self._root, self._targets = log, root, targets

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        loaded = {target: self._disk(target) for target in self._targets[step.unit]}
        with io.open(self._log, "a") as file:  # noqa: UP020 - the one that is not counted
            file.write(json.dumps({"unit": step.unit, "action": step.action, "loaded": loaded}) + "\n")
        up = self.state(step.unit).running
        return UnitResult(
            step.unit, step.action, UnitOutcome.OK if up else UnitOutcome.FAILED, "" if up else "its config is bad"
        )

    def state(self, unit: str) -> UnitState:
        bad = any("bad" in (text or "") for text in self.loaded(unit).values())
        return UnitState("loaded", "failed" if bad else "active")

    def stop(self, unit: str) -> None:
        return None

    def _disk(self, target: str) -> str | None:
        return _content(self._root / target.lstrip("/"))

    def actions(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (_content(self._log) or "").splitlines()]

    def loaded(self, unit: str) -> dict[str, str | None]:
        """What a service runs on now; {} where it was never acted on."""
        mine = [action["loaded"] for action in self.actions() if action["unit"] == unit]
        return mine[-1] if mine else {}

    def stale(self) -> list[str]:
        """Services that run on something else than what their targets hold."""
        return [
            unit
            for unit, targets in self._targets.items()
            if self.loaded(unit) and self.loaded(unit) != {target: self._disk(target) for target in targets}
        ]
