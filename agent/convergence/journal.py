"""The journal of a convergence: one record that holds the phase, what is replaced, and the results so far.

It is the file `transaction` in the state directory. It is written before the first rename and removed at the end, so a start
that finds one finishes it. The phase and the phase before it are its first fields, padded to a fixed width: entering a phase
overwrites both in place, which needs no space. So a rollback begins, and a generation is confirmed, on a full disk as well.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent.convergence import phases, staging
from agent.convergence.phases import Phase
from agent.errors import StateError
from agent.model import UnitAction, UnitOutcome, UnitResult, UnitStep
from agent.state.records import Records

log = logging.getLogger("parbake.apply")
RECORD = "transaction"
_WIDTH = max(len(phase) for phase in Phase)
_WAITING = (UnitOutcome.QUEUED, UnitOutcome.INACTIVE)


@dataclass(frozen=True, slots=True)
class Group:
    """A group that takes part.

    `digest` identifies what it is to hold (`quarantine.digest_of`). `first`: it has nothing earlier to roll back to.
    """

    name: str
    digest: str
    first: bool
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One convergence that changes something.

    `previous` is the phase before `phase`. `results` maps a unit to the result of its action, as far as known. `failed` maps
    a group that does not hold to the reason; a rollback of everything has none. `hold` is the generation that is held once
    this is confirmed (`parbake rollback`). `since` is the first generation that it includes: an earlier one than its own if
    that one was not confirmed yet.
    """

    generation: int
    digest: str
    keys: tuple[str, ...]
    renames: tuple[staging.Rename, ...]
    steps: tuple[UnitStep, ...]
    groups: tuple[Group, ...] = ()
    phase: Phase = Phase.CHECKED
    previous: Phase = Phase.STAGED
    results: Mapping[str, UnitResult] = field(default_factory=dict)
    hold: int | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    since: int = 0

    @property
    def awaits_start(self) -> bool:
        """Whether systemd has yet to start a unit, so that nothing can be verified."""
        return any(result.result in _WAITING for result in self.results.values())

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates whose targets are replaced."""
        return tuple(rename.template for rename in self.renames)

    @property
    def group_names(self) -> frozenset[str]:
        return frozenset(group.name for group in self.groups)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(rename.target for rename in self.renames)

    def group_of(self, template: str) -> str:
        return next((group.name for group in self.groups if template in group.templates), "")

    def groups_of(self, unit: str) -> frozenset[str]:
        """Return the groups whose templates ask for an action on a unit."""
        return frozenset(self.group_of(name) for step in self.steps if step.unit == unit for name in step.templates)

    def units_of(self, groups: frozenset[str]) -> tuple[str, ...]:
        """Return the units that only these groups ask for, commands left out."""
        return tuple(step.unit for step in self.steps if not step.command and self.groups_of(step.unit) <= groups)


def save(records: Records, transaction: Transaction) -> None:
    """Write the whole record, durably. Raises StateError."""
    content = {
        "generation": transaction.generation,
        "digest": transaction.digest,
        "keys": list(transaction.keys),
        "renames": [asdict(rename) for rename in transaction.renames],
        "steps": [asdict(step) for step in transaction.steps],
        "groups": [asdict(group) for group in transaction.groups],
        "hold": transaction.hold,
        "failed": dict(transaction.failed),
        "since": transaction.since,
        "results": {unit: [r.action, r.result, r.detail] for unit, r in transaction.results.items()},
    }
    text = _head(transaction) + json.dumps(content, sort_keys=True).removeprefix("{")
    records.write(records.directory / RECORD, text.encode())


def _head(transaction: Transaction) -> str:
    """Return the beginning of the record, which has the same length in every phase."""
    return f'{{"phase": "{transaction.phase:<{_WIDTH}}", "previous": "{transaction.previous:<{_WIDTH}}", '


def load(records: Records) -> Transaction | None:
    """Return the transaction that an earlier run has left, or None. Raises StateError if it cannot be read."""
    record = records.load(RECORD)
    if not record:
        return None
    try:
        return parse(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("the journal of an unfinished convergence is damaged (%s); its targets are compared afresh", error)
        records.remove(RECORD)
        return None


def parse(record: Mapping[str, Any]) -> Transaction:
    """Return a record as a transaction. Raises KeyError, TypeError, ValueError or AttributeError if it is damaged."""
    return Transaction(
        int(record["generation"]),
        str(record["digest"]),
        tuple(str(key) for key in record["keys"]),
        tuple(staging.Rename.parse(item) for item in record["renames"]),
        tuple(_parse_step(item) for item in record["steps"]),
        tuple(Group(str(g["name"]), str(g["digest"]), bool(g["first"]), tuple(g["templates"])) for g in record["groups"]),
        Phase(record["phase"].strip()),
        Phase(record["previous"].strip()),
        {unit: _parse_result(unit, result) for unit, result in record["results"].items()},
        record["hold"],
        {str(group): str(reason) for group, reason in record["failed"].items()},
        int(record["since"]),
    )


def _parse_result(unit: str, item: Sequence[str]) -> UnitResult:
    action, outcome, detail = item
    return UnitResult(unit, UnitAction(action), UnitOutcome(outcome), detail)


def _parse_step(item: Mapping[str, Any]) -> UnitStep:
    return UnitStep(
        item["unit"],
        UnitAction(item["action"]),
        tuple(item["templates"]),
        tuple(item["command"]),
        float(item["timeout_seconds"]),
    )


def enter(records: Records, transaction: Transaction, phase: Phase, **changes: Any) -> Transaction:
    """Enter a phase, durably, and return the transaction in it.

    `changes` are other fields of the transaction that change with it; they need space on the disk, a phase alone does not.
    Raises StateError.
    """
    entered = replace(transaction, phase=phases.advance(transaction.phase, phase), previous=transaction.phase, **changes)
    if changes or phase == Phase.COMMITTING:
        save(records, entered)
    else:
        records.overwrite(RECORD, 0, _head(entered).encode())
    return entered


def record_result(records: Records, transaction: Transaction, result: UnitResult) -> Transaction:
    """Add the result of a unit's action. Raises StateError."""
    recorded = replace(transaction, results={**transaction.results, result.unit: result})
    save(records, recorded)
    return recorded


def fail(records: Records, transaction: Transaction, failed: Mapping[str, str]) -> Transaction:
    """Decide, durably, which groups are rolled back, and why.

    If a full disk refuses that, all of them are, and `failed` of the returned transaction is empty. Raises StateError.
    """
    try:
        return enter(records, transaction, Phase.ROLLING_BACK, failed=dict(failed))
    except StateError as error:
        log.error("%s; so all of generation %d is rolled back", error, transaction.generation)
        return enter(records, replace(transaction, failed={}), Phase.ROLLING_BACK)


def remove(records: Records) -> None:
    """Raises StateError."""
    records.remove(RECORD)


def merge_unconfirmed(earlier: Transaction, started: Transaction) -> Transaction:
    """Return `started` with an earlier transaction in it that was not confirmed yet.

    If it does not hold, its targets are rolled back to what was there before both.
    """
    own = {rename.target for rename in started.renames}
    created = {rename.target: rename.created for rename in earlier.renames}
    renames = [replace(rename, sha256="") for rename in earlier.renames if rename.target not in own]
    renames += [replace(rename, created=created.get(rename.target, rename.created)) for rename in started.renames]
    first = {group.name: group.first for group in earlier.groups}
    groups = {group.name: group for group in earlier.groups}
    groups |= {group.name: replace(group, first=first.get(group.name, group.first)) for group in started.groups}
    requested_by = {step.unit: step.templates for step in earlier.steps}
    steps = {step.unit: step for step in earlier.steps}
    for step in started.steps:
        names = tuple(dict.fromkeys((*requested_by.get(step.unit, ()), *step.templates)))
        steps[step.unit] = replace(step, templates=names)
    repeated = {step.unit for step in started.steps}
    return replace(
        started,
        keys=tuple(sorted({*earlier.keys, *started.keys})),
        renames=tuple(renames),
        steps=tuple(steps.values()),
        groups=tuple(groups.values()),
        results={unit: result for unit, result in earlier.results.items() if unit not in repeated},
        since=earlier.since,
    )
