"""One convergence after another, with units and programs that the test scripts: INTERFACE section 8, promises 2 and 3."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.convergence import hold, journal, quarantine, recovery, rollback
from agent.errors import ApplyError, ContractError, ParbakeError, RolledBack, SourceMissing
from agent.model import Change, ChangeKind, UnitStep
from agent.settings.models import Template, TemplateUnit
from agent.system.process import ProcessResult
from agent.system.units import UnitState
from tests.conftest import Image
from tests.unit.convergence.worlds import DOWN, STOPPED, UP, ScriptedPrograms, ScriptedUnits, World, world_of


def template(name: str, unit: str = "app.service", action: str = "reload", more: str = "") -> str:
    units = f'units = [{{ name = "{unit}", action = "{action}" }}]\n' if unit else ""
    return f'[[template]]\nsource = "{name}.j2"\ntarget = "/etc/app/{name}"\n{units}{more}\n'


def bake(image: Image, *templates: str, more: str = "") -> None:
    image.settings(more + "".join(templates))


def one_template(image: Image, more: str = "", settings: str = "") -> None:
    bake(image, template("a", more=more), more=settings)
    image.template("a.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')


def code_of(world: World, *, before_ready: bool = False) -> int:
    """As the command line has it: the exit code, also of an error."""
    try:
        return world.converge(before_ready=before_ready)
    except ParbakeError as error:
        return error.exit_code


def roll_back(world: World, number: int | None) -> None:
    rollback.roll_back_to(world.runtime, world.memory, number)


def test_a_hundred_templates_of_which_half_share_a_unit(image: Image) -> None:
    """Promise 3: a unit is acted on once however many of its templates changed, with the strongest action they ask for."""
    names = [f"t{i:03}" for i in range(100)]
    bake(
        image,
        *(
            template(name, "shared.service" if i % 2 else "", "restart" if i == 51 else "reload")
            for i, name in enumerate(names)
        ),
    )
    for name in names:
        image.template(f"{name}.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    units = ScriptedUnits()
    world = world_of(image, units)
    assert code_of(world) == 0
    assert units.acted == [("shared.service", "restart")]
    assert code_of(world) == 0
    assert units.acted == [("shared.service", "restart")], "acted on though nothing changed"
    assert {image.read(f"/etc/app/{name}") for name in names} == {"one\n"}


def test_a_thousand_templates_and_one_changed_key(image: Image) -> None:
    """Only templates whose keys changed render again: 1,000 templates and one changed key cost one render."""
    names = [f"t{i:04}" for i in range(1000)]
    bake(image, *(template(name, "") for name in names))
    image.template("all.j2", "")
    for name in names:
        image.template(f"{name}.j2", f"{{{{ config.{name} }}}}\n")
    image.site("common", "".join(f'{name} = "one"\n' for name in names))
    world = world_of(image)
    assert code_of(world) == 0
    image.site("common", "".join(f'{name} = "{"two" if name == "t0500" else "one"}"\n' for name in names))
    assert code_of(world) == 0
    assert world.memory.planned is not None
    assert world.memory.planned.rendered == 1
    assert image.read("/etc/app/t0500") == "two\n"


def test_a_reload_that_fails_on_a_running_unit_is_done_again(image: Image) -> None:
    """Confd forgets a reload that failed; here it is done again until it succeeds."""
    one_template(image)
    left = ["busy", "busy again"]
    units = ScriptedUnits(outcome=lambda step: left.pop() if left else UP)
    world = world_of(image, units)
    assert code_of(world) == 0
    assert units.acted == [("app.service", "reload")] * 3
    assert [(u.result, u.detail) for u in world.report.units] == [("ok", "at attempt 3")]


def test_a_unit_that_goes_down_takes_its_generation_with_it(image: Image) -> None:
    """Verify and go back: the earlier targets, the unit on them again, exit 74, and no second try."""
    one_template(image)
    units = ScriptedUnits(outcome=lambda step: DOWN if image.read("/etc/app/a") == "bad\n" else UP)
    assert code_of(world_of(image, units)) == 0
    image.site("common", 'v = "bad"\n')
    world = world_of(image, units)
    with pytest.raises(RolledBack, match="keys that changed: v"):
        world.converge()
    assert image.read("/etc/app/a") == "one\n"
    assert units.states["app.service"] == UP
    assert units.acted == [("app.service", "reload"), ("app.service", "reload"), ("app.service", "restart")]
    for _ in range(3):
        again = world_of(image, units)
        assert code_of(again) == 74
        assert again.report.state == "rolled-back"
        assert again.report.generation == 1
    assert len(units.acted) == 3, "a rejected generation was tried again"
    image.site("common", 'v = "good"\n')
    assert code_of(world_of(image, units)) == 0
    assert image.read("/etc/app/a") == "good\n"
    states = [(g.number, g.state) for g in world.generations.all()]
    assert states == [(1, "applied"), (2, "rejected"), (3, "applied")]


def two_groups(image: Image) -> ScriptedUnits:
    """One template a group, and units that go down on a config that says "bad". Converged on "one"."""
    bake(
        image,
        template("a", "one.service", more='group_name = "edge"'),
        template("b", "two.service"),
        more="[units]\nretries = 0\n",
    )
    for name in "ab":
        image.template(f"{name}.j2", f"{{{{ config.{name} }}}}\n")
    image.site("common", 'a = "one"\nb = "one"\n')
    units = ScriptedUnits()
    units.outcome = lambda step: DOWN if "bad" in image.read(f"/etc/app/{'a' if step.unit == 'one.service' else 'b'}") else UP
    return units


def test_a_group_goes_back_alone(image: Image) -> None:
    """Promise 2: a group is one transaction: one that does not come up goes back, and takes no other group with it; it is
    not tried again because something else changed; exit 74 and `rolled-back` until its own inputs change."""
    units = two_groups(image)
    assert code_of(world_of(image, units)) == 0
    image.site("common", 'a = "bad"\nb = "two"\n')
    world = world_of(image, units)
    assert code_of(world) == 74
    assert (image.read("/etc/app/a"), image.read("/etc/app/b")) == ("one\n", "two\n")
    assert world.report.state == "rolled-back"
    assert "group edge was rolled back" in str(world.report.error)
    assert "keys that changed: a, b" in str(world.report.error)
    assert [t["state"] for t in world.report.templates] == ["rejected", "current"]
    assert units.acted[2:] == [("one.service", "reload"), ("two.service", "reload"), ("one.service", "restart")]
    for value in ("three", "four"):
        image.site("common", f'a = "bad"\nb = "{value}"\n')
        again = world_of(image, units)
        assert code_of(again) == 74
        assert (image.read("/etc/app/a"), image.read("/etc/app/b")) == ("one\n", f"{value}\n")
        assert again.report.state == "rolled-back"
    assert [unit for unit, _ in units.acted[5:]] == ["two.service"] * 2
    image.site("common", 'a = "good"\nb = "four"\n')
    world = world_of(image, units)
    assert code_of(world) == 0
    assert (world.report.state, image.read("/etc/app/a")) == ("converged", "good\n")


def test_a_generation_without_a_group_can_be_gone_back_to(image: Image) -> None:
    """A generation of which a group went back, or waited, holds for it what was in place then, for `rollback` too."""
    units = two_groups(image)
    assert code_of(world_of(image, units)) == 0
    image.site("common", 'a = "bad"\nb = "two"\n')
    assert code_of(world_of(image, units)) == 74
    image.site("common", 'b = "three"\n')
    assert code_of(world_of(image, units)) == 65
    image.site("common", 'a = "good"\nb = "four"\n')
    assert code_of(world_of(image, units)) == 0
    for number, b in ((2, "two"), (3, "three")):
        roll_back(world_of(image, units), number)
        assert (image.read("/etc/app/a"), image.read("/etc/app/b")) == ("one\n", f"{b}\n")


def test_a_group_that_comes_later_has_nothing_to_go_back_to(image: Image) -> None:
    """A group that waited for its keys and then does not come up is left as on a first boot: stopped, reported, and never
    put back to what the image had in its place."""
    units = two_groups(image)
    image.write("/etc/app/a", "of the image\n")
    image.site("common", 'b = "one"\n')
    assert code_of(world_of(image, units)) == 65
    image.site("common", 'a = "bad"\nb = "two"\n')
    world = world_of(image, units)
    assert code_of(world) == 74
    assert world.report.state == "failed"
    assert (image.read("/etc/app/a"), image.read("/etc/app/b")) == ("bad\n", "two\n")
    assert units.stopped == ["one.service"]
    acted = len(units.acted)
    assert code_of(world_of(image, units)) == 74
    assert len(units.acted) == acted
    image.site("common", 'a = "good"\nb = "two"\n')
    assert code_of(world_of(image, units)) == 0
    assert units.acted[acted:] == [("one.service", "restart")]


def test_what_was_rejected_is_tried_again_when_asked(image: Image) -> None:
    """`parbake resume` is for what broke a generation from outside: the same is tried once more, and a unit that was
    stopped for it is started."""
    units = two_groups(image)
    image.site("common", 'a = "bad"\nb = "bad"\n')
    assert code_of(world_of(image, units)) == 74
    assert units.stopped == ["one.service", "two.service"]
    assert quarantine.allow_retry(world_of(image, units).runtime.state.records)
    assert code_of(world_of(image, units)) == 74, "it is no better than before"
    assert units.states == {"one.service": STOPPED, "two.service": STOPPED}
    units.outcome = lambda step: UP
    acted = len(units.acted)
    assert quarantine.allow_retry(world_of(image, units).runtime.state.records)
    assert code_of(world_of(image, units)) == 0
    assert units.acted[acted:] == [("one.service", "restart"), ("two.service", "restart")]
    assert not quarantine.allow_retry(world_of(image, units).runtime.state.records)
    image.site("common", 'a = "one"\nb = "one"\n')
    assert code_of(world_of(image, units)) == 0
    units.outcome = lambda step: DOWN if image.read("/etc/app/a") == "two\n" else UP
    image.site("common", 'a = "two"\nb = "one"\n')
    assert code_of(world_of(image, units)) == 74
    units.outcome = lambda step: UP
    assert code_of(world_of(image, units)) == 74
    quarantine.allow_retry(world_of(image, units).runtime.state.records)
    assert code_of(world_of(image, units)) == 0
    assert image.read("/etc/app/a") == "two\n"


def test_a_corrected_verify_is_another_judgement(image: Image) -> None:
    """What was rejected by a `verify` that was wrong itself is tried again once the settings are put right."""
    one_template(image, more='verify = ["wrong"]\nverify_timeout = "1s"')
    programs = ScriptedPrograms(lambda argv: ProcessResult(0 if argv[0] == "right" else 1, ""))
    assert code_of(world_of(image, run=programs)) == 74
    bake(image, template("a", more='verify = ["right"]'))
    assert code_of(world_of(image, run=programs)) == 0


def test_an_order_holds_between_groups(image: Image) -> None:
    """A target that comes `after` another's is put in place after it, also where they are of two groups."""
    bake(
        image,
        template("a", more='group_name = "one"'),
        template("b", "", more='group_name = "two"'),
        template("c", "", more='group_name = "one"\nafter = ["b"]'),
    )
    for name in "abc":
        image.template(f"{name}.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    journaled: list[str] = []

    def act(step: UnitStep) -> UnitState:
        record = json.loads(image.read("/var/lib/parbake/transaction"))
        journaled.extend(rename["target"] for rename in record["renames"])
        return UP

    assert code_of(world_of(image, ScriptedUnits(outcome=act))) == 0
    assert journaled == ["/etc/app/a", "/etc/app/b", "/etc/app/c"]


def test_a_unit_that_dies_while_it_settles(image: Image) -> None:
    """A unit must stay active for `settle_active`, so one that dies a second later is not believed."""
    one_template(image, settings='[units]\nsettle_active = "2s"\n')
    units = ScriptedUnits()
    waits: list[float] = []

    def dies_later(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 1 and image.read("/etc/app/a") == "two\n":
            units.states["app.service"] = DOWN

    world = world_of(image, units, sleep=dies_later)
    assert code_of(world) == 0
    image.site("common", 'v = "two"\n')
    waits.clear()
    assert code_of(world) == 74
    assert image.read("/etc/app/a") == "one\n"


def test_a_unit_that_systemd_restarts_is_not_up(image: Image) -> None:
    """A service that crashes and is restarted by systemd is active at every look, and still not up."""
    one_template(image, settings='[units]\nsettle_active = "1s"\n')
    units = ScriptedUnits()
    restarts = iter(range(100))

    def restarted(seconds: float) -> None:
        if image.read("/etc/app/a") == "two\n":
            units.states["app.service"] = UnitState("loaded", "active", "running", restarts=next(restarts))

    world = world_of(image, units, sleep=restarted)
    assert code_of(world) == 0
    image.site("common", 'v = "two"\n')
    assert code_of(world) == 74
    assert "was restarted by systemd" in str(world.generations.all()[-1].error)


@pytest.mark.parametrize("leave", [False, True])
def test_the_first_generation_fails(image: Image, leave: bool) -> None:
    """First boot has nothing to go back to: report, leave the unit stopped or as configured, and do not loop."""
    one_template(image, settings='[units]\non_first_failure = "leave"\nretries = 0\n' if leave else "[units]\nretries = 0\n")
    units = ScriptedUnits(outcome=lambda step: DOWN if image.read("/etc/app/a") == "one\n" else UP)
    world = world_of(image, units)
    assert code_of(world) == 74
    assert units.stopped == ([] if leave else ["app.service"])
    assert image.read("/etc/app/a") == "one\n"
    acted = len(units.acted)
    assert code_of(world_of(image, units)) == 74
    assert len(units.acted) == acted
    image.site("common", 'v = "good"\n')
    assert code_of(world_of(image, units)) == 0
    assert units.states["app.service"] == UP
    # a second generation that fails goes back to the first good one, and not to the one that never came up
    image.site("common", 'v = "one"\n')
    assert code_of(world_of(image, units)) == 74
    assert image.read("/etc/app/a") == "good\n"


def test_verify_decides(image: Image) -> None:
    """INTERFACE 3: `verify` runs after the action, on the target; failing it rolls back, and its words are masked."""
    one_template(image, more='verify = ["probe", "{target}"]\nverify_timeout = "1s"', settings="[keys.pw]\nsecret = true\n")
    image.site("common", 'v = "one"\npw = "hunter2-secret"\n')
    broken: list[bool] = []
    programs = ScriptedPrograms(lambda argv: ProcessResult(1, "no: hunter2-secret") if broken else ProcessResult(0, ""))
    world = world_of(image, run=programs)
    assert code_of(world) == 0
    assert programs.ran == [("probe", str(image.path("/etc/app/a")))]
    image.site("common", 'v = "two"\npw = "hunter2-secret"\n')
    broken.append(True)
    with pytest.raises(RolledBack) as failed:
        world.converge()
    assert "hunter2" not in str(failed.value)
    assert image.read("/etc/app/a") == "one\n"


def test_a_check_that_refuses_holds_up_its_group_alone(image: Image) -> None:
    """Promise 2: nothing of a group is replaced unless every check passed; the other groups go on; status says so."""
    bake(
        image,
        template("a", "one.service", more='check = ["lint", "{candidate}"]\ngroup_name = "edge"'),
        template("b", "one.service", more='group_name = "edge"'),
        template("c", "two.service"),
    )
    for name in "abc":
        image.template(f"{name}.j2", "{{ config.v }} {{ config.pw }}\n" if name == "a" else "{{ config.v }}\n")
    image.site("common", 'v = "one"\npw = "hunter2-secret"\n')
    seen: list[str] = []

    def lint(argv: Sequence[str]) -> ProcessResult:
        seen.append(Path(argv[1]).read_text())
        return ProcessResult(1, "line 3: hunter2-secret is odd") if "two" in seen[-1] else ProcessResult(0, "")

    units = ScriptedUnits()
    image.write("/etc/parbake/conf.d/keys.toml", "[keys.pw]\nsecret = true\n")
    world = world_of(image, units, ScriptedPrograms(lint))
    assert code_of(world) == 0
    image.site("common", 'v = "two"\npw = "hunter2-secret"\n')
    units.acted.clear()
    assert code_of(world) == 65
    assert seen[-1] == "two hunter2-secret\n", "the check is given the candidate"
    assert (image.read("/etc/app/b"), image.read("/etc/app/c")) == ("one\n", "two\n")
    assert units.acted == [("two.service", "reload")]
    assert "line 3: ******** is odd" in str(world.report.error)
    assert [t["state"] for t in world.report.templates] == ["waiting", "waiting", "current"]
    assert image.leftovers() == []


def test_a_missing_key_holds_up_its_group_and_is_named(image: Image) -> None:
    """A template that fails to render holds up its own group, and every key it lacks is named at once."""
    bake(image, template("a", "", more='group_name = "edge"'), template("b", ""))
    image.template("a.j2", "{{ config.one }} {{ config.deep.two }}\n")
    image.template("b.j2", "{{ config.v }}\n")
    image.site("common", 'v = "x"\n')
    world = world_of(image)
    assert code_of(world) == 65
    assert image.read("/etc/app/b") == "x\n"
    assert not image.path("/etc/app/a").exists()
    assert "config.one is not set" in str(world.report.error)
    assert "config.deep.two is not set" in str(world.report.error)


def test_a_broken_contract_stops_everything(image: Image) -> None:
    """Promise 2: a broken contract stops the whole convergence."""
    one_template(image, settings="[keys.w]\nrequired = true\n")
    with pytest.raises(ContractError):
        world_of(image).converge()
    assert not image.path("/etc/app/a").exists()


def test_a_source_that_fails_never_empties_a_config(image: Image) -> None:
    """Promise 4: away, empty or rubbish: the last good run config stays, the state is stale, the exit code 75."""
    one_template(image)
    units = ScriptedUnits()
    assert code_of(world_of(image, units)) == 0
    for lie in ("", "[v]\n", "this is not TOML"):
        image.site("common", lie)
        world = world_of(image, units)
        assert code_of(world) == 75
        assert world.report.state == "stale"
        assert image.read("/etc/app/a") == "one\n"
    image.path("/site/common.toml").unlink()
    assert code_of(world_of(image, units)) == 75
    assert len(units.acted) == 1
    image.site("common", 'v = "two"\n')
    world = world_of(image, units)
    assert code_of(world) == 0
    assert (world.report.state, image.read("/etc/app/a")) == ("converged", "two\n")


def test_no_source_and_nothing_remembered(image: Image) -> None:
    """INTERFACE 6: a required source is unavailable and there is no last good run config: 69, nothing written."""
    one_template(image)
    image.path("/site/common.toml").unlink()
    with pytest.raises(SourceMissing) as failed:
        world_of(image).converge()
    assert failed.value.exit_code == 69
    assert not image.path("/etc/app/a").exists()


def test_before_ready_stopped_units_are_left_to_systemd(image: Image) -> None:
    """Before READY a unit that does not run is not acted on, and its generation is verified once it has started."""
    one_template(image)
    units = ScriptedUnits(states={"app.service": STOPPED})
    world = world_of(image, units)
    assert code_of(world, before_ready=True) == 0
    assert units.acted == []
    assert journal.load(world.runtime.state.records) is not None, "it is not confirmed yet"
    units.states["app.service"] = UP
    recovery.confirm_started(world.runtime, world.memory)
    assert journal.load(world.runtime.state.records) is None
    assert [u.result for u in world.report.units] == ["ok"]
    assert image.leftovers() == []


def test_a_unit_that_does_not_start_after_ready_is_rolled_back(image: Image) -> None:
    """What could not be verified before READY is after it, and goes back all the same."""
    one_template(image)
    units = ScriptedUnits()
    assert code_of(world_of(image, units)) == 0
    image.site("common", 'v = "two"\n')
    units.states["app.service"] = STOPPED
    world = world_of(image, units)
    assert code_of(world, before_ready=True) == 0
    assert image.read("/etc/app/a") == "two\n"
    units.states["app.service"] = DOWN
    with pytest.raises(RolledBack):
        recovery.confirm_started(world.runtime, world.memory)
    assert image.read("/etc/app/a") == "one\n"
    assert units.acted[-1] == ("app.service", "restart")


def test_rollback_holds_until_resume(image: Image) -> None:
    """INTERFACE 5: rollback goes back to a generation and holds it against every change, and says so, until resumed."""
    one_template(image)
    units = ScriptedUnits()
    for value in ("one", "two", "three"):
        image.site("common", f'v = "{value}"\n')
        assert code_of(world_of(image, units)) == 0
    world = world_of(image, units)
    roll_back(world, 1)
    assert image.read("/etc/app/a") == "one\n"
    assert image.status()["hold"] == 1
    image.site("common", 'v = "four"\n')
    held = world_of(image, units)
    assert code_of(held) == 0
    assert (held.report.state, image.read("/etc/app/a")) == ("rolled-back", "one\n")
    hold.release_hold(held.runtime.state.records)
    assert code_of(world_of(image, units)) == 0
    assert image.read("/etc/app/a") == "four\n"
    assert len(units.acted) == 5


def test_a_rollback_that_fails_is_not_held(image: Image) -> None:
    """A generation that does not come up any more is not held: what was there before is back, and goes on changing."""
    one_template(image)
    units = ScriptedUnits()
    for value in ("one", "two"):
        image.site("common", f'v = "{value}"\n')
        assert code_of(world_of(image, units)) == 0
    units.outcome = lambda step: DOWN if image.read("/etc/app/a") == "one\n" else UP
    with pytest.raises(ApplyError):
        roll_back(world_of(image, units), 1)
    assert image.read("/etc/app/a") == "two\n"
    assert hold.held_generation(world_of(image, units).runtime.state.records) is None


def test_generations_are_kept_to_a_number(image: Image) -> None:
    """The last N generations are kept, with cause, digests and unit results; ten rejected ones do not push out
    the one to go back to."""
    one_template(image, settings="[state]\ngenerations = 3\n[units]\nretries = 0\n")
    units = ScriptedUnits(outcome=lambda step: DOWN if "bad" in image.read("/etc/app/a") else UP)
    for value in range(6):
        image.site("common", f'v = "good{value}"\n')
        assert code_of(world_of(image, units)) == 0
    world = world_of(image, units)
    assert [g.number for g in world.generations.all()] == [4, 5, 6]
    assert world.generations.all()[-1].keys == ("v",)
    for value in range(12):
        image.site("common", f'v = "bad{value}"\n')
        assert code_of(world_of(image, units)) == 74
    last = world.generations.last()
    assert last is not None
    assert last.number == 6
    assert image.read("/etc/app/a") == "good5\n"


def test_a_step_is_journaled_before_and_after(image: Image) -> None:
    """A pending action is durable: it is known at the next start and done, and what was done is not repeated."""
    bake(image, template("a", "one.service"), template("b", "two.service"))
    for name in "ab":
        image.template(f"{name}.j2", "{{ config.v }}\n")
    image.site("common", 'v = "x"\n')

    class Killed(BaseException):
        pass

    def die(step: UnitStep) -> UnitState:
        if step.unit == "two.service":
            raise Killed
        return UP

    with pytest.raises(Killed):
        world_of(image, ScriptedUnits(outcome=die)).converge()
    units = ScriptedUnits()
    assert code_of(world_of(image, units)) == 0
    assert units.acted == [("two.service", "reload")]


def test_an_upgrade_lets_no_rejected_group_loose() -> None:
    """A rejection is identified by what the user wrote: a new setting at its default changes nothing, a written one does."""
    written = Template(name="a", source="a.j2", target="/etc/app/a", units=(TemplateUnit(name="app.service", action="reload"),))
    later = dataclasses.make_dataclass(
        "Template", [("added", str, dataclasses.field(default="default", kw_only=True))], bases=(Template,), frozen=True
    )
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(written)}
    change = Change("a", "/etc/app/a", ChangeKind.CONTENT, "", 0o644, 0, 0, False, b"bad\n")

    def digest(template: Template) -> str:
        return quarantine.digest_of([template], [change])

    assert digest(later(**fields)) == digest(written)
    assert digest(later(**fields, added="other")) != digest(written)
    assert digest(dataclasses.replace(written, verify=("probe",))) != digest(written)
    assert digest(dataclasses.replace(written, units=(TemplateUnit(name="app.service", action="restart"),))) != digest(written)
