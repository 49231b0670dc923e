"""What a stop, a failed commit or the earlier build leaves unfinished: nothing is lost, and nothing comes unchecked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agent.convergence import executor, journal_upgrade, unit_actions
from agent.convergence.context import open_runtime
from agent.convergence.hold import held_generation
from agent.convergence.journal import RECORD
from agent.convergence.phases import Phase
from agent.errors import StateError, StopRequested
from agent.model import UnitStep
from agent.state.records import Records
from agent.system.process import ProcessResult
from agent.system.units import UnitState
from tests.conftest import Image
from tests.unit.convergence.test_converge import code_of, roll_back, template
from tests.unit.convergence.test_recovery import PAIR, confirm_started, pair, refusing, targets
from tests.unit.convergence.worlds import STOPPED, UP, ScriptedPrograms, ScriptedUnits, World, world_of

__all__ = ["pair"]


class Killed(BaseException):
    """The process dies here."""


def dying(*arguments: object, **more: object) -> None:
    raise Killed


def killed_in(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[], object]) -> None:
    """Do `work` in a process that dies at a function of the executor."""
    with monkeypatch.context() as patch:
        patch.setattr(executor, name, dying)
        with pytest.raises(Killed):
            work()


def tidying(argv: Sequence[str]) -> ProcessResult:
    """A check that removes the candidate that it was given."""
    if argv[0] == "check":
        os.unlink(argv[1])
    return ProcessResult(0, "")


def full_for_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the journal is written."""
    write = Records.write

    def refuse(self: Records, path: Any, content: bytes) -> None:
        if path.name == RECORD:
            raise StateError("the disk is full")
        write(self, path, content)

    monkeypatch.setattr(Records, "write", refuse)


def states(world: World) -> list[tuple[int, str]]:
    return [(generation.number, generation.state) for generation in world.generations.all()]


def test_a_rollback_stops_no_unit_of_a_group_that_had_an_earlier_generation(image: Image) -> None:
    """`on_first_failure = "stop"` is for a first generation alone; here a unit without an action belongs to a group that holds
    its earlier generation again."""
    image.settings(
        '[units]\nretries = 0\n[[template]]\nsource = "a.j2"\ntarget = "/etc/app/a"\n'
        'units = [{ name = "app.service", action = "none" }]\nverify = ["verify"]\nverify_timeout = "100ms"\n'
    )
    image.template("a.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    assert code_of(world_of(image)) == 0
    image.site("common", 'v = "two"\n')
    units = ScriptedUnits()
    assert code_of(world_of(image, units, refusing("verify"))) == 74
    assert (image.read("/etc/app/a"), units.stopped) == ("one\n", [])


def waiting_for_ready(image: Image) -> ScriptedUnits:
    """A first generation whose unit systemd has yet to start."""
    image.settings(PAIR)
    image.template("a.j2", "{{ config.v }} {{ config.x }}\n")
    image.template("b.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\nx = 1\n')
    units = ScriptedUnits(states={"app.service": STOPPED})
    assert code_of(world_of(image, units), before_ready=True) == 0
    return units


def test_a_failed_commit_leaves_no_generation_applied_whose_targets_are_gone(image: Image) -> None:
    """Promise 7: a change before READY includes the first generation. If it cannot be committed, none is in place, and READY
    must not come on the strength of one."""
    units = waiting_for_ready(image)
    image.site("common", 'v = "one"\nx = 2\n')
    world = world_of(image, units, ScriptedPrograms(tidying))
    assert code_of(world, before_ready=True) == 74
    assert not image.path("/etc/app/a").exists()
    assert world.generations.last() is None
    assert image.leftovers() == []
    assert code_of(world_of(image, units), before_ready=True) == 0
    assert targets(image) == ("one 2", "one")


def test_a_failed_commit_takes_the_units_of_the_earlier_one_along(pair: Image) -> None:
    """The earlier generation was acted on already: its unit gets what is in place now."""
    pair.settings(PAIR + 'units = [{ name = "late.service", action = "restart" }]\n')
    loaded: dict[str, tuple[str, str]] = {}

    def load(step: UnitStep) -> UnitState:
        loaded[step.unit] = targets(pair)
        return UP

    units = ScriptedUnits(load, states={"late.service": STOPPED})
    assert code_of(world_of(pair, units), before_ready=True) == 0
    assert loaded == {"app.service": ("two 1", "two")}
    pair.site("common", 'v = "two"\nx = 2\n')
    world = world_of(pair, units, ScriptedPrograms(tidying))
    assert code_of(world, before_ready=True) == 74
    assert targets(pair) == ("one 1", "one")
    assert loaded["app.service"] == ("one 1", "one")
    assert states(world) == [(1, "applied"), (2, "rejected")]


def test_a_candidate_that_was_left_behind_is_never_committed(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 2: what a full disk kept from being committed is not put in place by a later convergence."""
    units = waiting_for_ready(image)
    image.site("common", 'v = "unwanted"\nx = 1\n')
    with monkeypatch.context() as patch:
        full_for_the_journal(patch)
        assert code_of(world_of(image, units), before_ready=True) == 74
    image.write("/srv/.b.parbake-new", "unwanted, and left behind by a crash\n")
    image.site("common", 'v = "one"\nx = 2\n')
    assert code_of(world_of(image, units), before_ready=True) == 0
    assert targets(image) == ("one 2", "one")


def test_the_hold_of_a_rollback_survives_a_reboot_before_its_units_are_up(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config that the operator rolled back does not return because the machine was rebooted in the middle."""
    assert code_of(world_of(pair)) == 0
    killed_in(monkeypatch, "continue_after_actions", lambda: roll_back(world_of(pair), 1))
    units = ScriptedUnits(states={"app.service": STOPPED})
    world = world_of(pair, units)
    assert code_of(world, before_ready=True) == 0
    assert world.report.hold == 1
    units.states["app.service"] = UP
    assert confirm_started(world)
    assert code_of(world) == 0
    assert targets(pair) == ("one 1", "one")
    assert held_generation(world.runtime.state.records) == 1
    assert world.converge(resume=True) == 0
    assert targets(pair) == ("two 1", "two")


def test_resume_ends_a_hold_that_is_not_confirmed_yet(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """`parbake resume` before READY: the rollback by hand that still waits for its units is no hold any more."""
    assert code_of(world_of(pair)) == 0
    killed_in(monkeypatch, "continue_after_actions", lambda: roll_back(world_of(pair), 1))
    units = ScriptedUnits(states={"app.service": STOPPED})
    world = world_of(pair, units)
    assert code_of(world, before_ready=True) == 0
    assert world.converge(before_ready=True, resume=True) == 0
    assert targets(pair) == ("two 1", "two")
    units.states["app.service"] = UP
    assert confirm_started(world)
    assert held_generation(world.runtime.state.records) is None


def test_a_stop_before_a_rollback_replaces_nothing(pair: Image) -> None:
    """SIGTERM while `parbake rollback` prepares: nothing is replaced and nothing is held."""
    assert code_of(world_of(pair)) == 0
    world = world_of(pair)
    world.runtime.stop.set()
    with pytest.raises(StopRequested):
        roll_back(world, 1)
    assert targets(pair) == ("two 1", "two")
    assert held_generation(world.runtime.state.records) is None
    assert pair.leftovers() == []


def test_a_stop_in_a_rollback_is_said_and_finished_by_the_next_start(pair: Image) -> None:
    """SIGTERM while the unit restarts: the command does not claim that the generation is held."""
    assert code_of(world_of(pair)) == 0
    units = ScriptedUnits()
    world = world_of(pair, units)

    def stop(step: UnitStep) -> str:
        world.runtime.stop.set()
        return "cut off"

    units.outcome = stop
    with pytest.raises(StopRequested, match="not verified"):
        roll_back(world, 1)
    assert world.report.hold is None
    later = world_of(pair)
    assert code_of(later) == 0
    assert targets(pair) == ("one 1", "one")
    assert later.report.hold == 1


def test_a_stop_in_an_automatic_rollback_loses_no_unit(image: Image) -> None:
    """The targets are restored and one of two units was acted on: the next start acts on both."""
    verify = 'verify = ["verify"]\nverify_timeout = "100ms"'
    image.settings(
        "[units]\nretries = 0\n" + template("a", "one.service", "restart", verify) + template("b", "two.service", "restart")
    )
    for name in "ab":
        image.template(f"{name}.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    assert code_of(world_of(image)) == 0
    image.site("common", 'v = "two"\n')
    loaded: dict[str, str] = {}
    units = ScriptedUnits()
    world = world_of(image, units, refusing("verify"))

    def load(step: UnitStep) -> UnitState | str:
        if world.runtime.stopping:
            return "cut off"
        loaded[step.unit] = image.read("/etc/app/a").strip()
        if loaded[step.unit] == "one":
            world.runtime.stop.set()
        return UP

    units.outcome = load
    assert code_of(world) == 74
    assert loaded == {"one.service": "one", "two.service": "two"}

    def load_again(step: UnitStep) -> UnitState:
        loaded[step.unit] = image.read("/etc/app/a").strip()
        return UP

    assert code_of(world_of(image, ScriptedUnits(load_again), refusing("verify"))) == 74
    assert loaded == {"one.service": "one", "two.service": "one"}
    assert image.leftovers() == []


def test_a_stop_after_the_commit_leaves_a_generation_that_is_applied(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """`parbake history` does not call a generation pending whose targets are in place."""
    world = world_of(pair)
    act = unit_actions.act

    def stop(*arguments: Any, **more: Any) -> Any:
        world.runtime.stop.set()
        return act(*arguments, **more)

    monkeypatch.setattr(executor, "act", stop)
    assert code_of(world) == 0
    assert states(world) == [(1, "applied"), (2, "applied")]


def test_a_stop_before_the_journal_commits_nothing(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that cuts off the sealing of the content must not leave a generation that can never be rolled back to."""
    world = world_of(pair)
    record = world.generations.record

    def stop(*arguments: Any) -> None:
        record(*arguments)
        world.runtime.stop.set()

    monkeypatch.setattr(world.generations, "record", stop)
    with pytest.raises(StopRequested):
        world.converge()
    assert targets(pair) == ("one 1", "one")
    assert states(world_of(pair)) == [(1, "applied")]
    assert pair.leftovers() == []


def test_a_reload_keeps_what_may_not_be_written(image: Image) -> None:
    """Promise 4: with cache = "none" the last good run config is in memory only, and a reload must not lose it."""
    image.settings('[state]\ncache = "none"\n' + template("a", ""))
    image.template("a.j2", "{{ config.v | default('empty') }}\n")
    image.site("common", 'v = "one"\n')
    world = world_of(image)
    assert code_of(world) == 0
    image.site("common", "\n")
    assert code_of(world) == 75
    world.memory.take_settings(world.runtime.settings)
    world.sources.close()
    world.runtime = open_runtime(world.runtime.paths, world.runtime.settings, world.runtime.stop, previous=world.runtime)
    assert code_of(world) == 75
    assert image.read("/etc/app/a") == "one\n"


def interrupted(image: Image, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None], name: str) -> None:
    """Leave a journal as the earlier build wrote it, in the middle of a convergence."""
    killed_in(monkeypatch, "act", world_of(image).converge)
    path = image.path("/var/lib/parbake/transaction")
    record = json.loads(path.read_text())
    del record["phase"], record["previous"]
    record["committed"] = True
    change(record)
    path.unlink()
    path.with_name(name).write_text(json.dumps(record))


def test_an_upgrade_finishes_what_the_earlier_build_committed(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The units that the earlier build had not acted on are acted on."""
    interrupted(pair, monkeypatch, lambda record: None, "transaction")
    units = ScriptedUnits()
    assert code_of(world_of(pair, units)) == 0
    assert units.acted == [("app.service", "restart")]
    assert pair.leftovers() == []


@pytest.mark.parametrize("name", ["transaction", "transaction.undo"])
def test_an_upgrade_finishes_the_rollback_of_the_earlier_build(pair: Image, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A rollback that was decided is done, for the groups that failed or for everything."""
    interrupted(pair, monkeypatch, lambda record: record.update(failed={"": "verify failed"}), name)
    pair.path("/site/common.toml").unlink()
    assert code_of(world_of(pair)) == 75
    assert targets(pair) == ("one 1", "one")
    assert pair.leftovers() == []


def test_an_upgrade_confirms_what_the_earlier_build_confirmed(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only old files were left to be removed."""
    interrupted(pair, monkeypatch, lambda record: None, "transaction.done")
    units = ScriptedUnits()
    assert code_of(world_of(pair, units)) == 0
    assert (targets(pair), units.acted, pair.leftovers()) == (("two 1", "two"), [], [])


@pytest.mark.parametrize("name", ["transaction", "transaction.undo", "transaction.done"])
@pytest.mark.parametrize("content", ['{"committed": 5}', '{"committed": true}', "{}", "5"])
def test_a_damaged_journal_of_the_earlier_build_stops_nothing(pair: Image, name: str, content: str) -> None:
    """Bad state may cost the memory of the past, never the ability to converge."""
    pair.write(f"/var/lib/parbake/{name}", content)
    assert code_of(world_of(pair)) == 0
    assert targets(pair) == ("two 1", "two")


def test_a_journal_of_this_build_is_left_as_it_is(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upgrade touches what has no phase, and nothing else."""
    killed_in(monkeypatch, "act", world_of(pair).converge)
    before = pair.read("/var/lib/parbake/transaction")
    journal_upgrade.upgrade(world_of(pair).runtime.state.records)
    assert pair.read("/var/lib/parbake/transaction") == before
    assert Phase(json.loads(before)["phase"].strip()) == Phase.COMMITTED
