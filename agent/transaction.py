"""One generation put into effect: commit, act on units, verify, and go back where a service does not come up.

The journal (`transaction` in the state directory) is written before the first rename and removed when everything is
confirmed. Whoever starts next and finds one finishes it: renames that are missing are made, units whose action has no
recorded result are acted on, what was not verified is verified.

Going back begins with the journal's new name (`transaction.undo`), which needs no space on the disk. From then on every
start goes back and none goes forward, until the old files are all in place again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent import apply
from agent.errors import ApplyError, StateError
from agent.model import UnitResult, UnitStep
from agent.places import Places
from agent.settings.tables import Settings, Template
from agent.state import State
from agent.units import Units

log = logging.getLogger("parbake.apply")
JOURNAL, UNDO = "transaction", "transaction.undo"
_POLL_SECONDS = 0.2
_COME_UP_SECONDS = 90.0
_IDLE_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_VERIFY_PAUSE_SECONDS = 1.0

Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A commit under way. `first`: there is no earlier generation to go back to. `results` by unit, as far as known.

    `hold`: the generation that is held once this is confirmed (`parbake rollback`). `undoing`: it is being taken back.
    """

    generation: int
    digest: str
    keys: tuple[str, ...]
    renames: tuple[apply.Rename, ...]
    steps: tuple[UnitStep, ...]
    templates: tuple[str, ...] = ()
    first: bool = False
    committed: bool = False
    results: Mapping[str, UnitResult] = field(default_factory=dict)
    hold: int | None = None
    undoing: bool = False

    @property
    def deferred(self) -> bool:
        """Whether a unit waits for READY, so that nothing can be verified yet."""
        return any(r.result in ("queued", "inactive") for r in self.results.values())


@dataclass(frozen=True, slots=True)
class Tools:
    """What a transaction works with. `pause` sleeps and keeps the watchdog fed."""

    places: Places
    settings: Settings
    state: State
    units: Units
    run: apply.Run
    pause: Pause
    secrets: tuple[str, ...] | None = None
    stopping: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a generation does not hold, and the units that this is about."""

    text: str
    units: tuple[str, ...]


def save(state: State, transaction: Transaction) -> None:
    state.save(
        JOURNAL,
        {
            "generation": transaction.generation,
            "digest": transaction.digest,
            "keys": list(transaction.keys),
            "renames": apply.as_plain(transaction.renames),
            "steps": [asdict(step) for step in transaction.steps],
            "templates": list(transaction.templates),
            "first": transaction.first,
            "committed": transaction.committed,
            "hold": transaction.hold,
            "results": {u: [r.action, r.result, r.detail] for u, r in transaction.results.items()},
        },
    )


def load(state: State) -> Transaction | None:
    """The transaction that an earlier run left, or None."""
    undo = state.load(UNDO)
    record = undo or state.load(JOURNAL)
    if not record:
        return None
    try:
        return Transaction(
            int(record["generation"]),
            str(record["digest"]),
            tuple(record["keys"]),
            tuple(apply.from_plain(record["renames"])),
            tuple(_step(item) for item in record["steps"]),
            tuple(record["templates"]),
            bool(record["first"]),
            bool(record["committed"]),
            {unit: UnitResult(unit, *said) for unit, said in record["results"].items()},
            record["hold"],
            bool(undo),
        )
    except (KeyError, TypeError, ValueError) as error:
        log.warning("the journal of an earlier commit is damaged (%s); its targets are compared afresh", error)
        state.remove(UNDO if undo else JOURNAL)
        return None


def _step(item: Mapping[str, Any]) -> UnitStep:
    return UnitStep(
        item["unit"], item["action"], tuple(item["templates"]), tuple(item["command"]), float(item["timeout_seconds"])
    )


def commit(tools: Tools, transaction: Transaction) -> Transaction:
    """Journal and rename. Raises ApplyError after putting back what was replaced, StateError before replacing anything."""
    try:
        save(tools.state, transaction)
    except StateError:
        tools.state.remove(JOURNAL)  # it may be there and only not durable; without it the candidates mean nothing
        apply.discard(tools.places, [rename.target for rename in transaction.renames])
        raise
    return complete(tools, transaction)


def complete(tools: Tools, transaction: Transaction) -> Transaction:
    """Make the renames that are missing. Raises ApplyError after putting back what was replaced."""
    try:
        apply.commit(tools.places, transaction.renames)
    except ApplyError:
        take_back(tools, transaction)
        tools.state.remove(UNDO)
        raise
    committed = replace(transaction, committed=True)
    save(tools.state, committed)
    return committed


def act(tools: Tools, transaction: Transaction, *, before_ready: bool) -> Transaction:
    """Act on every unit that has no result yet, each once, in order; journaled after each."""
    for step in transaction.steps:
        if step.unit in transaction.results:
            continue
        result = _act_with_retries(tools, step, before_ready)
        log.log(
            logging.INFO if result.result != "failed" else logging.ERROR,
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
        again = step.action == "command" or tools.units.state(step.unit).running
        if result.result != "failed" or not again:
            return result
        log.warning("unit %s: %s failed, again in %g s (%s)", step.unit, step.action, delay, result.detail)
        tools.pause(delay)
        delay *= 2
        result = tools.units.act(step, before_ready=before_ready)
        if result.result == "ok":
            return replace(result, detail=f"at attempt {attempt + 2}")
    return result


def verify(tools: Tools, transaction: Transaction) -> Problem | None:
    """Why the generation does not hold, or None: units that stay up, and the templates' `verify` commands."""
    failed = [result for result in transaction.results.values() if result.result == "failed"]
    if failed:
        said = "; ".join(f"unit {result.unit}: {result.action} failed: {result.detail}" for result in failed)
        return Problem(said, tuple(result.unit for result in failed if result.action != "command"))
    for result in transaction.results.values():
        text = _stays_up(tools, result) if result.result == "ok" and result.action != "command" else None
        if text:
            return Problem(text, (result.unit,))
    templates = {t.name: t for t in tools.settings.templates}
    for name in transaction.templates:
        text = _verify_command(tools, templates[name]) if name in templates and templates[name].verify else None
        if text:
            return Problem(text, tuple(unit.name for unit in templates[name].units if not unit.command))
    return None


def _stays_up(tools: Tools, result: UnitResult) -> str | None:
    first = tools.units.state(result.unit)
    waited = 0.0
    while True:
        state = tools.units.state(result.unit)
        if state.active == "failed" or state.restarts > first.restarts or (state.active == "inactive" and not state.oneshot):
            ended = "was restarted by systemd" if state.restarts > first.restarts else f"is {state.active}"
            return f"unit {result.unit} {ended} within {tools.settings.units.settle_active:g} s after its {result.action}"
        if waited >= tools.settings.units.settle_active:
            return None
        tools.pause(_POLL_SECONDS)
        waited += _POLL_SECONDS


def _verify_command(tools: Tools, template: Template) -> str | None:
    """Tried until it passes or its time is up: a service that is active may still be warming up."""
    argv = [part.replace("{target}", str(tools.places.host(template.target))) for part in template.verify]
    end = time.monotonic() + template.verify_timeout
    while True:
        ran = tools.run(argv, max(0.1, end - time.monotonic()))
        if ran.ok:
            return None
        if time.monotonic() + _VERIFY_PAUSE_SECONDS >= end:
            words = " ".join(apply.words_of(ran, tools.secrets).split())[:500]
            return f"template {template.name}: verify failed ({'time-out' if ran.code is None else ran.code}): {words}"
        tools.pause(_VERIFY_PAUSE_SECONDS)


def not_started_yet(tools: Tools, transaction: Transaction) -> Transaction:
    """After a reboot, before READY: a unit that was acted on in the boot before has yet to be started by systemd."""
    waiting = {
        unit: replace(result, result="inactive", detail="not running yet; it starts with this config")
        for unit, result in transaction.results.items()
        if result.result == "ok" and result.action != "command" and tools.units.state(unit).active == "inactive"
    }
    return replace(transaction, results={**transaction.results, **waiting})


def await_start(tools: Tools, transaction: Transaction) -> Transaction:
    """After READY: wait until the units that systemd starts itself are up, have failed, or stay stopped on purpose."""
    waited: dict[str, UnitResult] = {}
    for unit, result in transaction.results.items():
        waited[unit] = result if result.result not in ("queued", "inactive") else _await_unit(tools, result)
        if tools.stopping():
            return transaction  # it stays journaled, and is confirmed after the next start
    return replace(transaction, results=waited)


def _await_unit(tools: Tools, result: UnitResult) -> UnitResult:
    passed = 0.0
    while passed < _COME_UP_SECONDS and not tools.stopping():
        state = tools.units.state(result.unit)
        if state.running:
            return replace(result, result="ok", detail="started by systemd")
        if state.active == "failed":
            return replace(result, result="failed", detail="failed to start with this config")
        if state.active == "inactive" and not state.job and passed >= _IDLE_SECONDS:
            return replace(result, result="skipped", detail="not running, and nothing starts it")
        tools.pause(_POLL_SECONDS)
        passed += _POLL_SECONDS
    return replace(result, result="failed", detail=f"not up after {_COME_UP_SECONDS:g} s")


def confirm(tools: Tools, transaction: Transaction) -> None:
    """Everything holds: the kept old files and the journal go."""
    apply.discard(tools.places, [rename.target for rename in transaction.renames], backups=True)
    tools.state.remove(JOURNAL)


def take_back(tools: Tools, transaction: Transaction) -> list[str]:
    """Put the earlier generation's targets back. Returns those that were. Raises ApplyError where one could not be: the
    next start tries again."""
    if not transaction.undoing:
        tools.state.rename(JOURNAL, UNDO)
    return apply.put_back(tools.places, transaction.renames)


def act_again(tools: Tools, transaction: Transaction, *, before_ready: bool) -> tuple[UnitResult, ...]:
    """Act on the units of a generation that was taken back, so that they run on the earlier one."""
    results = []
    for step in transaction.steps:
        again = replace(step, action=_stronger(tools, step))
        results.append(tools.units.act(again, before_ready=before_ready))
    return tuple(results)


def _stronger(tools: Tools, step: UnitStep) -> str:
    """A unit that is down is restarted, whatever its template asks for."""
    if step.action == "command" or tools.units.state(step.unit).running:
        return step.action
    return "restart"


def leave_or_stop(tools: Tools, problem: Problem) -> list[str]:
    """The first generation failed, and there is nothing to go back to. Returns the units that were stopped."""
    if tools.settings.units.on_first_failure != "stop":
        return []
    for unit in problem.units:
        tools.units.stop(unit)
    return list(problem.units)


def sweep(places: Places, templates: Iterable[Template]) -> None:
    """With no journal: remove what a run that was killed before it, or could not clean up after it, left beside targets."""
    apply.discard(places, [template.target for template in templates], backups=True)
