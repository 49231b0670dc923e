"""Any sequence of changes, crashes, errors, outages and rollbacks: a state machine that hypothesis drives.

Between the steps the promises hold of every target; after every undisturbed convergence, of everything.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.convergence.hold import release_hold
from tests.conftest import Image
from tests.integration.convergence.injection import CHANGES, NEEDS_SPACE, Fault, Outcome, Services
from tests.integration.convergence.test_crash import NOTHING, SETTINGS, UNITS, Scene, expected

FAULTS = st.one_of(
    st.builds(lambda at: Fault(at=at, kill=True, counts=CHANGES), st.integers(1, 130)),
    st.builds(lambda at: Fault(at=at, number=errno.EIO), st.integers(1, 300)),
    st.builds(lambda at: Fault(at=at, number=errno.ENOSPC, lasting=True, counts=NEEDS_SPACE), st.integers(1, 60)),
)
VALUES = st.tuples(st.sampled_from(["one", "two", "three", "four"]), st.sampled_from(["", "", "bad"]))


class Instance(RuleBasedStateMachine):
    """One instance, its store, its services, and whoever pulls its plug."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="parbake-machine-"))
        root = self.directory / "root"
        root.mkdir()
        image = Image(root)
        image.settings(SETTINGS)
        image.template("a.j2", "{% for _ in range(50) %}\na {{ config.value }} {{ config.sound }}\n{% endfor %}\n")
        image.template("b.j2", "b {{ config.value }} {{ config.sound }}\n")
        image.template("c.j2", "c {{ config.value }} {{ config.sound }}\n")
        self.scene = Scene(image, Services(self.directory / "services", root, UNITS))
        self.said = ("one", "")
        self.states: set[tuple[str | None, ...]] = {NOTHING}
        self.mixed = True
        self.away = False
        self.change(self.said)

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule(value=VALUES)
    def change(self, value: tuple[str, str]) -> None:
        self.said = value
        self.states.add(expected(*value))
        if not self.away:
            self.scene.say(*value)

    @rule()
    def lose_the_store(self) -> None:
        shutil.rmtree(self.scene.image.path("/site"), ignore_errors=True)
        self.away = True

    @rule()
    def find_the_store(self) -> None:
        self.away = False
        self.scene.say(*self.said)

    @rule(fault=FAULTS)
    def converge_disturbed(self, fault: Fault) -> None:
        self.scene.converge(_fresh(fault))
        self.mixed = True

    @rule(fault=FAULTS)
    def roll_back_disturbed(self, fault: Fault) -> None:
        self.scene.roll_back(_fresh(fault))
        self.mixed = True

    @rule()
    def roll_back(self) -> None:
        self.scene.roll_back()
        self.mixed = True

    @rule()
    def resume(self) -> None:
        release_hold(self.scene.world().runtime.state.records)

    @rule()
    def converge(self) -> None:
        ended = self.scene.converge()
        self.mixed = False
        self.settled(ended)

    def settled(self, ended: Outcome) -> None:
        """What holds after a convergence that nothing disturbed."""
        image = self.scene.image
        assert ended.code in (0, 69, 74, 75), ended
        assert image.leftovers() == []
        held = image.path("/var/lib/parbake/hold").exists()
        if ended.code == 0 and not held:
            assert not self.away
            assert self.scene.targets() == expected(*self.said)
            assert self.scene.services.stale() == []
        last = self.scene.generations().last()
        if last is not None and not held and ended.code in (0, 75):
            content = self.scene.generations().content(last.number)
            assert tuple(content[name].decode() for name in ("a.conf", "b.conf", "c.conf")) == self.scene.targets()
        if ended.code == 74 and last is not None:
            assert "bad" not in str(self.scene.targets()), "a generation that does not come up was left in place"

    @invariant()
    def whole(self) -> None:
        """Promises 1 and 4: each target is one that some generation had, whole; and once there, it is never gone or empty."""
        for index, found in enumerate(self.scene.targets()):
            assert found in {state[index] for state in self.states}

    @invariant()
    def unmixed(self) -> None:
        """Promise 2: after a start that was not disturbed, the targets of a group are of one generation."""
        if not self.mixed:
            assert self.scene.targets()[:2] in {state[:2] for state in self.states}


def _fresh(fault: Fault) -> Fault:
    return Fault(fault.at, fault.kill, fault.number, fault.lasting, fault.counts)


EXAMPLES = 400 if "PARBAKE_EXHAUSTIVE" in os.environ else 25
TestInstance = Instance.TestCase
TestInstance.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
