"""Convergences in this process: with units, programs and time that a test scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.cli.output import FAMILIES
from agent.convergence.context import Memory, Runtime, new_memory
from agent.convergence.converge import converge
from agent.model import UnitOutcome, UnitResult, UnitStep
from agent.paths import Paths
from agent.settings import loader
from agent.sources.registry import SourceRegistry
from agent.state.generations import Generations
from agent.state.store import StateStore
from agent.status.report import Report
from agent.system.process import ProcessResult
from agent.system.units import UnitState
from tests.conftest import Image

UP = UnitState("loaded", "active", "running")
DOWN = UnitState("loaded", "failed", "failed")
STOPPED = UnitState("loaded", "inactive", "dead")

Outcome = Callable[[UnitStep], UnitState | str]


@dataclass
class ScriptedUnits:
    """Units that are up, unless `outcome` says what becomes of one: its new state, or why its action failed."""

    outcome: Outcome = lambda step: UP
    states: dict[str, UnitState] = field(default_factory=dict)
    acted: list[tuple[str, str]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        state = self.state(step.unit)
        if before_ready and not state.running:
            return UnitResult(step.unit, step.action, UnitOutcome.INACTIVE, "starts later")
        self.acted.append((step.unit, step.action))
        became = self.outcome(step)
        if isinstance(became, str):
            return UnitResult(step.unit, step.action, UnitOutcome.FAILED, became)
        self.states[step.unit] = became
        return UnitResult(
            step.unit,
            step.action,
            UnitOutcome.OK if became.running else UnitOutcome.FAILED,
            "" if became.running else "it is down",
        )

    def state(self, unit: str) -> UnitState:
        return self.states.get(unit, UP)

    def stop(self, unit: str) -> None:
        self.stopped.append(unit)
        self.states[unit] = STOPPED


@dataclass
class ScriptedPrograms:
    """Programs that succeed, unless `answer` says otherwise."""

    answer: Callable[[Sequence[str]], ProcessResult] = lambda argv: ProcessResult(0, "")
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], seconds: float) -> ProcessResult:
        self.ran.append(tuple(argv))
        return self.answer(argv)


@dataclass
class World:
    """A process that converges on an image: what it works with, and what it remembers."""

    runtime: Runtime
    memory: Memory
    sources: SourceRegistry

    @property
    def report(self) -> Report:
        return self.memory.report

    @property
    def generations(self) -> Generations:
        return self.runtime.state.generations

    def converge(self, *, before_ready: bool = False, resume: bool = False) -> int:
        """Converge once. Raises ParbakeError."""
        return converge(self.runtime, self.memory, self.sources, cause="test", before_ready=before_ready, resume=resume)


def world_of(
    image: Image,
    units: ScriptedUnits | None = None,
    run: ScriptedPrograms | None = None,
    sleep: Callable[[float], None] = lambda seconds: None,
) -> World:
    """A world on an image, as a process that has just started sees it."""
    paths = Paths(image.root)
    loaded = loader.load(paths, FAMILIES)
    stop = threading.Event()
    state = StateStore(paths, loaded.state.cache, loaded.state.generations, stop)
    runtime = Runtime(paths, loaded, state, units or ScriptedUnits(), run or ScriptedPrograms(), stop, sleep)
    return World(runtime, new_memory(loaded), SourceRegistry(paths, stop))
