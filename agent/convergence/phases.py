"""The state machine of a convergence: its phases, and which phase may follow which.

The journal (`transaction` in the state directory) holds the phase. It is written from COMMITTING on; before that nothing is
replaced, and there is nothing to remember. After a crash the next start reads the phase and does what `CONTINUATIONS` says.

    PLANNED -> STAGED -> CHECKED -> COMMITTING -> COMMITTED ------> ACTED -------> VERIFYING -> CONFIRMED
                                        |             |               |              ^  |           ^
                                        |             v               v              |  v           | if a group holds
                                        |             +-----> AWAITING_START --------+  |           |
                                        +-----------------------------------------------+-> ROLLING_BACK -> ROLLED_BACK

A rollback is decided at two places only: a commit that cannot be completed, and a verification that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from agent.state.generations import GenerationState


class Phase(StrEnum):
    """How far a convergence has come."""

    PLANNED = "planned"
    STAGED = "staged"
    CHECKED = "checked"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ACTED = "acted"
    AWAITING_START = "awaiting-start"
    VERIFYING = "verifying"
    CONFIRMED = "confirmed"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"


TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.PLANNED: frozenset({Phase.STAGED}),
    Phase.STAGED: frozenset({Phase.CHECKED}),
    Phase.CHECKED: frozenset({Phase.COMMITTING}),
    Phase.COMMITTING: frozenset({Phase.COMMITTED, Phase.ROLLING_BACK}),
    Phase.COMMITTED: frozenset({Phase.ACTED, Phase.AWAITING_START}),
    Phase.ACTED: frozenset({Phase.VERIFYING, Phase.AWAITING_START}),
    Phase.AWAITING_START: frozenset({Phase.VERIFYING}),
    Phase.VERIFYING: frozenset({Phase.CONFIRMED, Phase.AWAITING_START, Phase.ROLLING_BACK}),
    Phase.ROLLING_BACK: frozenset({Phase.ROLLED_BACK, Phase.CONFIRMED}),
    Phase.CONFIRMED: frozenset(),
    Phase.ROLLED_BACK: frozenset(),
}
"""The table of transitions. ACTED or VERIFYING -> AWAITING_START: the machine was rebooted, and systemd has yet to start the
units. ROLLING_BACK -> CONFIRMED: the groups that failed are rolled back, and the others hold."""

CONTINUATIONS: Mapping[Phase, str] = {
    Phase.PLANNED: "Nothing was written. The next convergence plans again.",
    Phase.STAGED: "The next start removes the candidates; no target was replaced.",
    Phase.CHECKED: "The next start removes the candidates; no target was replaced.",
    Phase.COMMITTING: "The next start makes the renames that are missing and goes on.",
    Phase.COMMITTED: "The next start acts on the units without a recorded result and goes on.",
    Phase.ACTED: "The next start verifies.",
    Phase.AWAITING_START: "After READY, the next start waits until systemd has started the units, then verifies. "
    "A change before READY includes it.",
    Phase.VERIFYING: "The next start verifies again.",
    Phase.CONFIRMED: "The next start removes the kept old files and the journal.",
    Phase.ROLLING_BACK: "The next start restores the targets that are left, acts on their units, and ends the rollback.",
    Phase.ROLLED_BACK: "The next start removes the journal.",
}
"""What the next start does after a crash in each phase."""

GENERATION_STATES: Mapping[Phase, GenerationState] = {
    Phase.COMMITTING: GenerationState.PENDING,
    Phase.COMMITTED: GenerationState.APPLIED,
    Phase.ACTED: GenerationState.APPLIED,
    Phase.AWAITING_START: GenerationState.APPLIED,
    Phase.VERIFYING: GenerationState.APPLIED,
    Phase.CONFIRMED: GenerationState.APPLIED,
    Phase.ROLLED_BACK: GenerationState.REJECTED,
}
"""How `parbake history` names the phase of a generation. A first generation that did not come up has nothing to roll back to:
it is `failed` in place of `rejected`."""


class IllegalTransition(Exception):
    """A bug: a phase was entered from one that does not lead to it."""


def advance(old: Phase, new: Phase) -> Phase:
    """Return `new`. Raises IllegalTransition unless the table leads from `old` to it."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"{old} -> {new}")
    return new
