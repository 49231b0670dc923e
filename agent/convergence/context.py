"""The edges of a convergence, gathered and injected: the disk, the units, the sources, the clock; and what it remembers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agent.convergence import journal, staging
from agent.convergence.plan import Plan
from agent.discovery import fact_validation
from agent.errors import ApplyError, DataError, DiscoveryError
from agent.model import Facts, FactValue, Rendering, RunConfig, Snapshot
from agent.paths import Paths
from agent.settings import interpolation
from agent.settings.models import Settings
from agent.settings.models import Source as SourceSettings
from agent.sources import Source, SourceContext, new_source
from agent.sources.pull import Pulled
from agent.sources.throttle import throttle
from agent.state.generations import Generations
from agent.state.store import State
from agent.status import report
from agent.status.report import Report
from agent.system.process import run as run_program
from agent.system.units import NoUnits, Systemd, Units, systemd_runs

Narrate = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class PlannedConvergence:
    """Everything known before anything is touched. `waiting` maps a group to the error that holds it up."""

    facts: Facts
    pulled: Pulled
    config: RunConfig
    digest: str
    renderings: Mapping[str, Rendering]
    plan: Plan
    waiting: Mapping[str, DataError | ApplyError]
    rendered: int = 0


@dataclass(slots=True)
class World:
    """The edges of a convergence: the disk below `paths`, the units, the sources, the clock. Injected, for tests."""

    paths: Paths
    settings: Settings
    state: State
    units: Units
    run: staging.Run = run_program
    narrate: Narrate = lambda step, seconds, text: None
    pause: journal.Pause = time.sleep
    extend_watchdog: Callable[[float], None] = lambda seconds: None
    """Called before something that may rightly take so many seconds, for a watchdog."""
    report: Report = field(default_factory=Report)
    sources: dict[str, tuple[Any, Source[object]]] = field(default_factory=dict)
    renderer: Any = None
    last: PlannedConvergence | None = None
    pulled: Pulled | None = None
    facts: Facts | None = None
    said_short: str = ""
    said_waiting: str = ""
    notices: Mapping[str, FactValue | None] = field(default_factory=dict)
    """What the platform has told since: tags that changed, a termination that is coming."""
    stopping: Callable[[], bool] = lambda: False
    applied: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of what is in place, by template; filled by this run's convergences."""

    @property
    def build(self) -> dict[str, str]:
        return {"component": self.settings.component.name, "version": self.settings.component.version}

    @property
    def generations(self) -> Generations:
        return Generations(self.paths, self.settings.state.generations, self.settings.state.cache)

    def close(self) -> None:
        """Close every source."""
        for _, source in self.sources.values():
            source.close()
        self.sources.clear()


def open_world(paths: Paths, settings: Settings) -> World:
    """The world of this machine: its systemd where it runs and `paths` is the machine itself."""
    units: Units = Systemd(run_program, settings.units.timeout) if paths.is_host and systemd_runs() else NoUnits()
    return World(paths, settings, State(paths, settings.state.cache), units, report=report.new_report(settings))


class Unopened:
    """Stands for a source whose options need a fact that is not known or does not fit: asking it says so, as any failure of
    a source."""

    options_class: ClassVar[type[Any]] = object

    def __init__(self, error: DiscoveryError) -> None:
        self._error = error

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        raise self._error

    def close(self) -> None:
        return None


def open_source(world: World, settings: SourceSettings, facts: Facts) -> Source[object]:
    """The source, opened anew only where a fact in its options changed."""
    spaces: dict[str, Mapping[str, Any]] = {"facts": facts.values, "build": world.build}
    try:
        for name in sorted(interpolation.names_in_options(settings.options)):
            value = interpolation.value_of(facts.values, name)
            if isinstance(value, (str, int)):
                fact_validation.check_segment(name, str(value))
        options = interpolation.fill_options(settings.options, spaces)
    except DiscoveryError as error:
        return Unopened(error)
    except ValueError as error:
        return Unopened(_misfit(settings, facts, error))
    known = world.sources.get(settings.name)
    if known is not None and known[0] == options:
        return known[1]
    if known is not None:
        known[1].close()
    context = SourceContext(settings.name, world.paths, settings.timeout, poll_seconds=settings.poll)
    source = throttle(new_source(settings.backend, options, context), options, context)
    world.sources[settings.name] = (options, source)
    return source


def _misfit(settings: SourceSettings, facts: Facts, error: ValueError) -> DiscoveryError:
    """The rules of the options were kept by the settings as they stand; what broke them is a fact."""
    told = {field.name: getattr(settings.options, field.name) for field in dataclasses.fields(settings.options)}
    named = {option: names for option, value in told.items() if (names := sorted(interpolation.names_in(value)))}
    known = sorted({name for names in named.values() for name in names})
    said = " and ".join(f'facts.{name} = "{interpolation.value_of(facts.values, name)}"' for name in known)
    return DiscoveryError(
        f"{', '.join(named) or 'options'} of source {settings.name}{' with ' + said if said else ''}: {error}",
        hint="see `parbake facts -v` for where the fact comes from; [facts_from] can take it from elsewhere",
    )


class timed:
    """Narrates a step with its duration, whether it ends well or not."""

    def __init__(self, world: World, step: str) -> None:
        self._world, self._step, self._said = world, step, list[str]()

    def __enter__(self) -> list[str]:
        self._start = time.monotonic()
        return self._said

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        seconds = time.monotonic() - self._start
        self._world.narrate(self._step, seconds, " ".join(self._said) if error is None else "failed")
