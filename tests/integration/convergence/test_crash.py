"""A convergence stopped at every operation on the disk there is in it: INTERFACE section 8, promises 1 to 4.

Two groups, of which one has two targets, a unit each; the operations are counted first, then each is the last one of a
process that is killed there, or one that the system refuses. What must hold is the same each time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli.output import FAMILIES
from agent.convergence.context import Runtime, new_memory
from agent.convergence.rollback import roll_back_to
from agent.paths import Paths
from agent.settings import loader
from agent.sources.registry import SourceRegistry
from agent.state.generations import Generations
from agent.state.store import StateStore
from agent.templates import renderer as render
from tests.conftest import Image
from tests.integration.convergence.injection import CHANGES, NEEDS_SPACE, Fault, Outcome, Services, in_child
from tests.unit.convergence.worlds import ScriptedPrograms, World

SETTINGS = """
[units]
retries = 0
[state]
cache = "plain"
generations = 5
[[template]]
source = "a.j2"
target = "/etc/app/a.conf"
check = ["check", "{candidate}"]
units = [{ name = "one.service", action = "reload" }]
[[template]]
source = "b.j2"
target = "/srv/new/place/b.conf"
mode = "0640"
units = [{ name = "one.service", action = "restart" }]
[[template]]
source = "c.j2"
target = "/etc/app/c.conf"
group_name = "other"
units = [{ name = "two.service", action = "reload" }]
"""
PAIR = ("/etc/app/a.conf", "/srv/new/place/b.conf")
ALONE = "/etc/app/c.conf"
UNITS = {"one.service": PAIR, "two.service": (ALONE,)}


@dataclass(frozen=True)
class Scene:
    """An image and what runs on it."""

    image: Image
    services: Services

    def world(self) -> World:
        paths = Paths(self.image.root)
        loaded = loader.load(paths, FAMILIES)
        stop = threading.Event()
        state = StateStore(paths, "plain", loaded.state.generations, stop)
        runtime = Runtime(paths, loaded, state, self.services, ScriptedPrograms(), stop, lambda seconds: None)
        return World(runtime, new_memory(loaded), SourceRegistry(paths, stop))

    def say(self, value: str, sound: str = "", other: str | None = None) -> None:
        """`sound` is what the first group says, and the other one where it says nothing else."""
        other = sound if other is None else other
        self.image.site("common", f'value = "{value}"\nsound = "{sound}"\nother = "{other}"\n')

    def converge(self, fault: Fault | None = None) -> Outcome:
        world = self.world()
        return in_child(world.converge, fault or Fault())

    def roll_back(self, fault: Fault | None = None) -> Outcome:
        world = self.world()

        def work() -> int:
            roll_back_to(world.runtime, world.memory, None)
            return 0

        return in_child(work, fault or Fault())

    def target(self, path: str) -> str | None:
        real = self.image.path(path)
        return real.read_text() if real.exists() else None

    def targets(self) -> tuple[str | None, ...]:
        return tuple(self.target(path) for path in (*PAIR, ALONE))

    def generations(self) -> Generations:
        return Generations(Paths(self.image.root), 5, "plain")


def expected(value: str, sound: str = "", other: str | None = None) -> tuple[str, str, str]:
    other = sound if other is None else other
    return f"a {value} {sound}\n" * 50, f"b {value} {sound}\n", f"c {value} {other}\n"


NOTHING = (None, None, None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where the scenes stand: in memory where that can be, since they are laid out anew a thousand times."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="crash-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def scene(place: Path) -> Scene:
    image = Image(place / "root")
    image.root.mkdir()
    image.settings(SETTINGS)
    image.template("a.j2", "{% for _ in range(50) %}\na {{ config.value }} {{ config.sound }}\n{% endfor %}\n")
    image.template("b.j2", "b {{ config.value }} {{ config.sound }}\n")
    image.template("c.j2", "c {{ config.value }} {{ config.other }}\n")
    baked = loader.load(Paths(image.root), FAMILIES)
    renderer = render.Renderer(Paths(image.root), baked.component, baked.templates, baking=True)
    for template in baked.templates:
        renderer.compile(template)
    return Scene(image, Services(place / "services", image.root, UNITS))


def assert_whole(scene: Scene, *states: tuple[str | None, ...]) -> None:
    """Promise 1: each target is the whole old or the whole new one."""
    for index, found in enumerate(scene.targets()):
        assert found in {state[index] for state in states}


def assert_unmixed(scene: Scene, *states: tuple[str | None, ...]) -> None:
    """Promise 2: the two targets of one group are of one generation."""
    assert scene.targets()[:2] in {state[:2] for state in states}


def assert_settled(scene: Scene, state: tuple[str | None, ...]) -> None:
    """What every successful run leaves: the state, services that run on it, a true history, and no litter."""
    assert scene.targets() == state
    assert scene.image.leftovers() == []
    assert scene.services.stale() == []
    kept = scene.generations()
    last = kept.last()
    assert last is not None
    assert {g.state for g in kept.all()} <= {"applied", "rejected", "failed"}
    content = kept.content(last.number)
    assert tuple(content[name].decode() for name in ("a.conf", "b.conf", "c.conf")) == state


def operations(scene: Scene, kind: str, act: Callable[[Scene, Fault], Outcome]) -> range:
    """The numbers of the operations of `act` that a kind of fault can meet; counted on a copy.

    Of those that only look, an error is tried at each fourth, and at all of them with PARBAKE_EXHAUSTIVE set.
    """
    spare = scene.image.root.with_name("spare")
    log = spare.with_name("spare-services")
    shutil.copytree(scene.image.root, spare, symlinks=True)
    if (old := scene.image.root.with_name("services")).exists():
        shutil.copy(old, log)
    never = FAULTS[kind](10**9)
    count = len(act(Scene(Image(spare), Services(log, spare, UNITS)), never).operations)
    shutil.rmtree(spare)
    every = 1 if kind != "EIO" or "PARBAKE_EXHAUSTIVE" in os.environ else 4
    return range(1, count + 1, every)


class Stages:
    """The same scene again and again, as it was before the act."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._base = scene.image.root.with_name("base")
        self._log = scene.image.root.with_name("services")
        shutil.copytree(scene.image.root, self._base, symlinks=True)
        self._services = self._log.read_bytes() if self._log.exists() else None

    def again(self) -> Scene:
        shutil.rmtree(self._scene.image.root)
        shutil.copytree(self._base, self._scene.image.root, symlinks=True)
        self._log.unlink(missing_ok=True)
        if self._services is not None:
            self._log.write_bytes(self._services)
        return self._scene


FAULTS = {
    "killed": lambda n: Fault(at=n, kill=True, counts=CHANGES),
    "EIO": lambda n: Fault(at=n, number=errno.EIO),
    "full": lambda n: Fault(at=n, number=errno.ENOSPC, lasting=True, counts=NEEDS_SPACE),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_first_convergence(scene: Scene, kind: str) -> None:
    """Promises 1 and 2 on an instance's first boot: nothing, or all of it, and the next start completes it."""
    scene.say("one")
    new, stages = expected("one"), Stages(scene)
    numbers = operations(scene, kind, Scene.converge)
    assert len(numbers) > 20
    for n in numbers:
        scene = stages.again()
        scene.converge(FAULTS[kind](n))
        assert_whole(scene, NOTHING, new)
        if kind != "killed":
            assert_unmixed(scene, NOTHING, new)
        assert scene.converge().code == 0, n
        assert_settled(scene, new)


@pytest.mark.parametrize("kind", FAULTS)
def test_change(scene: Scene, kind: str) -> None:
    """Promises 1 to 3 when run config changes: old or new, never both in a group, and each service runs on what is there."""
    scene.say("one")
    scene.converge()
    scene.say("two")
    old, new, stages = expected("one"), expected("two"), Stages(scene)
    for n in operations(scene, kind, Scene.converge):
        scene = stages.again()
        ended = scene.converge(FAULTS[kind](n))
        assert_whole(scene, old, new)
        if kind != "killed":
            assert ended.code is not None
            assert_unmixed(scene, old, new)
        before = len(scene.services.actions())
        journal = _journal(scene)
        assert scene.converge().code == 0, n
        assert_settled(scene, new)
        again = [action["unit"] for action in scene.services.actions()[before:]]
        assert len(again) == len(set(again)), "a unit was acted on twice in one convergence"
        assert not set(again) & set(journal), "a unit was acted on again although its result was journaled"


def _journal(scene: Scene) -> list[str]:
    """The units whose result stands in the journal that a dead process left."""
    path = scene.image.path("/var/lib/parbake/transaction")
    return list(json.loads(path.read_text())["results"]) if path.exists() else []


@pytest.mark.parametrize("kind", ["killed", "EIO"])
def test_change_and_then_no_source(scene: Scene, kind: str) -> None:
    """Promises 2 and 4: after a crash, a start that cannot reach its source still leaves no group mixed, and empties none."""
    scene.say("one")
    scene.converge()
    scene.say("two")
    old, new, stages = expected("one"), expected("two"), Stages(scene)
    for n in operations(scene, kind, Scene.converge):
        scene = stages.again()
        scene.converge(FAULTS[kind](n))
        shutil.rmtree(scene.image.path("/site"))
        assert scene.converge().code == 75, n
        assert_unmixed(scene, old, new)
        assert None not in scene.targets()
        assert scene.services.stale() == []
        assert scene.image.leftovers() == []


@pytest.mark.parametrize("kind", FAULTS)
def test_rolled_back(scene: Scene, kind: str) -> None:
    """A generation with which a unit does not come up is taken back wherever the going back is interrupted, and stays away."""
    scene.say("one")
    scene.converge()
    scene.say("two", "bad")
    old, new, stages = expected("one"), expected("two", "bad"), Stages(scene)
    for n in operations(scene, kind, Scene.converge):
        scene = stages.again()
        scene.converge(FAULTS[kind](n))
        assert_whole(scene, old, new)
        assert scene.converge().code == 74, n
        assert_settled(scene, old)
        acted = len(scene.services.actions())
        assert scene.converge().code == 74
        assert len(scene.services.actions()) == acted, "a rejected generation was tried again"
        scene.say("three")
        assert scene.converge().code == 0
        assert_settled(scene, expected("three"))


@pytest.mark.parametrize("kind", FAULTS)
def test_one_group_rolled_back(scene: Scene, kind: str) -> None:
    """Promise 2: a group with which its unit does not come up goes back alone, wherever that is interrupted, and the other
    group has its new targets. What a refused write kept from being remembered costs a second try, and no third."""
    scene.say("one")
    scene.converge()
    scene.say("two", "bad", "fine")
    old, new, stages = expected("one"), expected("two", "bad", "fine"), Stages(scene)
    half = (*old[:2], new[2])
    for n in operations(scene, kind, Scene.converge):
        scene = stages.again()
        scene.converge(FAULTS[kind](n))
        assert_whole(scene, old, new)
        assert scene.converge().code == 74, n
        assert scene.targets() == half
        if kind != "killed":
            assert scene.converge().code == 74
        assert_settled(scene, half)
        acted = len(scene.services.actions())
        assert scene.converge().code == 74
        assert len(scene.services.actions()) == acted, "a rejected group was tried again"
        scene.say("two", "bad", "other")
        assert scene.converge().code == 74, "the other group's change is no reason to try the bad one again"
        assert_settled(scene, (*old[:2], expected("two", "bad", "other")[2]))
        assert {action["unit"] for action in scene.services.actions()[acted:]} == {"two.service"}
        scene.say("three")
        assert scene.converge().code == 0
        assert_settled(scene, expected("three"))


@pytest.mark.parametrize("kind", FAULTS)
def test_first_generation_fails(scene: Scene, kind: str) -> None:
    """With nothing to go back to, a config that does not come up is reported, not retried, and replaced by the next."""
    scene.say("two", "bad")
    new, stages = expected("two", "bad"), Stages(scene)
    for n in operations(scene, kind, Scene.converge):
        scene = stages.again()
        scene.converge(FAULTS[kind](n))
        assert_whole(scene, NOTHING, new)
        assert scene.converge().code == 74, n
        # a group that could not be staged is not tried again before the inputs change, as the whole generation is not
        assert_unmixed(scene, new, *([NOTHING] if kind == "EIO" else []))
        assert scene.target(ALONE) in ((new[2], None) if kind == "EIO" else (new[2],))
        assert scene.image.leftovers() == []
        assert scene.generations().last() is None
        scene.say("three")
        assert scene.converge().code == 0, n
        assert_settled(scene, expected("three"))


@pytest.mark.parametrize("kind", FAULTS)
def test_rollback_by_hand(scene: Scene, kind: str) -> None:
    """`parbake rollback` that is interrupted is either done and held, or not done and not held."""
    for value in ("one", "two"):
        scene.say(value)
        scene.converge()
    old, new, stages = expected("one"), expected("two"), Stages(scene)
    for n in operations(scene, kind, Scene.roll_back):
        scene = stages.again()
        scene.roll_back(FAULTS[kind](n))
        assert_whole(scene, old, new)
        assert scene.converge().code == 0, n
        held = scene.image.path("/var/lib/parbake/hold").exists()
        assert_settled(scene, old if held else new)


def test_crash_of_the_restart(scene: Scene) -> None:
    """A start that finishes what a crash left may crash itself, at any operation, and the next one still ends it well."""
    scene.say("one")
    scene.converge()
    scene.say("two")
    old, new, stages = expected("one"), expected("two"), Stages(scene)
    numbers = operations(scene, "killed", Scene.converge)
    every = (1, 2) if "PARBAKE_EXHAUSTIVE" in os.environ else (8, 12)
    for n in numbers[2 :: every[0]]:
        for m in numbers[1 :: every[1]]:
            scene = stages.again()
            scene.converge(FAULTS["killed"](n))
            scene.converge(FAULTS["killed"](m))
            assert_whole(scene, old, new)
            assert scene.converge().code == 0, (n, m)
            assert_settled(scene, new)
