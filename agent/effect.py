"""A plan put into effect: stage, check, commit, act on units, verify, record; or back to the generation before.

Also what an earlier run was killed in: `resume` finishes it before anything else is done.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent import apply, disk, generations, plan, report, transaction
from agent.errors import ApplyError, CheckError, DataError, StateError
from agent.generations import Generation
from agent.masking import write_mask_file
from agent.model import Change, Rendering, RunConfig, Snapshot, UnitResult, UnitStep, dotted, leaves
from agent.outcome import HOLD, REJECTED, applied_number, finish, tools_of
from agent.world import Prepared, World, timed

log = logging.getLogger("parbake.converge")


def execute(world: World, prepared: Prepared, *, cause: str, before_ready: bool = False) -> int:
    """Put a plan into effect and record it. Returns the exit code; fills `world.report`. Raises ParbakeError."""
    held = world.state.load(HOLD).get("generation")
    world.report.hold = held
    rejected = world.state.load(REJECTED)
    if held is not None:
        world.report.generation = int(held)
        _describe(world, prepared, {})
        world.report.enter("rolled-back", f"held at generation {held} by `parbake rollback`; `parbake resume` ends it")
        return 0
    if _was_rejected(world, prepared, rejected):
        _describe(world, prepared, {})
        world.report.generation = applied_number(world)
        world.report.enter("failed" if rejected.get("first") else "rolled-back", str(rejected.get("error")))
        return 74
    _tell_shipper(world, prepared)
    waiting = dict(prepared.waiting)
    changes = _stage_and_check(world, prepared, waiting)
    results = _put_into_effect(world, prepared, changes, cause, before_ready)
    _remember(world, prepared, changes)
    _describe(world, prepared, waiting, results)
    return _conclude(world, prepared, waiting, results)


def _was_rejected(world: World, prepared: Prepared, rejected: Mapping[str, Any]) -> bool:
    """Whether this is what was rejected: the same inputs, or others that render to the very same targets."""
    if not rejected:
        return False
    if rejected.get("digest") == prepared.digest:
        return True
    known = next((g for g in world.generations.all() if g.number == rejected.get("generation")), None)
    return (
        known is not None
        and not prepared.waiting
        and all(
            known.targets.get(change.template, {}).get("sha256") == hashlib.sha256(change.content).hexdigest()
            for change in prepared.plan.changes
        )
    )


def _tell_shipper(world: World, prepared: Prepared) -> None:
    """Which texts to mask in shipped lines, told before a service can log them. Those before a rotation stay masked."""
    if not world.settings.sinks:
        return
    earlier = world.last.config.secret_texts() if world.last else ()
    try:
        write_mask_file(world.places.mask, (*prepared.config.secret_texts(), *earlier))
    except OSError as error:
        raise StateError(
            f"{world.places.mask} cannot be written: {error.strerror}",
            hint="nothing was replaced: without it the shipper would not know what to mask",
        ) from None


def _stage_and_check(world: World, prepared: Prepared, waiting: dict[str, DataError | ApplyError]) -> list[Change]:
    """Candidates of every group that passed its checks; a group that did not leaves nothing behind."""
    templates = {template.name: template for template in world.settings.templates}
    groups: dict[str, list[Change]] = {}
    for change in prepared.plan.changes:
        if change.pending:
            groups.setdefault(change.group, []).append(change)
    passed: list[Change] = []
    with timed(world, "check") as said:
        for group, changes in groups.items():
            try:
                apply.stage(world.places, changes, directories(world, changes))
                ours = [templates[c.template] for c in changes]
                secrets = prepared.config.secret_texts()
                apply.check(world.places, ours, secrets, world.run, world.settings.templates)
                passed.extend(changes)
            except (CheckError, ApplyError) as error:
                apply.discard(world.places, [c.target for c in changes])
                waiting[group] = error
            except BaseException:
                apply.discard(world.places, [c.target for c in (*passed, *changes)])
                raise
        said.append(f"{len(passed)} candidates stand ready" if passed else "nothing to check")
    return passed


def directories(world: World, changes: list[Change]) -> dict[str, disk.NewDirectory]:
    """How parent directories are made where they are missing, by target. Raises ApplyError for an unknown owner."""
    stated = {}
    for template in world.settings.templates:
        owner, group = template.directory_owner, template.directory_group
        stated[template.target] = disk.NewDirectory(
            template.directory_mode,
            disk.owner_id(world.places, owner) if owner else -1,
            disk.group_id(world.places, group) if group else -1,
        )
    return {change.target: stated[change.target] for change in changes if change.target in stated}


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
    with timed(world, "commit") as said:
        try:
            _record(world, prepared, changes, cause, number, (), last, state=generations.PENDING)
        except StateError:
            apply.discard(world.places, [rename.target for rename in renames])
            raise
        done = transaction.commit(tools, started)
        said.append(f"{len(renames)} targets replaced, generation {number}")
        for change in changes:
            log.info("target %s: %s", change.target, change.kind, extra={"PARBAKE_TARGET": change.target})
    with timed(world, "units") as said:
        done = transaction.act(tools, done, before_ready=before_ready)
        said.append(", ".join(f"{r.unit} {r.action}: {r.result}" for r in done.results.values()) or "none to act on")
    world.report.generation = number
    world.generations.judge(number, generations.APPLIED, done.results.values())
    if done.deferred:
        return tuple(done.results.values())
    return finish(world, tools, done, before_ready=before_ready)


def _steps(world: World, changes: list[Change]) -> tuple[UnitStep, ...]:
    """The actions; a unit that was stopped because its first config failed is started with the new one."""
    stopped = world.state.load(REJECTED).get("stopped", [])
    steps = plan.units(world.settings.templates, changes)
    return tuple(replace(step, action="restart") if step.unit in stopped else step for step in steps)


def changed_keys(
    old: RunConfig | None, new: RunConfig, renderings: Mapping[str, Rendering], changes: list[Change]
) -> tuple[str, ...]:
    """The keys that made this generation, by name: those that differ from the last run config, else those that were read."""
    if old is None:
        reads = {path for c in changes if c.template in renderings for path in renderings[c.template].reads}
        return tuple(sorted(dotted(path) for path in reads if path))
    before, after = dict(leaves(old.tree)), dict(leaves(new.tree))
    absent = object()
    return tuple(sorted(dotted(p) for p in {*before, *after} if before.get(p, absent) != after.get(p, absent)))


def _record(
    world: World,
    prepared: Prepared,
    changes: list[Change],
    cause: str,
    number: int,
    results: tuple[UnitResult, ...],
    last: Generation | None,
    *,
    state: str = generations.APPLIED,
) -> None:
    whole = _as_it_stands(prepared, changes)
    earlier = last.targets if last else {}
    keys = changed_keys(world.last.config if world.last else None, prepared.config, prepared.renderings, changes)
    world.generations.record(
        Generation(
            number,
            report.now(),
            cause,
            prepared.digest,
            state,
            keys,
            {**earlier, **generations.targets_of(whole, number, earlier)},
            generations.units_of(results),
        ),
        whole,
    )
    if state == generations.APPLIED:
        world.report.generation = number


def _as_it_stands(prepared: Prepared, changes: list[Change]) -> list[Change]:
    """Every target of the plan with what it holds now: the new content, or the old where its check refused the new."""
    done = {change.template for change in changes}
    whole = []
    for change in prepared.plan.changes:
        if change.template in done or not change.pending:
            whole.append(change)
        elif change.old is not None and change.old.content is not None:
            old = change.old
            kept = replace(change, kind="unchanged", content=change.old.content, mode=old.mode, uid=old.uid, gid=old.gid)
            whole.append(kept)
    return whole


def _remember(world: World, prepared: Prepared, changes: list[Change]) -> None:
    """Keep what was pulled as the last good run config: it passed the contract and rendered."""
    world.last = prepared
    world.applied = {c.template: hashlib.sha256(c.content).hexdigest() for c in _as_it_stands(prepared, changes)}
    world.state.remove(REJECTED)
    if not prepared.pulled.fresh:
        return
    snapshots: dict[str, Snapshot] = dict(prepared.pulled.snapshots)
    fetched = {r.name: r.fetched or "" for r in prepared.pulled.reports if r.name in snapshots}
    refused = world.state.last_good.save(snapshots, fetched, secret=bool(prepared.config.secrets))
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
    drifted = {change.template for change in prepared.plan.changes if change.kind == "drifted"}
    rows = []
    for template in world.settings.templates:
        row: dict[str, Any] = {
            "name": template.name,
            "target": template.target,
            "state": "waiting" if template.group_name in waiting else "drifted" if template.name in drifted else "current",
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
        log.error("%s%s", text, f"\nhint: {hints[0]}" if hints else "")
        return max(error.exit_code for error in waiting.values())
    if prepared.pulled.stale:
        errors = [f"source {r.name}: {r.error}" for r in prepared.pulled.reports if r.state == "stale"]
        world.report.enter("stale", "; ".join(errors))
        return 75
    world.report.enter("converged")
    return 0
