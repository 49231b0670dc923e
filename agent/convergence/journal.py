"""One generation put into effect: commit, act on units, and go back where a group's services do not come up.

The journal (`transaction` in the state directory) is written before the first rename and removed when everything is
confirmed and the old files are gone: its last name, `transaction.done`, says that none of them is needed any more. Whoever
starts next and finds one finishes it: renames that are missing are made, units whose action has no recorded result are
acted on, what was not verified is verified.

Each group stands or falls alone. Where some of a generation's groups go back, the journal first says which. Where all do,
that begins with the journal's new name (`transaction.undo`), which needs no space on the disk. From then on every start goes
back and none goes forward, until the old files are all in place again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent.convergence import staging
from agent.errors import ApplyError, StateError
from agent.model import UnitAction, UnitOutcome, UnitResult, UnitStep
from agent.paths import Paths
from agent.settings.models import Settings, Template
from agent.state.store import State
from agent.system.units import Units

log = logging.getLogger("parbake.apply")
JOURNAL, UNDO, DONE = "transaction", "transaction.undo", "transaction.done"
_RETRY_SECONDS = 0.5

Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Group:
    """A group that takes part. `digest` tells what it is to hold; `first`: it has nothing earlier to go back to."""

    name: str
    digest: str
    first: bool
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A commit under way. `results` by unit, as far as known; `failed`: the groups that do not hold, with the reason.

    `hold`: the generation that is held once this is confirmed (`parbake rollback`). `undoing`: all of it is taken back.
    `since`: the first generation that it includes; an earlier one than its own where that was not confirmed yet.
    """

    generation: int
    digest: str
    keys: tuple[str, ...]
    renames: tuple[staging.Rename, ...]
    steps: tuple[UnitStep, ...]
    groups: tuple[Group, ...] = ()
    committed: bool = False
    results: Mapping[str, UnitResult] = field(default_factory=dict)
    hold: int | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    undoing: bool = False
    since: int = 0

    @property
    def deferred(self) -> bool:
        """Whether a unit waits for READY, so that nothing can be verified yet."""
        return any(r.result in (UnitOutcome.QUEUED, UnitOutcome.INACTIVE) for r in self.results.values())

    @property
    def templates(self) -> tuple[str, ...]:
        """Those whose targets are replaced."""
        return tuple(rename.template for rename in self.renames)

    def group_of(self, template: str) -> str:
        return next((group.name for group in self.groups if template in group.templates), "")

    def groups_of(self, unit: str) -> frozenset[str]:
        """The groups whose templates ask for this action on a unit."""
        return frozenset(self.group_of(name) for step in self.steps if step.unit == unit for name in step.templates)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a transaction works with. `pause` sleeps and keeps the watchdog fed."""

    paths: Paths
    settings: Settings
    state: State
    units: Units
    run: staging.Run
    pause: Pause
    secrets: tuple[str, ...] | None = None
    stopping: Callable[[], bool] = lambda: False


def save(state: State, transaction: Transaction) -> None:
    state.save(
        JOURNAL,
        {
            "generation": transaction.generation,
            "digest": transaction.digest,
            "keys": list(transaction.keys),
            "renames": staging.as_plain(transaction.renames),
            "steps": [asdict(step) for step in transaction.steps],
            "groups": [asdict(group) for group in transaction.groups],
            "committed": transaction.committed,
            "hold": transaction.hold,
            "failed": dict(transaction.failed),
            "since": transaction.since,
            "results": {u: [r.action, r.result, r.detail] for u, r in transaction.results.items()},
        },
    )


def load(state: State) -> Transaction | None:
    """The transaction that an earlier run left, or None. Raises StateError where that cannot be read."""
    undoing = _parsed(state, UNDO)
    return replace(undoing, undoing=True) if undoing else _parsed(state, JOURNAL)


def _parsed(state: State, name: str) -> Transaction | None:
    record = state.load(name)
    if not record:
        return None
    try:
        return Transaction(
            int(record["generation"]),
            str(record["digest"]),
            tuple(record["keys"]),
            tuple(staging.from_plain(record["renames"])),
            tuple(_step(item) for item in record["steps"]),
            tuple(Group(str(g["name"]), str(g["digest"]), bool(g["first"]), tuple(g["templates"])) for g in record["groups"]),
            bool(record["committed"]),
            {
                unit: UnitResult(unit, UnitAction(action), UnitOutcome(result), detail)
                for unit, (action, result, detail) in record["results"].items()
            },
            record["hold"],
            {str(name): str(why) for name, why in record["failed"].items()},
            since=int(record["since"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("the journal of an earlier commit is damaged (%s); its targets are compared afresh", error)
        state.remove(name)
        return None


def _step(item: Mapping[str, Any]) -> UnitStep:
    return UnitStep(
        item["unit"],
        UnitAction(item["action"]),
        tuple(item["templates"]),
        tuple(item["command"]),
        float(item["timeout_seconds"]),
    )


def joined(earlier: Transaction, started: Transaction) -> Transaction:
    """`started`, with an earlier one in it that waits for READY to be verified: what does not hold then goes back to what
    was there before both."""
    mine = {rename.target for rename in started.renames}
    created = {rename.target: rename.created for rename in earlier.renames}
    renames = [replace(rename, sha256="") for rename in earlier.renames if rename.target not in mine]
    renames += [replace(rename, created=created.get(rename.target, rename.created)) for rename in started.renames]
    first = {group.name: group.first for group in earlier.groups}
    groups = {group.name: group for group in earlier.groups}
    groups |= {group.name: replace(group, first=first.get(group.name, group.first)) for group in started.groups}
    asked = {step.unit: step.templates for step in earlier.steps}
    steps = {step.unit: step for step in earlier.steps}
    for step in started.steps:
        names = tuple(dict.fromkeys((*asked.get(step.unit, ()), *step.templates)))
        steps[step.unit] = replace(step, templates=names)
    again = {step.unit for step in started.steps}
    return replace(
        started,
        keys=tuple(sorted({*earlier.keys, *started.keys})),
        renames=tuple(renames),
        steps=tuple(steps.values()),
        groups=tuple(groups.values()),
        results={unit: result for unit, result in earlier.results.items() if unit not in again},
        since=earlier.since,
    )


def commit(tools: Tools, transaction: Transaction, earlier: Transaction | None = None) -> Transaction:
    """Journal and rename. `earlier` is in the journal, and in `transaction`. Raises ApplyError after putting back what was
    replaced, StateError before replacing anything."""
    try:
        save(tools.state, transaction)
    except StateError:
        # it may be there and only not durable; without it the candidates mean nothing
        if earlier is None:
            tools.state.remove(JOURNAL)
        else:
            save(tools.state, earlier)
        staging.discard(tools.paths, [rename.target for rename in transaction.renames])
        raise
    return complete(tools, transaction)


def complete(tools: Tools, transaction: Transaction) -> Transaction:
    """Make the renames that are missing. Raises ApplyError after putting back what was replaced."""
    try:
        staging.commit(tools.paths, transaction.renames)
    except ApplyError:
        take_back(tools, undo(tools, transaction))
        tools.state.remove(UNDO)
        raise
    committed = replace(transaction, committed=True)
    save(tools.state, committed)
    return committed


def act(tools: Tools, transaction: Transaction, *, before_ready: bool) -> Transaction:
    """Act on every unit that has no result yet, each once, in order; journaled after each. What fails while parbake is to
    stop was perhaps cut short: it is left for the next start."""
    for step in transaction.steps:
        if step.unit in transaction.results:
            continue
        result = _act_with_retries(tools, step, before_ready)
        if result.result == UnitOutcome.FAILED and tools.stopping():
            return transaction
        log.log(
            logging.INFO if result.result != UnitOutcome.FAILED else logging.ERROR,
            "unit %s: %s %s%s",
            step.unit,
            step.action,
            result.result,
            f" ({result.detail})" if result.detail else "",
            extra={"PARBAKE_UNIT": step.unit},
        )
        transaction = replace(transaction, results={**transaction.results, step.unit: result})
        save(tools.state, transaction)
    return transaction


def _act_with_retries(tools: Tools, step: UnitStep, before_ready: bool) -> UnitResult:
    """A failed action on a unit that still runs is done again, with back-off; a unit that is down is for going back."""
    delay = _RETRY_SECONDS
    result = tools.units.act(step, before_ready=before_ready)
    for attempt in range(tools.settings.units.retries):
        again = step.action == UnitAction.COMMAND or tools.units.state(step.unit).running
        if result.result != UnitOutcome.FAILED or not again or tools.stopping():
            return result
        log.warning("unit %s: %s failed, again in %g s (%s)", step.unit, step.action, delay, result.detail)
        tools.pause(delay)
        delay *= 2
        result = tools.units.act(step, before_ready=before_ready)
        if result.result == UnitOutcome.OK:
            return replace(result, detail=f"at attempt {attempt + 2}")
    return result


def confirm(tools: Tools, transaction: Transaction) -> None:
    """Everything holds: the kept old files and the journal go. Raises StateError."""
    tools.state.rename(JOURNAL, DONE)
    _clear(tools, transaction)


def clear(tools: Tools) -> None:
    """Remove the old files that a confirmed transaction has left, because it was stopped there. Raises StateError."""
    left = _parsed(tools.state, DONE)
    if left is not None:
        _clear(tools, left)


def _clear(tools: Tools, transaction: Transaction) -> None:
    staging.discard(tools.paths, [rename.target for rename in transaction.renames], backups=True)
    tools.state.remove(DONE)


def undo(tools: Tools, transaction: Transaction) -> Transaction:
    """Decide, durably and without space on the disk, that all of it goes back. Raises StateError."""
    if not transaction.undoing:
        tools.state.rename(JOURNAL, UNDO)
    return replace(transaction, undoing=True)


def fail(tools: Tools, transaction: Transaction, failed: Mapping[str, str]) -> Transaction:
    """Decide, durably, which groups do not hold. Where that cannot be written, all of it goes back. Raises StateError."""
    decided = replace(transaction, failed=dict(failed))
    try:
        save(tools.state, decided)
    except StateError as error:
        log.error("%s; so all of generation %d goes back", error, transaction.generation)
        return undo(tools, decided)
    return decided


def take_back(tools: Tools, transaction: Transaction, groups: Collection[str] | None = None) -> list[str]:
    """Put the earlier targets of some groups back, of all where they are not named. Returns those that were.

    Raises ApplyError where one could not be: the next start tries again.
    """
    return staging.put_back(tools.paths, [r for r in transaction.renames if groups is None or r.group in groups])


def act_again(tools: Tools, transaction: Transaction, groups: Collection[str], *, before_ready: bool) -> dict[str, UnitResult]:
    """Act on the units of groups that were taken back, so that they run on what was there before."""
    results = {}
    for step in transaction.steps:
        if transaction.groups_of(step.unit) & set(groups):
            again = replace(step, action=_stronger(tools, step))
            results[step.unit] = tools.units.act(again, before_ready=before_ready)
    return results


def _stronger(tools: Tools, step: UnitStep) -> UnitAction:
    """A unit that is down is restarted, whatever its template asks for."""
    if step.action == UnitAction.COMMAND or tools.units.state(step.unit).running:
        return step.action
    return UnitAction.RESTART


def leave_or_stop(tools: Tools, units: Iterable[str]) -> tuple[str, ...]:
    """Units of a group that failed and has nothing to go back to. Returns those that were stopped."""
    if tools.settings.units.on_first_failure != "stop":
        return ()
    stopped = tuple(units)
    for unit in stopped:
        tools.units.stop(unit)
    return stopped


def sweep(paths: Paths, templates: Iterable[Template]) -> None:
    """With no journal: remove what a run that was killed before it, or could not clean up after it, left beside targets."""
    staging.discard(paths, [template.target for template in templates], backups=True)
