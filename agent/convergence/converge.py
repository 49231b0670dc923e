"""The one function that runs the steps in order: discover, pull, check the contract, render, plan, and put into effect.

`prepare` is everything up to the plan and touches nothing; `parbake plan` ends there. `executor` does the rest.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from agent.convergence import plan, quarantine
from agent.convergence.context import PlannedConvergence, World, open_source, timed
from agent.convergence.executor import execute, tell_shipper, unit_steps
from agent.convergence.recovery import HOLD, held, recover
from agent.discovery import engine, fact_validation, identity
from agent.errors import ApplyError, ContractError, DataError, RenderError, SourceMissing, StateError
from agent.model import Change, Facts, Merged, Rendering, RunConfig, SourceState
from agent.runconfig import contract, merge
from agent.settings import interpolation
from agent.settings.models import Source, Template
from agent.sources import pull
from agent.sources.pull import Pulled
from agent.state.last_good import LastGood
from agent.status import report
from agent.system import safe_files

log = logging.getLogger("parbake.converge")


def converge(world: World, *, cause: str, before_ready: bool = False, wait: bool = True, let_go: bool = False) -> int:
    """The whole way, once. `let_go` ends a hold, and lets what was rejected be tried once more.

    Returns the exit code; `world.report` tells the rest, also where ParbakeError is raised.
    """
    start = time.monotonic()
    world.state.prepare()
    try:
        with world.state.lock(wait=wait, pause=world.pause, stopping=world.stopping):
            world.state.sweep()
            facts = discover_facts(world)
            adopt_identity(world, facts)
            recover(world, before_ready=before_ready)
            if let_go:
                quarantine.try_again(world.state)
                world.state.remove(HOLD)
            world.report.hold = held(world.state)
            try:
                prepared = prepare(world, facts)
            except ContractError:
                _tell_shipper_of_what_holds(world)
                raise
            return execute(world, prepared, cause=cause, before_ready=before_ready)
    finally:
        world.report.seconds = time.monotonic() - start
        world.report.convergences += 1


def _tell_shipper_of_what_holds(world: World) -> None:
    """Where the contract is broken: services that run on the earlier generation log too."""
    if world.pulled is None:
        return
    try:
        tell_shipper(world, contract.valid_subset(merge.merge(world.pulled.snapshots), world.settings.keys))
    except (StateError, ContractError) as error:
        log.error("%s", error)


def adopt_identity(world: World, facts: Facts) -> None:
    """Set aside what another instance left, before anything of it is read: an image may be captured from a running one."""
    record, before, now = _identities(world, facts)
    if record and identity.changed(before, now):
        aside = world.state.archive_previous_instance()
        log.warning("this is another instance (%s, was %s): its earlier state is set aside in %s", now, before, aside)
    else:
        now = identity.remembered(before, now)
    fields = {"instance_id": now.instance_id, "product_uuid": now.product_uuid, "machine_id": now.machine_id}
    if fields != record:
        world.state.save("instance", fields)


def _identities(world: World, facts: Facts) -> tuple[dict[str, Any], identity.Identity, identity.Identity]:
    """What is remembered, as it is and as an identity, and the identity that this instance has."""
    record = world.state.load("instance")
    names = ("instance_id", "product_uuid", "machine_id")
    return record, identity.Identity(*(str(record.get(name, "")) for name in names)), identity.identify(facts, world.paths)


def _last_good(world: World, facts: Facts) -> LastGood:
    """The last good run config, where it is not another instance's: `plan` on a clone comes before it is set aside."""
    _, before, now = _identities(world, facts)
    return LastGood() if identity.changed(before, now) else world.state.last_good.load()


def prepare(world: World, facts: Facts) -> PlannedConvergence:
    """Pull, merge, check the contract, render, plan. Raises ParbakeError; touches nothing but its own memory."""
    pulled = _pull(world, facts)
    with timed(world, "contract") as said:
        merged = merge.merge(pulled.snapshots)
        config = _under_contract(world, merged, facts)
        said.append(f"{len(config.origins)} keys, {len(config.secrets)} of them secret")
    with timed(world, "render") as said:
        renderings, waiting, rendered = _render(world, config, facts)
        said.append(f"{rendered} of {len(world.settings.templates)} templates rendered")
    with timed(world, "plan") as said:
        planned = _plan(world, renderings, waiting)
        said.append(_plan_words(planned))
    digest = world.state.digest(config, facts.values, world.build)
    return PlannedConvergence(facts, pulled, config, digest, renderings, planned, waiting, rendered)


def _under_contract(world: World, merged: Merged, facts: Facts) -> RunConfig:
    """The run config. Raises ContractError that also names what templates would miss, so that one run names every key."""
    try:
        return contract.enforce(merged, world.settings.keys)
    except ContractError as error:
        said = "\n".join(error.problems)
        holds = contract.valid_subset(merged, world.settings.keys)
        more = []
        for template in world.settings.templates:
            names = [name.removeprefix("config.") for name in _renderer(world).missing_keys(template, holds, facts)]
            more += [f"{name}: in no layer, and template {template.name} reads it" for name in names if f"{name}:" not in said]
        problems = [*error.problems, *more]
        raise ContractError(f"the run config breaks the contract: {len(problems)} key(s)", problems, hint=error.hint) from None


def _renderer(world: World) -> Any:
    # Jinja2 costs a third of a short run's time: it comes in only where there is something to render
    from agent.templates import renderer as render

    if world.renderer is None:
        world.renderer = render.Renderer(world.paths, world.settings.component, world.settings.templates)
    return world.renderer


def discover_facts(world: World) -> Facts:
    """Discover the facts. Raises SettingsError for a provider that cannot be imported."""
    world.extend_watchdog(world.settings.discovery.timeout)
    with timed(world, "facts") as said:
        facts = engine.discover(world.settings, world.paths, notices=world.notices)
        world.facts, world.report.facts = facts, facts.values
        short = engine.missing_facts_summary(facts)
        if short and short != world.said_short:
            log.warning("%s", short)
        world.said_short = short
        said.append(", ".join(f"{n}={v}" for n, v in sorted(facts.values.items()) if isinstance(v, str)) or "none")
    return facts


def _vet(source: Source, facts: Facts) -> None:
    """Refuse a fact that would lead a source elsewhere: a fact's value is anybody's. Raises DiscoveryError."""
    for name in {*interpolation.names_in(source.layers), *interpolation.names_in_options(source.options)}:
        value = interpolation.value_of(facts.values, name)
        if isinstance(value, (str, int)):
            fact_validation.check_segment(name, str(value))


def _pull(world: World, facts: Facts) -> Pulled:
    good = _last_good(world, facts)
    with timed(world, "pull") as said:
        opened = [(settings, open_source(world, settings, facts)) for settings in world.settings.sources]

        def vet(source: Source, facts: Facts) -> None:
            world.extend_watchdog(source.timeout)
            _vet(source, facts)

        pulled = pull.pull(opened, facts, world.build, good, report.now, vet)
        before = world.report.sources
        world.pulled, world.report.sources = pulled, pulled.reports
        said.append("; ".join(f"{r.name} ({r.backend}) {r.state}" for r in pulled.reports) or "no sources")
    known = {source.name: source.error for source in before}
    for source in pulled.reports:
        # one that failed is in the error below
        if source.error and source.state != SourceState.FAILED and source.error != known.get(source.name):
            log.warning("source %s: %s (%s)", source.name, source.error, source.state, extra={"PARBAKE_SOURCE": source.name})
    if pulled.missing:
        raise SourceMissing(
            "no run config: " + "; ".join(pulled.missing),
            hint="there is no last good run config to fall back to; nothing was changed",
        )
    return pulled


def _render(
    world: World, config: RunConfig, facts: Facts
) -> tuple[dict[str, Rendering], dict[str, DataError | ApplyError], int]:
    if not world.settings.templates:
        return {}, {}, 0
    from agent.templates import renderer as render

    renderer = _renderer(world)
    renderings: dict[str, Rendering] = {}
    waiting: dict[str, DataError | ApplyError] = {}
    failures: dict[str, list[RenderError]] = {}
    count = 0
    for template in world.settings.templates:
        earlier = world.last.renderings.get(template.name) if world.last else None
        if earlier and world.last and render.inputs_unchanged(earlier, world.last.config, config, world.last.facts, facts):
            renderings[template.name] = earlier
            continue
        try:
            renderings[template.name] = renderer.render(template, config, facts)
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
        f"{len(errors)} templates cannot be rendered",
        [str(error).replace("\n", "\n  ") for error in errors],
        hint=errors[0].hint,
    )


def _plan(world: World, renderings: Mapping[str, Rendering], waiting: dict[str, DataError | ApplyError]) -> plan.Plan:
    changes: list[Change] = []
    for template in world.settings.templates:
        if template.group_name in waiting:
            continue
        try:
            changes.append(_change(world, template, renderings[template.name]))
        except (ApplyError, RenderError) as error:
            waiting[template.group_name] = error
    rejected = quarantine.load(world.state)
    _leave_out_rejected(world, changes, waiting, rejected)
    changes = [change for change in changes if change.group not in waiting]
    steps = unit_steps(world, changes, [known for name, known in rejected.items() if name not in waiting])
    return plan.Plan(tuple(changes), steps)


def _leave_out_rejected(
    world: World,
    changes: list[Change],
    waiting: dict[str, DataError | ApplyError],
    rejected: Mapping[str, quarantine.Rejection],
) -> None:
    """A group whose targets would be the very ones that did not hold is left as it is."""
    for name, known in rejected.items():
        ours = [change for change in changes if change.group == name]
        templates = [template for template in world.settings.templates if template.group_name == name]
        if name not in waiting and ours and quarantine.digest_of(templates, ours) == known.digest:
            waiting[name] = quarantine.as_error(known)


def _change(world: World, template: Template, rendering: Rendering) -> Change:
    uid = safe_files.owner_id(world.paths, template.owner) if template.owner else None
    gid = safe_files.group_id(world.paths, template.group) if template.group else None
    old = safe_files.read_target(world.paths, template.target)
    if not world.paths.is_host and safe_files.unprivileged():
        # below --root without root an owner cannot be set: what is there counts as right, and the plan says so
        uid, gid = (old.uid, old.gid) if old else safe_files.own_ids()
        if template.owner or template.group:
            log.info("template %s: owner and group are not set, since parbake is not root here", template.name)
    return plan.change(template, rendering, old, uid, gid, rendered_before=_in_place(world, template, rendering))


def _in_place(world: World, template: Template, rendering: Rendering) -> bool:
    """Whether this run of the daemon has this very content in place already. The first convergence of a run, and every
    command by hand, puts targets back whatever was done to them."""
    if world.last is None:
        return False
    known = world.applied.get(template.name)
    return known is not None and known == hashlib.sha256(rendering.content).hexdigest()


def _plan_words(planned: plan.Plan) -> str:
    pending = [change for change in planned.changes if change.pending]
    if not pending:
        return "nothing to change"
    units = ", ".join(f"{step.action} {step.unit}" for step in planned.units)
    return f"{len(pending)} of {len(planned.changes)} targets change" + (f"; {units}" if units else "")
