"""The state machine of a convergence: every edge of its table, with a crash before it and a crash after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agent.convergence import journal, phases, recovery
from agent.convergence.phases import CONTINUATIONS, GENERATION_STATES, TRANSITIONS, IllegalTransition, Phase, advance
from agent.errors import ParbakeError
from agent.state.generations import GenerationState
from agent.system.process import ProcessResult
from tests.conftest import Image
from tests.unit.convergence.worlds import DOWN, STOPPED, UP, ScriptedPrograms, ScriptedUnits, World, world_of

SETTINGS = """
[units]
retries = 0
[state]
cache = "plain"
[[template]]
source = "a.j2"
target = "/etc/app/a"
check = ["check", "{candidate}"]
units = [{ name = "one.service", action = "restart" }]
group_name = "one"
[[template]]
source = "b.j2"
target = "/srv/b"
units = [{ name = "two.service", action = "restart" }]
group_name = "two"
"""
Edge = tuple[Phase, Phase]
Targets = tuple[str, str]


class Killed(BaseException):
    """The process dies here."""


@dataclass
class Scene:
    """An image that is converged on "old", with units that are down on a config that says "bad"."""

    image: Image
    units: ScriptedUnits
    programs: ScriptedPrograms

    def write(self, a: str, b: str) -> None:
        self.image.site("common", f'a = "{a}"\nb = "{b}"\n')

    def world(self) -> World:
        return world_of(self.image, self.units, self.programs)

    def converge(self, *, before_ready: bool = False) -> int:
        try:
            return self.world().converge(before_ready=before_ready)
        except ParbakeError as error:
            return error.exit_code

    def confirm_started(self) -> None:
        world = self.world()
        try:
            recovery.confirm_started(world.runtime, world.memory)
        except ParbakeError:
            return

    def targets(self) -> Targets:
        return self.image.read("/etc/app/a").strip(), self.image.read("/srv/b").strip()


def make(root: Image) -> Scene:
    root.settings(SETTINGS)
    root.template("a.j2", "{{ config.a }}\n")
    root.template("b.j2", "{{ config.b }}\n")
    scene = Scene(root, ScriptedUnits(), ScriptedPrograms())
    scene.write("old", "old")
    assert scene.converge() == 0
    scene.units.outcome = lambda step: DOWN if "bad" in scene.targets()[0 if step.unit == "one.service" else 1] else UP
    return scene


def change(scene: Scene) -> None:
    """Both groups change, and hold."""
    scene.write("new", "new")
    scene.converge()


def one_fails(scene: Scene) -> None:
    """One group of two does not hold."""
    scene.write("bad", "new")
    scene.converge()


def all_fail(scene: Scene) -> None:
    """No group holds."""
    scene.write("bad", "bad")
    scene.converge()


def commit_fails(scene: Scene) -> None:
    """A check removes its candidate, so that the commit cannot be completed."""

    def remove(argv: object) -> ProcessResult:
        if scene.image.path("/etc/app/.a.parbake-new").exists():
            scene.image.path("/etc/app/.a.parbake-new").unlink()
        return ProcessResult(0, "")

    scene.programs.answer = remove
    scene.write("new", "new")
    try:
        scene.converge()
    finally:
        scene.programs.answer = lambda argv: ProcessResult(0, "")


def at_boot(scene: Scene) -> None:
    """systemd has yet to start the units; then they are up."""
    scene.units.states.update({"one.service": STOPPED, "two.service": STOPPED})
    scene.write("new", "new")
    scene.converge(before_ready=True)
    scene.units.states.clear()
    scene.confirm_started()


def rebooted_after_the_actions(scene: Scene) -> None:
    """The machine is rebooted between the actions and the verification."""
    killed = scene_killed_at(scene, (Phase.ACTED, Phase.VERIFYING), lambda: change(scene))
    assert killed
    after_reboot(scene)


def rebooted_while_verifying(scene: Scene) -> None:
    """The machine is rebooted while the units are watched."""
    killed = scene_killed_at(scene, (Phase.VERIFYING, Phase.CONFIRMED), lambda: change(scene))
    assert killed
    after_reboot(scene)


def after_reboot(scene: Scene) -> None:
    scene.units.states.update({"one.service": STOPPED, "two.service": STOPPED})
    scene.converge(before_ready=True)
    scene.units.states.clear()
    scene.confirm_started()


def scene_killed_at(scene: Scene, edge: Edge, work: Callable[[], None]) -> bool:
    """Do `work`, and die before an edge. Returns whether it was reached."""
    real = phases.advance

    def dying(old: Phase, new: Phase) -> Phase:
        if (old, new) == edge:
            raise Killed
        return real(old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "advance", dying)
        try:
            work()
        except Killed:
            return True
    return False


SCENARIOS: dict[str, tuple[Callable[[Scene], None], Targets]] = {
    "change": (change, ("new", "new")),
    "one fails": (one_fails, ("old", "new")),
    "all fail": (all_fail, ("old", "old")),
    "commit fails": (commit_fails, ("new", "new")),
    "at boot": (at_boot, ("new", "new")),
    "rebooted after the actions": (rebooted_after_the_actions, ("new", "new")),
    "rebooted while verifying": (rebooted_while_verifying, ("new", "new")),
}
"""Each scenario, and the targets after the next undisturbed convergences."""


def walked(scene: Scene, work: Callable[[Scene], None]) -> list[Edge]:
    """The edges that a scenario walks, in order."""
    edges: list[Edge] = []
    real = phases.advance

    def noting(old: Phase, new: Phase) -> Phase:
        edges.append((old, new))
        return real(old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "advance", noting)
        work(scene)
    return edges


def crash_at(scene: Scene, number: int, *, after: bool, work: Callable[[Scene], None]) -> None:
    """Do a scenario and die at its edge of a number: before the phase is entered, or right after it is written."""
    seen = 0
    real_advance, real_enter = phases.advance, journal.enter

    def dying(old: Phase, new: Phase) -> Phase:
        nonlocal seen
        seen += 1
        if seen == number and not after:
            raise Killed
        return real_advance(old, new)

    def entering(*arguments: Any, **changes: Any) -> journal.Transaction:
        entered = real_enter(*arguments, **changes)
        if seen == number and after:
            raise Killed
        return entered

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(phases, "advance", dying)
        patch.setattr(journal, "enter", entering)
        work(scene)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_at_every_edge_is_finished_by_the_next_start(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """INTERFACE section 8, promises 1 and 2: whatever edge a crash hits, the next start ends in the same state."""
    work, final = SCENARIOS[name]
    count = len(walked(make(Image(tmp_path_factory.mktemp("count"))), work))
    assert count >= 5
    for number in range(1, count + 1):
        for after in (False, True):
            scene = make(Image(tmp_path_factory.mktemp("crash")))
            crash_at(scene, number, after=after, work=work)
            for target, values in zip(scene.targets(), (("old", "new", "bad"), ("old", "new", "bad")), strict=True):
                assert target in values
            scene.units.states.clear()
            scene.converge()
            scene.converge()
            assert scene.targets() == final, (name, number, after)
            assert scene.image.leftovers() == []
            assert not scene.image.path("/var/lib/parbake/transaction").exists()
            states = {generation.state for generation in scene.world().generations.all()}
            assert GenerationState.PENDING not in states


def test_the_scenarios_walk_every_edge(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No edge of the table is there only on paper, and none is walked that the table does not have."""
    edges = {
        edge for name, (work, _) in SCENARIOS.items() for edge in walked(make(Image(tmp_path_factory.mktemp("scene"))), work)
    }
    assert edges == {(old, new) for old, followers in TRANSITIONS.items() for new in followers}


def test_every_phase_says_what_the_next_start_does() -> None:
    """A crash in a phase has one documented continuation, and the page on the architecture has the same phases."""
    assert CONTINUATIONS.keys() == TRANSITIONS.keys() == set(Phase)
    assert set(GENERATION_STATES) <= set(Phase)


def test_what_the_table_does_not_have_is_refused() -> None:
    """A bug cannot lead to a phase that recovery does not expect."""
    for old in Phase:
        for new in Phase:
            if new in TRANSITIONS[old]:
                assert advance(old, new) == new
            else:
                with pytest.raises(IllegalTransition):
                    advance(old, new)
