"""The one function that runs the steps in order: discover, pull, check the contract, render, plan, commit, act, verify, record.

`prepare` is everything up to the plan and touches nothing; `parbake plan` ends there. `execute` does the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent import apply, contract, disk, generations, merge, plan, plugins, placeholders, pull, report, transaction
from agent.discovery import discover, identity, values
from agent.errors import ApplyError, CheckError, DataError, RenderError, SourceMissing
from agent.generations import Generation, Generations
from agent.model import Change, Facts, Rendering, RunConfig, Snapshot, UnitResult, UnitStep
from agent.places import Places
from agent.pull import Pulled
from agent.report import Report
from agent.runner import run as run_program
from agent.settings.tables import Settings, Source as SourceSettings, Template
from agent.sources import BACKENDS, Source, SourceContext
from agent.state import LastGood, State
from agent.units import NoUnits, Systemd, Units, systemd_runs

log = logging.getLogger("parbake.converge")
REJECTED = "rejected"
HOLD = "hold"

Narrate = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything known before anything is touched. `waiting` maps a group to the error that holds it up."""

    facts: Facts
    pulled: Pulled
    config: RunConfig
    digest: str
    renderings: Mapping[str, Rendering]
    plan: plan.Plan
    waiting: Mapping[str, DataError | ApplyError]
    rendered: int = 0


@dataclass(slots=True)
class World:
    """The edges of a convergence: the disk below `places`, the units, the sources, the clock. Injected, for tests."""

    places: Places
    settings: Settings
    state: State
    units: Units
    run: apply.Run = run_program
    narrate: Narrate = lambda step, seconds, text: None
    pause: transaction.Pause = time.sleep
    report: Report = field(default_factory=Report)
    sources: dict[str, tuple[Any, Source]] = field(default_factory=dict)
    renderer: Any = None
    last: Prepared | None = None
    pulled: Pulled | None = None

    @property
    def build(self) -> dict[str, str]:
        return {"component": self.settings.component.name, "version": self.settings.component.version}

    @property
    def generations(self) -> Generations:
        return Generations(self.places, self.settings.state.generations, self.settings.state.cache)

    def close(self) -> None:
        """Close every source."""
        for _, source in self.sources.values():
            source.close()
        self.sources.clear()


def open_world(places: Places, settings: Settings) -> World:
    """The world of this machine: its systemd where it runs and `places` is the machine itself."""
    units: Units = Systemd(run_program, settings.units.timeout) if places.is_host and systemd_runs() else NoUnits()
    return World(places, settings, State(places, settings.state.cache), units, report=report.fresh(settings))


def prepare(world: World, facts: Facts) -> Prepared:
    """Pull, merge, check the contract, render, plan. Raises ParbakeError; touches nothing but its own memory."""
    pulled = _pull(world, facts)
    with _timed(world, "contract") as said:
        merged = merge.merge(pulled.snapshots)
        config = contract.apply(merged, world.settings.keys)
        said.append(f"{len(config.origins)} keys, {len(config.secrets)} of them secret")
    with _timed(world, "render") as said:
        renderings, waiting, rendered = _render(world, config, facts)
        said.append(f"{rendered} of {len(world.settings.templates)} templates rendered")
    with _timed(world, "plan") as said:
        planned = _plan(world, renderings, waiting)
        said.append(_plan_words(planned))
    digest = world.state.digest(config, facts.values, world.build)
    return Prepared(facts, pulled, config, digest, renderings, planned, waiting, rendered)


def find_out(world: World) -> Facts:
    """Discover the facts, and refuse those that would leave a layer's path. Raises DiscoveryError."""
    with _timed(world, "facts") as said:
        facts = discover.discover(world.settings, world.places)
        world.report.facts = facts.values
        for source in world.settings.sources:
            for name in {fact for layer in source.layers for fact in placeholders.names(layer)}:
                value = facts.values.get(name)
                if isinstance(value, str):
                    values.check_segment(name, value)
        said.append(", ".join(f"{n}={v}" for n, v in sorted(facts.values.items()) if isinstance(v, str)) or "none")
    return facts


def _pull(world: World, facts: Facts) -> Pulled:
    good = world.state.load_last_good()
    with _timed(world, "pull") as said:
        opened = [(settings, open_source(world, settings, facts)) for settings in world.settings.sources]
        pulled = pull.pull(opened, facts, world.build, good.snapshots, good.fetched, report.now)
        world.pulled, world.report.sources = pulled, pulled.reports
        said.append("; ".join(f"{r.name} ({r.backend}) {r.state}" for r in pulled.reports) or "no sources")
    for source in pulled.reports:
        if source.error:
            log.warning("source %s: %s (%s)", source.name, source.error, source.state, extra={"PARBAKE_SOURCE": source.name})
    if pulled.missing:
        raise SourceMissing(
            "no run config: " + "; ".join(pulled.missing),
            hint="there is no last good run config to fall back to; nothing was changed",
        )
    return pulled


def open_source(world: World, settings: SourceSettings, facts: Facts) -> Source:
    """The source, opened anew only where a fact in its options changed. Raises DiscoveryError for a missing fact."""
    spaces: dict[str, Mapping[str, Any]] = {"facts": facts.values, "build": world.build}
    options = placeholders.fill_options(settings.options, spaces)
    known = world.sources.get(settings.name)
    if known is not None and known[0] == options:
        return known[1]
    if known is not None:
        known[1].close()
    factory = plugins.load(BACKENDS, settings.backend, "backend")
    source: Source = factory(options, SourceContext(settings.name, world.places, settings.timeout))
    world.sources[settings.name] = (options, source)
    return source


def _render(
    world: World, config: RunConfig, facts: Facts
) -> tuple[dict[str, Rendering], dict[str, DataError | ApplyError], int]:
    if not world.settings.templates:
        return {}, {}, 0
    # Jinja2 costs a third of a short run's time: it comes in only where there is something to render
    from agent import render

    if world.renderer is None:
        world.renderer = render.Renderer(world.places, world.settings.component, world.settings.templates)
    renderings: dict[str, Rendering] = {}
    waiting: dict[str, DataError | ApplyError] = {}
    failures: dict[str, list[RenderError]] = {}
    count = 0
    for template in world.settings.templates:
        earlier = world.last.renderings.get(template.name) if world.last else None
        if earlier and world.last and render.still_holds(earlier, world.last.config, config, world.last.facts, facts):
            renderings[template.name] = earlier
            continue
        try:
            renderings[template.name] = world.renderer.render(template, config, facts)
            count += 1
        except RenderError as error:
            failures.setdefault(template.group_name, []).append(error)
    for group, errors in failures.items():
        waiting[group] = _joined(errors)
    return renderings, waiting, count


def _joined(errors: list[RenderError]) -> RenderError:
    if len(errors) == 1:
        return errors[0]
    return RenderError(
        f"{len(errors)} templates cannot be rendered", [str(error).replace("\n", "\n  ") for error in errors], hint=errors[0].hint
    )


def _plan(
    world: World, renderings: Mapping[str, Rendering], waiting: dict[str, DataError | ApplyError]
) -> plan.Plan:
    changes: list[Change] = []
    for template in world.settings.templates:
        if template.group_name in waiting:
            continue
        try:
            changes.append(_change(world, template, renderings[template.name]))
        except (ApplyError, RenderError) as error:
            waiting[template.group_name] = error
    changes = [change for change in changes if change.group not in waiting]
    return plan.Plan(tuple(changes), plan.units(world.settings.templates, changes))


def _change(world: World, template: Template, rendering: Rendering) -> Change:
    uid = disk.owner_id(world.places, template.owner) if template.owner else None
    gid = disk.group_id(world.places, template.group) if template.group else None
    old = disk.read_target(world.places, template.target)
    if not world.places.is_host and disk.unprivileged():
        # below --root without root an owner cannot be set: what is there counts as right, and the plan says so
        uid, gid = (old.uid, old.gid) if old else disk.own_ids()
        if template.owner or template.group:
            log.info("template %s: owner and group are not set, since parbake is not root here", template.name)
    return plan.change(template, rendering, old, uid, gid)


def _plan_words(planned: plan.Plan) -> str:
    pending = [change for change in planned.changes if change.pending]
    if not pending:
        return "nothing to change"
    units = ", ".join(f"{step.action} {step.unit}" for step in planned.units)
    return f"{len(pending)} of {len(planned.changes)} targets change" + (f"; {units}" if units else "")


def execute(world: World, prepared: Prepared, *, cause: str, before_ready: bool = False) -> int:
    """Put a plan into effect and record it. Returns the exit code; fills `world.report`. Raises ParbakeError."""
    held = world.state.load(HOLD).get("generation")
    world.report.hold = held
    rejected = world.state.load(REJECTED)
    if held is not None:
        _describe(world, prepared, {})
        world.report.enter("rolled-back", f"held at generation {held} by `parbake rollback`; `parbake resume` ends it")
        return 0
    if rejected.get("digest") == prepared.digest:
        _describe(world, prepared, {})
        world.report.enter("failed" if rejected.get("first") else "rolled-back", str(rejected.get("error")))
        return 74
    waiting = dict(prepared.waiting)
    changes = _stage_and_check(world, prepared, waiting)
    results = _put_into_effect(world, prepared, changes, cause, before_ready)
    _remember(world, prepared)
    _describe(world, prepared, waiting, results)
    return _conclude(world, prepared, waiting, results)


def _stage_and_check(world: World, prepared: Prepared, waiting: dict[str, DataError | ApplyError]) -> list[Change]:
    """Candidates of every group that passed its checks; a group that did not leaves nothing behind."""
    templates = {template.name: template for template in world.settings.templates}
    groups: dict[str, list[Change]] = {}
    for change in prepared.plan.changes:
        if change.pending:
            groups.setdefault(change.group, []).append(change)
    passed: list[Change] = []
    with _timed(world, "check") as said:
        for group, changes in groups.items():
            try:
                apply.stage(world.places, changes)
                apply.check(world.places, [templates[c.template] for c in changes], prepared.config.secret_texts(), world.run)
                passed.extend(changes)
            except (CheckError, ApplyError) as error:
                apply.discard(world.places, [c.target for c in changes])
                waiting[group] = error
            except BaseException:
                apply.discard(world.places, [c.target for c in (*passed, *changes)])
                raise
        said.append(f"{len(passed)} candidates stand ready" if passed else "nothing to check")
    return passed


def _put_into_effect(
    world: World, prepared: Prepared, changes: list[Change], cause: str, before_ready: bool
) -> tuple[UnitResult, ...]:
    last = world.generations.last()
    if not changes:
        world.report.generation = last.number if last else 0
        if last is None and not prepared.waiting:
            _record(world, prepared, changes, cause, world.generations.next_number(), (), last)
        return ()
    number = world.generations.next_number()
    renames = [apply.Rename(c.target, created=c.old is None and not disk.occupied(world.places, c.target)) for c in changes]
    started = transaction.Transaction(
        number,
        prepared.digest,
        changed_keys(world.last.config if world.last else None, prepared.config, prepared.renderings, changes),
        tuple(renames),
        _steps(world, changes),
        tuple(c.template for c in changes),
        first=last is None,
    )
    tools = tools_of(world, prepared.config)
    with _timed(world, "commit") as said:
        done = transaction.commit(tools, started)
        said.append(f"{len(renames)} targets replaced, generation {number}")
        for change in changes:
            log.info("target %s: %s", change.target, change.kind, extra={"PARBAKE_TARGET": change.target})
    with _timed(world, "units") as said:
        done = transaction.act(tools, done, before_ready=before_ready)
        said.append(", ".join(f"{r.unit} {r.action}: {r.result}" for r in done.results.values()) or "none to act on")
    world.report.generation = number
    _record(world, prepared, changes, cause, number, tuple(done.results.values()), last)
    if done.deferred:
        return tuple(done.results.values())
    return finish(world, tools, done, before_ready=before_ready)


def _steps(world: World, changes: list[Change]) -> tuple[UnitStep, ...]:
    """The actions; a unit that was stopped because its first config failed is started with the new one."""
    stopped = world.state.load(REJECTED).get("stopped", [])
    steps = plan.units(world.settings.templates, changes)
    return tuple(replace(step, action="restart") if step.unit in stopped else step for step in steps)


def finish(world: World, tools: transaction.Tools, done: transaction.Transaction, *, before_ready: bool) -> tuple[UnitResult, ...]:
    """Verify a committed generation; confirm it, or go back. Raises ApplyError where it does not hold."""
    with _timed(world, "verify") as said:
        problem = transaction.verify(tools, done)
        said.append(problem or "the units are up")
    results = tuple(done.results.values())
    if problem is None:
        transaction.confirm(tools, done)
        return results
    world.report.units = results
    keys = ", ".join(done.keys) or "none"
    if done.first:
        stopped = transaction.leave_or_stop(tools, done)
        transaction.confirm(tools, done)
        error = f"generation {done.generation} did not come up: {problem}"
        record = {"digest": done.digest, "generation": done.generation, "error": error, "first": True, "stopped": stopped}
        world.state.save(REJECTED, record)
        raise ApplyError(
            error,
            hint="it is the first, so there is nothing to go back to; correct the run config and it converges by itself",
        )
    targets, again = transaction.go_back(tools, done, before_ready=before_ready)
    error = f"generation {done.generation} was rolled back: {problem}; keys that changed: {keys}"
    world.state.save(REJECTED, {"digest": done.digest, "generation": done.generation, "error": error})
    _mark_rejected(world, done.generation, error)
    world.report.units = again
    world.last = None
    raise RolledBack(error, hint=f"{len(targets)} targets hold the earlier generation again; change the keys to try anew")


class RolledBack(ApplyError):
    """A generation was put into effect, did not hold, and the earlier one is back."""


def _mark_rejected(world: World, number: int, error: str) -> None:
    known = {generation.number: generation for generation in world.generations.all()}
    if number in known:
        world.generations.record(replace(known[number], state="rejected", error=error))
    last = world.generations.last()
    world.report.generation = last.number if last else 0


def resume(world: World, *, before_ready: bool) -> None:
    """Finish what an earlier run was killed in, before anything else is done. Raises ApplyError as `finish` does."""
    left = transaction.load(world.state)
    if left is None:
        transaction.sweep(world.places, world.settings.templates)
        return
    log.warning("finishing generation %d, which an earlier run was stopped in", left.generation)
    tools = tools_of(world, None)
    apply.commit(world.places, left.renames)
    left = replace(left, committed=True)
    transaction.save(world.state, left)
    left = transaction.act(tools, left, before_ready=before_ready)
    if not left.deferred:
        world.report.units = finish(world, tools, left, before_ready=before_ready)


def confirm_started(world: World) -> None:
    """After READY: what could not be verified before, because systemd had yet to start the units. Raises ApplyError."""
    left = transaction.load(world.state)
    if left is None:
        return
    tools = tools_of(world, world.last.config if world.last else None)
    done = transaction.await_start(tools, left)
    world.report.units = finish(world, tools, done, before_ready=False)


def tools_of(world: World, config: RunConfig | None) -> transaction.Tools:
    secrets = config.secret_texts() if config else ()
    return transaction.Tools(world.places, world.settings, world.state, world.units, world.run, world.pause, secrets)


def changed_keys(
    old: RunConfig | None, new: RunConfig, renderings: Mapping[str, Rendering], changes: list[Change]
) -> tuple[str, ...]:
    """The keys that made this generation, by name: those that differ from the last run config, else those that were read."""
    from agent.model import dotted, leaves

    if old is None:
        reads = {path for c in changes if c.template in renderings for path in renderings[c.template].reads}
        return tuple(sorted(dotted(path) for path in reads if path))
    before, after = dict(leaves(old.tree)), dict(leaves(new.tree))
    absent = object()
    return tuple(
        sorted(dotted(p) for p in {*before, *after} if before.get(p, absent) != after.get(p, absent))
    )


def _record(
    world: World,
    prepared: Prepared,
    changes: list[Change],
    cause: str,
    number: int,
    results: tuple[UnitResult, ...],
    last: Generation | None,
) -> None:
    changed = {c.template: c for c in changes}
    whole = [changed.get(c.template, replace(c, kind="unchanged")) for c in prepared.plan.changes]
    keys = changed_keys(world.last.config if world.last else None, prepared.config, prepared.renderings, changes)
    world.generations.record(
        Generation(
            number, report.now(), cause, prepared.digest, "applied", keys,
            generations.targets_of(whole, number, last.targets if last else {}), generations.units_of(results),
        ),
        whole,
    )
    world.report.generation = number


def _remember(world: World, prepared: Prepared) -> None:
    """Keep what was pulled as the last good run config: it passed the contract and rendered."""
    world.last = prepared
    world.state.remove(REJECTED)
    if not prepared.pulled.fresh:
        return
    good = world.state.load_last_good()
    snapshots: dict[str, Snapshot] = dict(prepared.pulled.snapshots)
    fetched = {r.name: r.fetched or "" for r in prepared.pulled.reports if r.name in snapshots}
    if {n: s.layers for n, s in good.snapshots.items()} == {n: s.layers for n, s in snapshots.items()}:
        return
    refused = world.state.save_last_good(LastGood(snapshots, fetched), secret=bool(prepared.config.secrets))
    if refused:
        log.warning("the last good run config is not kept, so a boot without the source would fail: %s", refused)


def _describe(
    world: World,
    prepared: Prepared,
    waiting: Mapping[str, DataError | ApplyError],
    results: tuple[UnitResult, ...] = (),
) -> None:
    """Fill the report. Units that were not acted on now keep their last result."""
    last = world.generations.last()
    known = last.targets if last else {}
    rows = []
    for template in world.settings.templates:
        row: dict[str, Any] = {
            "name": template.name,
            "target": template.target,
            "state": "waiting" if template.group_name in waiting else "current",
            "generation": known.get(template.name, {}).get("generation", 0),
        }
        if template.group_name in waiting:
            row["error"] = str(waiting[template.group_name])
        rows.append(row)
    world.report.templates = tuple(rows)
    world.report.digest = prepared.digest
    kept = {u["name"]: UnitResult(u["name"], u["action"], u["result"]) for u in (last.units if last else ())}
    kept.update({r.unit: r for r in world.report.units})
    kept.update({r.unit: r for r in results})
    world.report.units = tuple(kept.values())


def _conclude(
    world: World, prepared: Prepared, waiting: Mapping[str, DataError | ApplyError], results: tuple[UnitResult, ...]
) -> int:
    if waiting:
        text = "\n".join(str(error) for error in waiting.values())
        hints = [error.hint for error in waiting.values() if error.hint]
        world.report.enter("failed", text)
        log.error("%s%s", text, f"; {hints[0]}" if hints else "")
        return max(error.exit_code for error in waiting.values())
    if prepared.pulled.stale:
        errors = [f"source {r.name}: {r.error}" for r in prepared.pulled.reports if r.state == "stale"]
        world.report.enter("stale", "; ".join(errors))
        return 75
    world.report.enter("converged")
    return 0


def converge(world: World, *, cause: str, before_ready: bool = False, wait: bool = True) -> int:
    """The whole way, once. Returns the exit code; `world.report` tells the rest, also where ParbakeError is raised."""
    start = time.monotonic()
    world.state.prepare()
    try:
        with world.state.lock(wait=wait):
            facts = find_out(world)
            adopt_identity(world, facts)
            resume(world, before_ready=before_ready)
            return execute(world, prepare(world, facts), cause=cause, before_ready=before_ready)
    finally:
        world.report.seconds = time.monotonic() - start
        world.report.convergences += 1


def adopt_identity(world: World, facts: Facts) -> None:
    """Set aside what another instance left, before anything of it is read: an image may be captured from a running one."""
    now = identity.identify(facts, world.places)
    record = world.state.load("instance")
    before = identity.Identity(
        str(record.get("instance_id", "")), str(record.get("product_uuid", "")), str(record.get("machine_id", ""))
    )
    if record and identity.changed(before, now):
        aside = world.state.set_aside()
        log.warning("this is another instance (%s, was %s): its earlier state is set aside in %s", now, before, aside)
    fields = {"instance_id": now.instance_id, "product_uuid": now.product_uuid, "machine_id": now.machine_id}
    if fields != record:
        world.state.save("instance", fields)


class _timed:
    """Narrates a step with its duration, whether it ends well or not."""

    def __init__(self, world: World, step: str) -> None:
        self._world, self._step, self._said = world, step, list[str]()

    def __enter__(self) -> list[str]:
        self._start = time.monotonic()
        return self._said

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        seconds = time.monotonic() - self._start
        self._world.narrate(self._step, seconds, " ".join(self._said) if error is None else "failed")
