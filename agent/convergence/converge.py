"""The steps of a convergence in their order: discover, pull, merge, check the contract, render, plan, apply.

`plan_convergence` is everything up to the plan and touches nothing; `parbake plan` ends there. `executor` does the rest.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from agent.convergence import mask, quarantine
from agent.convergence.context import Memory, PlannedConvergence, Runtime, StepTimer
from agent.convergence.executor import apply_plan
from agent.convergence.hold import held_generation, release_hold
from agent.convergence.plan import Plan, plan_change
from agent.convergence.plan import unit_steps as plan_unit_steps
from agent.convergence.recovery import recover
from agent.convergence.rendering import render_templates, renderer_of
from agent.discovery import engine, identity
from agent.errors import ApplyError, ContractError, RenderError, SourceMissing
from agent.model import Change, Facts, Merged, Rendering, RunConfig, SourceState
from agent.runconfig import contract, digest, merge
from agent.settings.models import Source, Template
from agent.sources import pull
from agent.sources.pull import Pulled
from agent.sources.registry import SourceRegistry, check_facts_of_source
from agent.state.last_good import LastGood
from agent.status import report
from agent.system import safe_files

log = logging.getLogger("parbake.converge")
_INSTANCE_RECORD = "instance"


def converge(
    runtime: Runtime,
    memory: Memory,
    sources: SourceRegistry,
    *,
    cause: str,
    before_ready: bool = False,
    wait: bool = True,
    resume: bool = False,
) -> int:
    """Converge once, and return the exit code. `memory.report` has the details, also if an error is raised.

    `cause` is recorded with the generation. `before_ready`: systemd waits for this process, so a unit that is not running is
    left to systemd. `wait`: wait for another parbake that holds the lock. `resume` ends a hold and lets rejected groups be
    tried once more.

    Raises ParbakeError; StopRequested if a stop came before anything was replaced.
    """
    start = time.monotonic()
    runtime.state.prepare()
    try:
        with runtime.state.lock(wait=wait, sleep=runtime.sleep, stopping=runtime.stop.is_set):
            runtime.state.sweep()
            facts = discover_facts(runtime, memory)
            runtime.raise_if_stopping()  # a discovery that was cut off may lack the fact that identifies the instance
            adopt_identity(runtime, facts)
            recover(runtime, memory, before_ready=before_ready)
            if resume:
                quarantine.allow_retry(runtime.state.records)
                release_hold(runtime.state.records)
            memory.report.hold = held_generation(runtime.state.records)
            try:
                planned = plan_convergence(runtime, memory, sources, facts)
            except ContractError:
                mask.update_mask_from_valid_keys(runtime, memory)
                raise
            return apply_plan(runtime, memory, planned, cause=cause, before_ready=before_ready)
    finally:
        memory.report.seconds = time.monotonic() - start
        memory.report.convergences += 1


def adopt_identity(runtime: Runtime, facts: Facts) -> None:
    """Archive the state of another instance before anything of it is read: an image may be captured from a running one."""
    record, previous, current = _identities(runtime, facts)
    if record and identity.changed(previous, current):
        archive = runtime.state.archive_previous_instance()
        log.warning("this is another instance (%s, was %s): its earlier state is kept in %s", current, previous, archive)
    else:
        current = identity.remembered(previous, current)
    fields = {
        "instance_id": current.instance_id,
        "product_uuid": current.product_uuid,
        "machine_id": current.machine_id,
    }
    if fields != record:
        runtime.state.records.save(_INSTANCE_RECORD, fields)


def _identities(runtime: Runtime, facts: Facts) -> tuple[dict[str, Any], identity.Identity, identity.Identity]:
    """Return the recorded identity, as a record and parsed, and the identity that this instance has now."""
    record = runtime.state.records.load(_INSTANCE_RECORD)
    names = ("instance_id", "product_uuid", "machine_id")
    previous = identity.Identity(*(str(record.get(name, "")) for name in names))
    return record, previous, identity.identify(facts, runtime.paths)


def _last_good(runtime: Runtime, facts: Facts) -> LastGood:
    """Return the last good run config, unless it is another instance's: `plan` on a clone runs before it is archived."""
    _, previous, current = _identities(runtime, facts)
    return LastGood() if identity.changed(previous, current) else runtime.state.last_good.load()


def discover_facts(runtime: Runtime, memory: Memory) -> Facts:
    """Discover the facts. Raises SettingsError for a provider that cannot be imported."""
    runtime.extend_watchdog(runtime.settings.discovery.timeout)
    with StepTimer(runtime, "facts") as result:
        facts = engine.discover(runtime.settings, runtime.paths, notices=memory.notices, stopping=runtime.stop)
        memory.facts, memory.report.facts = facts, facts.values
        missing = engine.missing_facts_summary(facts)
        if missing and missing != memory.last_logged_missing_facts:
            log.warning("%s", missing)
        memory.last_logged_missing_facts = missing
        known = (f"{name}={value}" for name, value in sorted(facts.values.items()) if isinstance(value, str))
        result.append(", ".join(known) or "none")
    return facts


def plan_convergence(runtime: Runtime, memory: Memory, sources: SourceRegistry, facts: Facts) -> PlannedConvergence:
    """Pull, merge, check the contract, render and plan. Raises ParbakeError; changes nothing but `memory`."""
    pulled = _pull(runtime, memory, sources, facts)
    with StepTimer(runtime, "contract") as result:
        merged = merge.merge(pulled.snapshots)
        config = _enforce_contract(runtime, memory, merged, facts)
        result.append(f"{len(config.origins)} keys, {len(config.secrets)} of them secret")
    with StepTimer(runtime, "render") as result:
        renderings, waiting, rendered = render_templates(runtime, memory, config, facts)
        result.append(f"{rendered} of {len(runtime.settings.templates)} templates rendered")
    with StepTimer(runtime, "plan") as result:
        plan = _plan(runtime, memory, renderings, waiting)
        result.append(_summary(plan))
    runtime.raise_if_stopping()
    key = runtime.state.records.digest_key()
    digest_text = digest.digest(config, facts.values, runtime.build, key)
    return PlannedConvergence(facts, pulled, config, digest_text, renderings, plan, waiting, rendered)


def _pull(runtime: Runtime, memory: Memory, sources: SourceRegistry, facts: Facts) -> Pulled:
    last_good = _last_good(runtime, facts)
    with StepTimer(runtime, "pull") as result:
        opened = [(settings, sources.open(settings, facts, runtime.build)) for settings in runtime.settings.sources]

        def vet(settings: Source, facts: Facts) -> None:
            runtime.extend_watchdog(settings.timeout)
            check_facts_of_source(settings, facts)

        pulled = pull.pull(
            opened,
            facts,
            runtime.build,
            last_good,
            report.now,
            vet,
            stopping=runtime.stop,
        )
        runtime.raise_if_stopping()  # a source that was cut off is neither stale nor unreachable
        previous_errors = {source.name: source.error for source in memory.report.sources}
        memory.pulled, memory.report.sources = pulled, pulled.reports
        result.append("; ".join(f"{r.name} ({r.backend}) {r.state}" for r in pulled.reports) or "no sources")
    for source in pulled.reports:
        # a required source without a last good copy is reported by the error below
        if source.error and source.state != SourceState.FAILED and source.error != previous_errors.get(source.name):
            log.warning("source %s: %s (%s)", source.name, source.error, source.state, extra={"PARBAKE_SOURCE": source.name})
    if pulled.missing:
        raise SourceMissing(
            "no run config: " + "; ".join(pulled.missing),
            hint="there is no last good run config to fall back to; nothing was changed",
        )
    return pulled


def _enforce_contract(runtime: Runtime, memory: Memory, merged: Merged, facts: Facts) -> RunConfig:
    """Return the run config. Raises ContractError that also names the keys that templates would miss: one run names all."""
    keys = runtime.settings.keys
    try:
        return contract.enforce(merged, keys)
    except ContractError as error:
        named = "\n".join(error.problems)
        valid = contract.valid_subset(merged, keys)
        problems = list(error.problems)
        for template in runtime.settings.templates:
            missing = renderer_of(runtime, memory).missing_keys(template, valid, facts)
            names = (name.removeprefix("config.") for name in missing)
            problems += [
                f"{name}: in no layer, and template {template.name} reads it" for name in names if f"{name}:" not in named
            ]
        raise ContractError(f"the run config breaks the contract: {len(problems)} key(s)", problems, hint=error.hint) from None


def _plan(runtime: Runtime, memory: Memory, renderings: dict[str, Rendering], waiting: dict[str, Any]) -> Plan:
    """Compare the renderings with the disk. Adds the groups that cannot be planned, or were rejected, to `waiting`."""
    changes: list[Change] = []
    for template in runtime.settings.templates:
        if template.group_name in waiting:
            continue
        try:
            changes.append(_change_of(runtime, memory, template, renderings[template.name]))
        except (ApplyError, RenderError) as error:
            waiting[template.group_name] = error
    rejections = quarantine.load(runtime.state.records)
    for group, rejection in rejections.items():
        own = [change for change in changes if change.group == group]
        templates = [template for template in runtime.settings.templates if template.group_name == group]
        if group not in waiting and own and quarantine.digest_of(templates, own) == rejection.digest:
            waiting[group] = quarantine.as_error(rejection)
    changes = [change for change in changes if change.group not in waiting]
    active = [rejection for group, rejection in rejections.items() if group not in waiting]
    return Plan(tuple(changes), plan_unit_steps(runtime.settings.templates, changes, active))


def _change_of(runtime: Runtime, memory: Memory, template: Template, rendering: Rendering) -> Change:
    paths = runtime.paths
    uid = safe_files.owner_id(paths, template.owner) if template.owner else None
    gid = safe_files.group_id(paths, template.group) if template.group else None
    old = safe_files.read_target(paths, template.target)
    if not paths.is_host and safe_files.unprivileged():
        # with --root and without root an owner cannot be set: the present owner counts as right, and the log says so
        uid, gid = (old.uid, old.gid) if old else safe_files.own_ids()
        if template.owner or template.group:
            log.info("template %s: owner and group are not set, since parbake does not run as root here", template.name)
    # The first convergence of a process, and every command by hand, restores targets whatever was done to them.
    return plan_change(template, rendering, old, uid, gid, applied=memory.applied.get(template.target))


def _summary(plan: Plan) -> str:
    pending = [change for change in plan.changes if change.pending]
    if not pending:
        return "nothing to change"
    units = ", ".join(f"{step.action} {step.unit}" for step in plan.units)
    return f"{len(pending)} of {len(plan.changes)} targets change" + (f"; {units}" if units else "")
