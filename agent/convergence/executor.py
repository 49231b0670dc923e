"""A plan put into effect: stage, check, commit, act on units, verify, record; or back to the generation before.

Also what an earlier run was killed in: `resume` finishes it before anything else is done.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agent.convergence import journal, plan, quarantine, staging
from agent.convergence.context import PlannedConvergence, World, timed
from agent.convergence.recovery import Finished, finish, tools_of
from agent.errors import ApplyError, CheckError, DataError, RolledBack, StateError, UnhealthyAfterApply
from agent.keypath import dotted, leaves, lookup
from agent.masking.mask_file import read_mask_file, write_mask_file
from agent.model import Change, ChangeKind, Rendering, RunConfig, Snapshot, UnitAction, UnitResult, UnitStep
from agent.state import generations
from agent.state.generations import Generation
from agent.status import report
from agent.system import safe_files

log = logging.getLogger("parbake.converge")


def execute(world: World, prepared: PlannedConvergence, *, cause: str, before_ready: bool = False) -> int:
    """Put a plan into effect and record it. Returns the exit code; fills `world.report`. Raises ParbakeError."""
    tell_shipper(world, prepared.config)
    held = world.report.hold
    if held is not None:
        world.report.generation = int(held)
        _describe(world, prepared, {})
        world.report.set_state("rolled-back", f"held at generation {held} by `parbake rollback`; `parbake resume` ends it")
        return 0
    waiting = dict(prepared.waiting)
    earlier = journal.load(world.state)
    changes, renames = _stage_and_check(world, prepared, waiting, earlier)
    try:
        finished = _put_into_effect(world, prepared, changes, renames, earlier, cause, before_ready)
    except ApplyError as error:
        _describe(world, prepared, {**waiting, **dict.fromkeys((change.group for change in changes), error)})
        raise
    waiting |= finished.failed
    back = {name for name, error in finished.failed.items() if isinstance(error, RolledBack)}
    _remember(world, prepared, [change for change in changes if change.group not in back], waiting)
    _describe(world, prepared, waiting, finished.results)
    return _conclude(world, prepared, waiting)


def tell_shipper(world: World, config: RunConfig) -> None:
    """Which texts to mask in shipped lines, told before a service can log them. Those before a rotation stay masked, and
    while a generation is held, whose secrets are earlier ones, all of this boot. Raises StateError."""
    if not world.settings.sinks:
        return
    earlier = world.last.config.secret_texts() if world.last else ()
    told: tuple[str, ...] = ()
    if world.report.hold is not None:
        with suppress(OSError, ValueError):  # it is written anew
            told = read_mask_file(world.paths.mask) or ()
    try:
        write_mask_file(world.paths.mask, (*config.secret_texts(), *earlier, *told))
    except OSError as error:
        raise StateError(
            f"{world.paths.mask} cannot be written: {error.strerror}",
            hint="nothing was replaced: without it the shipper would not know what to mask",
        ) from None


def _stage_and_check(
    world: World,
    prepared: PlannedConvergence,
    waiting: dict[str, DataError | ApplyError],
    earlier: journal.Transaction | None,
) -> tuple[list[Change], list[staging.Rename]]:
    """Candidates of every group that passed its checks, and how they are put in place; a group that did not pass leaves
    nothing behind. `earlier` is not confirmed yet, and needs the old files that it has kept."""
    templates = {template.name: template for template in world.settings.templates}
    kept = {rename.target for rename in earlier.renames} if earlier else set()
    groups: dict[str, list[Change]] = {}
    for change in prepared.plan.changes:
        if change.pending:
            groups.setdefault(change.group, []).append(change)
    passed: list[Change] = []
    renames: list[staging.Rename] = []
    with timed(world, "check") as said:
        for group, changes in groups.items():
            try:
                staged = staging.stage(world.paths, changes, directories(world, changes), kept)
                ours = [templates[c.template] for c in changes]
                secrets = prepared.config.secret_texts()
                staging.check(world.paths, ours, secrets, world.run, world.settings.templates)
                passed += changes
                renames += staged
            except (CheckError, ApplyError) as error:
                staging.discard(world.paths, [c.target for c in changes])
                waiting[group] = error
            except BaseException:
                staging.discard(world.paths, [c.target for c in (*passed, *changes)])
                raise
        said.append(f"{len(passed)} candidates stand ready" if passed else "nothing to check")
    order = {name: place for place, name in enumerate(templates)}  # `after` holds between groups too
    return sorted(passed, key=lambda c: order[c.template]), sorted(renames, key=lambda r: order[r.template])


def directories(world: World, changes: list[Change]) -> dict[str, safe_files.ParentDirectory]:
    """How parent directories are made where they are missing, by target. Raises ApplyError for an unknown owner."""
    stated = {}
    for template in world.settings.templates:
        owner, group = template.directory_owner, template.directory_group
        stated[template.target] = safe_files.ParentDirectory(
            template.directory_mode,
            safe_files.owner_id(world.paths, owner) if owner else -1,
            safe_files.group_id(world.paths, group) if group else -1,
        )
    return {change.target: stated[change.target] for change in changes if change.target in stated}


def _put_into_effect(
    world: World,
    prepared: PlannedConvergence,
    changes: list[Change],
    renames: list[staging.Rename],
    earlier: journal.Transaction | None,
    cause: str,
    before_ready: bool,
) -> Finished:
    last = world.generations.last()
    rejected = quarantine.load(world.state)
    number = world.generations.next_number()
    started = journal.Transaction(
        number,
        prepared.digest,
        changed_keys(world.last.config if world.last else None, prepared.config, prepared.renderings, changes),
        tuple(renames),
        unit_steps(world, changes, [known for name, known in rejected.items() if name not in prepared.waiting]),
        _groups(world, prepared, changes, rejected, last),
        since=number,
    )
    if not changes and not started.steps:
        world.report.generation = last.number if last else 0
        if _unrecorded(prepared, last):
            _record(world, prepared, changes, cause, started, last)
        return Finished(())
    if earlier is not None:
        started = journal.joined(earlier, started)
    tools = tools_of(world, prepared.config)
    with timed(world, "commit") as said:
        try:
            _record(world, prepared, changes, cause, started, last, state=generations.PENDING)
        except StateError:
            staging.discard(world.paths, [rename.target for rename in renames])
            raise
        done = journal.commit(tools, started, earlier)
        said.append(f"{len(renames)} targets replaced, generation {started.generation}")
        for change in changes:
            log.info("target %s: %s", change.target, change.kind, extra={"PARBAKE_TARGET": change.target})
    with timed(world, "units") as said:
        done = journal.act(tools, done, before_ready=before_ready)
        said.append(", ".join(f"{r.unit} {r.action}: {r.result}" for r in done.results.values()) or "none to act on")
    world.report.generation = started.generation
    world.generations.judge(started.generation, generations.APPLIED, done.results.values())
    if done.deferred:
        return Finished(tuple(done.results.values()))
    return finish(world, tools, done, before_ready=before_ready)


def _unrecorded(prepared: PlannedConvergence, last: Generation | None) -> bool:
    """Whether what is in place stands in no record: on a first run, or where a full disk kept it from being written."""
    if last is None:
        return not prepared.waiting
    known = {name: target["sha256"] for name, target in last.targets.items()}
    return any(known.get(c.template) != hashlib.sha256(c.content).hexdigest() for c in _as_it_stands(prepared, []))


def _groups(
    world: World,
    prepared: PlannedConvergence,
    changes: list[Change],
    rejected: Mapping[str, quarantine.Rejection],
    last: Generation | None,
) -> tuple[journal.Group, ...]:
    """The groups that take part: those with a change, and those that are to be tried again."""
    names = {change.group for change in changes}
    names |= {name for name, known in rejected.items() if known.again and name not in prepared.waiting}
    before = last.targets if last else {}
    return tuple(group_of(world, name, prepared.plan.changes, before) for name in sorted(names))


def group_of(world: World, name: str, changes: Iterable[Change], before: Mapping[str, Mapping[str, Any]]) -> journal.Group:
    """What a group is to hold; `before` are the targets of the generation before."""
    templates = [template for template in world.settings.templates if template.group_name == name]
    digest = quarantine.digest_of(templates, changes)
    names = tuple(template.name for template in templates)
    return journal.Group(name, digest, not any(name in before for name in names), names)


def unit_steps(world: World, changes: Iterable[Change], rejected: Iterable[quarantine.Rejection]) -> tuple[UnitStep, ...]:
    """The actions. A unit that was stopped because its first config failed is started with the new one, or with the same
    where that is to be tried again."""
    rejected = list(rejected)
    stopped = {unit for known in rejected for unit in known.stopped}
    again = {unit for known in rejected if known.again for unit in known.stopped}
    templates = world.settings.templates
    steps = {step.unit: step for step in plan.units(templates, changes)}
    for label in dict.fromkeys(unit.label for template in templates for unit in template.units):
        if label in again and label not in steps:
            names = tuple(t.name for t in templates if any(unit.label == label for unit in t.units))
            steps[label] = UnitStep(label, UnitAction.RESTART, names)
    return tuple(replace(step, action=UnitAction.RESTART) if step.unit in stopped else step for step in steps.values())


def changed_keys(
    old: RunConfig | None, new: RunConfig, renderings: Mapping[str, Rendering], changes: list[Change]
) -> tuple[str, ...]:
    """The keys that made this generation, by name: those that differ from the last run config, else those that were read."""
    absent = object()
    if old is None:
        reads = {path for c in changes if c.template in renderings for path in renderings[c.template].reads}
        return tuple(sorted(dotted(path) for path in reads if path and lookup(new.tree, path, absent) is not absent))
    before, after = dict(leaves(old.tree)), dict(leaves(new.tree))
    return tuple(sorted(dotted(p) for p in {*before, *after} if before.get(p, absent) != after.get(p, absent)))


def _record(
    world: World,
    prepared: PlannedConvergence,
    changes: list[Change],
    cause: str,
    started: journal.Transaction,
    last: Generation | None,
    *,
    state: str = generations.APPLIED,
) -> None:
    """Record a generation with what every target of the image holds by it, those of groups that wait too."""
    number = started.generation
    baked = {template.name for template in world.settings.templates}
    earlier = {name: target for name, target in (last.targets if last else {}).items() if name in baked}
    whole = _as_it_stands(prepared, changes)
    planned = {change.template for change in whole}
    waiting = [_standing(world, name, target) for name, target in earlier.items() if name not in planned]
    world.generations.record(
        Generation(
            number,
            report.now(),
            cause,
            prepared.digest,
            state,
            started.keys,
            {**earlier, **generations.targets_of(whole, number, earlier)},
        ),
        [*whole, *(change for change in waiting if change is not None)],
    )
    if state == generations.APPLIED:
        world.report.generation = number


def _standing(world: World, name: str, target: Mapping[str, Any]) -> Change | None:
    """A target of a group that waits. One that cannot be read may be what its group waits for, and holds up no other."""
    try:
        return generations.standing(world.paths, name, target)
    except ApplyError:
        return None


def _as_it_stands(prepared: PlannedConvergence, changes: list[Change]) -> list[Change]:
    """Every target of the plan with what it holds now: the new content, or the old where its check refused the new."""
    done = {change.template for change in changes}
    whole = []
    for change in prepared.plan.changes:
        if change.template in done or not change.pending:
            whole.append(change)
        elif change.old is not None and change.old.content is not None:
            old = change.old
            kind = ChangeKind.UNCHANGED
            whole.append(replace(change, kind=kind, content=change.old.content, mode=old.mode, uid=old.uid, gid=old.gid))
    return whole


def _remember(
    world: World, prepared: PlannedConvergence, changes: list[Change], waiting: Mapping[str, DataError | ApplyError]
) -> None:
    """Keep what was pulled as the last good run config: it passed the contract and rendered."""
    world.last = prepared
    world.applied = {c.template: hashlib.sha256(c.content).hexdigest() for c in _as_it_stands(prepared, changes)}
    quarantine.forget(world.state, {change.group for change in prepared.plan.changes if change.group not in waiting})
    if not prepared.pulled.fresh:
        return
    snapshots: dict[str, Snapshot] = dict(prepared.pulled.snapshots)
    fetched = {r.name: r.fetched or "" for r in prepared.pulled.reports if r.name in snapshots}
    refused = world.state.last_good.save(snapshots, fetched, secret=bool(prepared.config.secrets))
    if refused:
        log.warning("the last good run config is not kept, so a boot without the source would fail: %s", refused)


def _describe(
    world: World,
    prepared: PlannedConvergence,
    waiting: Mapping[str, DataError | ApplyError],
    results: tuple[UnitResult, ...] = (),
) -> None:
    """Fill the report. Units that were not acted on now keep their last result."""
    last = world.generations.last()
    known = last.targets if last else {}
    drifted = {change.template for change in prepared.plan.changes if change.kind == ChangeKind.DRIFTED}
    rows = []
    for template in world.settings.templates:
        row: dict[str, Any] = {
            "name": template.name,
            "target": template.target,
            "state": _state(waiting.get(template.group_name)) or ("drifted" if template.name in drifted else "current"),
            "generation": known.get(template.name, {}).get("generation", 0),
        }
        if template.group_name in waiting:
            row["error"] = str(waiting[template.group_name])
        rows.append(row)
    world.report.templates = tuple(rows)
    world.report.digest = prepared.digest
    kept = {result.unit: result for result in (generations.results_of(last) if last else ())}
    kept.update({r.unit: r for r in world.report.units})
    kept.update({r.unit: r for r in results})
    world.report.units = tuple(kept.values())


def _state(error: DataError | ApplyError | None) -> str:
    """Of a template whose group is held up."""
    return "" if error is None else "rejected" if isinstance(error, UnhealthyAfterApply) else "waiting"


def _conclude(world: World, prepared: PlannedConvergence, waiting: Mapping[str, DataError | ApplyError]) -> int:
    if waiting:
        text = "\n".join(dict.fromkeys(str(error) for error in waiting.values()))
        hints = [error.hint for error in waiting.values() if error.hint]
        rolled_back = all(isinstance(error, RolledBack) for error in waiting.values())
        world.report.set_state("rolled-back" if rolled_back else "failed", text)
        # what waits for the same reason as before is one line, not one a convergence
        level = logging.ERROR if text != world.said_waiting else logging.DEBUG
        log.log(level, "%s%s", text, f"\nhint: {hints[0]}" if hints else "")
        world.said_waiting = text
        return max(error.exit_code for error in waiting.values())
    world.said_waiting = ""
    if prepared.pulled.stale:
        errors = [f"source {r.name}: {r.error}" for r in prepared.pulled.reports if r.state == "stale"]
        world.report.set_state("stale", "; ".join(errors))
        return 75
    world.report.set_state("converged")
    return 0
