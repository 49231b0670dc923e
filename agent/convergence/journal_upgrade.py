"""The journal of parbake 0.1 before it held the phase: a convergence that the earlier build left is finished by this one.

That build wrote `transaction` with `committed` and `failed`. A rollback of everything renamed it to `transaction.undo`, a
confirmation to `transaction.done`.
"""

from __future__ import annotations

from typing import Any

from agent.convergence import journal
from agent.convergence.journal import Transaction
from agent.convergence.phases import Phase
from agent.state.records import Records

_UNDO, _DONE = "transaction.undo", "transaction.done"


def upgrade(records: Records) -> None:
    """Rewrite a journal of the earlier build with its phase. Raises StateError."""
    for name in (_DONE, _UNDO, journal.RECORD):
        record = records.load(name)
        if not record or "phase" in record:
            continue
        try:
            journal.save(records, _with_phase(name, record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            records.quarantine_file(records.directory / name, error)
        if name != journal.RECORD:
            records.remove(name)


def _with_phase(name: str, record: dict[str, Any]) -> Transaction:
    """Return a record of the earlier build as a transaction. Raises KeyError, TypeError or ValueError if it is damaged."""
    if not isinstance(record["committed"], bool):
        raise ValueError("committed is not a boolean")
    reached = Phase.VERIFYING if record["committed"] else Phase.COMMITTING
    if name == _DONE:
        phase, previous = Phase.CONFIRMED, Phase.VERIFYING
    elif name == _UNDO:
        phase, previous = Phase.ROLLING_BACK, reached
        record = {**record, "failed": {}}
    elif record["failed"]:
        phase, previous = Phase.ROLLING_BACK, reached
    elif record["committed"]:
        phase, previous = Phase.COMMITTED, Phase.COMMITTING
    else:
        phase, previous = Phase.COMMITTING, Phase.CHECKED
    return journal.parse({**record, "phase": phase, "previous": previous})
