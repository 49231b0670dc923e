"""The mask file across convergences: a rotated secret stays masked for `[ship] mask_for`, whatever is restarted."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.masking.mask_file import read_mask_file
from agent.status import report
from agent.system.process import ProcessResult
from tests.conftest import Image
from tests.unit.convergence.test_converge import roll_back
from tests.unit.convergence.worlds import ScriptedPrograms, World, world_of

SETTINGS = """
[state]
cache = "plain"
generations = 2
[ship]
mask_for = "1h"
[keys.pw]
secret = true
[[sink]]
name = "out"
type = "file"
path = "/var/log/out"
[[template]]
source = "a.j2"
target = "/etc/app/a"
mode = "0600"
"""
HOUR = 3600.0


class Clock:
    """The time of the mask, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(report, "now", lambda: datetime.fromtimestamp(clock.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    return clock


@pytest.fixture
def shipping(image: Image) -> Image:
    image.settings(SETTINGS)
    image.template("a.j2", "{{ config.pw }} {{ config.v }}\n")
    return image


def converge(image: Image, password: str, value: str = "x", world: World | None = None) -> World:
    image.site("common", f'pw = "{password}"\nv = "{value}"\n')
    world = world or world_of(image)
    assert world.converge() == 0
    return world


def masked(image: Image) -> set[str]:
    return set(read_mask_file(image.path("/run/parbake/mask")) or ())


def ship_status(image: Image, *, time: float, lag: float = 0.0, state: str = "ok") -> None:
    """What the shipper reports: each sink has acknowledged all that is older than `time` less `lag`."""
    row = {"type": "file", "state": state, "error": "", "lag_seconds": lag, "rate": 0, "sent": 0}
    image.write("/var/lib/parbake/ship/status.json", json.dumps({"schema": 1, "time": time, "sinks": {"out": row}}))


def test_a_rotated_secret_stays_masked_over_convergences_restarts_and_reboots(shipping: Image) -> None:
    """INTERFACE section 8, promise 5: a shipper with a backlog sends no old password in clear, however late it ships."""
    world = converge(shipping, "first-password")
    converge(shipping, "second-password", world=world)
    for value in "abc":
        converge(shipping, "second-password", value, world=world)
    assert masked(shipping) == {"first-password", "second-password"}
    converge(shipping, "second-password", "restarted")
    assert masked(shipping) == {"first-password", "second-password"}
    shutil.rmtree(shipping.path("/run/parbake"))
    converge(shipping, "third-password", "rebooted")
    assert masked(shipping) == {"first-password", "second-password", "third-password"}


def test_it_is_forgotten_after_mask_for_and_the_sinks(shipping: Image, clock: Clock) -> None:
    """Not before the time has passed, and not before every sink has shipped what was logged until the rotation."""
    world = converge(shipping, "first-password")
    converge(shipping, "second-password", world=world)
    for value in ("a", "b", "c"):  # no kept generation has the first password any more
        clock.now += 60
        converge(shipping, "second-password", value, world=world)
    clock.now += HOUR / 2
    ship_status(shipping, time=clock.now)
    converge(shipping, "second-password", "too early", world=world)
    assert "first-password" in masked(shipping)
    shipping.path("/var/lib/parbake/ship/status.json").unlink()
    clock.now += 2 * HOUR
    converge(shipping, "second-password", "no status", world=world)
    assert "first-password" in masked(shipping)
    ship_status(shipping, time=clock.now, lag=3 * HOUR)
    converge(shipping, "second-password", "a sink is behind", world=world)
    assert "first-password" in masked(shipping)
    ship_status(shipping, time=clock.now, state="starting")
    converge(shipping, "second-password", "a sink has just started", world=world)
    assert "first-password" in masked(shipping)
    ship_status(shipping, time=clock.now)
    converge(shipping, "second-password", "all holds", world=world)
    assert masked(shipping) == {"second-password"}


def test_it_goes_once_all_holds(shipping: Image, clock: Clock) -> None:
    """Then it goes: the list of what was ever secret does not grow for ever."""
    world = converge(shipping, "first-password")
    clock.now += HOUR
    converge(shipping, "second-password", world=world)
    for value in "abc":
        clock.now += HOUR
        ship_status(shipping, time=clock.now)
        converge(shipping, "second-password", value, world=world)
    assert masked(shipping) == {"second-password"}
    converge(shipping, "second-password", "restarted")
    assert masked(shipping) == {"second-password"}


def test_a_generation_that_can_be_rolled_back_to_keeps_its_secrets_masked(shipping: Image, clock: Clock) -> None:
    """`parbake rollback` applies an old password again, and the service logs it again."""
    converge(shipping, "first-password")
    converge(shipping, "second-password")
    clock.now += 2 * HOUR
    ship_status(shipping, time=clock.now)
    converge(shipping, "second-password", "later")
    assert "first-password" in masked(shipping)
    roll_back(world_of(shipping), 2)
    clock.now += 1000 * HOUR
    ship_status(shipping, time=clock.now)
    converge(shipping, "third-password")
    assert {"first-password", "second-password", "third-password"} <= masked(shipping)


def test_a_broken_contract_masks_what_holds_and_what_was(shipping: Image) -> None:
    """The services run on the earlier generation and log its secrets."""
    converge(shipping, "first-password")
    shipping.write("/etc/parbake/conf.d/more.toml", '[keys.port]\ntype = "integer"\nrequired = true\n')
    shipping.site("common", 'pw = "second-password"\nv = "x"\n')
    world = world_of(shipping)
    with pytest.raises(Exception, match="port"):
        world.converge()
    assert masked(shipping) == {"first-password", "second-password"}


GROUPS = (
    SETTINGS
    + """verify = ["verify", "{target}"]
verify_timeout = "100ms"
group_name = "db"
[[template]]
source = "b.j2"
target = "/etc/app/b"
"""
)


def test_a_group_that_was_rolled_back_keeps_its_secret_masked(image: Image, clock: Clock) -> None:
    """Its target holds the old password for as long as the new one does not hold, whatever the other groups do meanwhile."""
    image.settings(GROUPS)
    image.template("a.j2", "{{ config.pw }}\n")
    image.template("b.j2", "{{ config.v }}\n")
    programs = ScriptedPrograms(
        lambda argv: ProcessResult(1 if argv[0] == "verify" and "second" in Path(argv[1]).read_text() else 0, "")
    )
    world = world_of(image, run=programs)
    converge(image, "first-password", world=world)
    for value in "bcdef":
        clock.now += HOUR
        ship_status(image, time=clock.now)
        image.site("common", f'pw = "second-password"\nv = "{value}"\n')
        assert world.converge() == 74
    assert image.read("/etc/app/a") == "first-password\n"
    assert {"first-password", "second-password"} <= masked(image)


def test_a_copy_of_an_old_generation_is_as_old_as_its_content(shipping: Image, clock: Clock) -> None:
    """`parbake rollback` records old content under a new number and time. Its secrets stay masked while it is kept."""
    converge(shipping, "first-password")
    clock.now += HOUR
    converge(shipping, "second-password")
    clock.now += HOUR
    roll_back(world_of(shipping), 1)
    clock.now += HOUR
    world = world_of(shipping)
    assert world.converge(resume=True) == 0
    clock.now += 2 * HOUR
    ship_status(shipping, time=clock.now)
    assert world.converge() == 0
    roll_back(world_of(shipping), 3)
    assert shipping.read("/etc/app/a").startswith("first-password")
    assert "first-password" in masked(shipping)


def test_a_clock_that_is_not_set_at_boot_expires_nothing(shipping: Image, clock: Clock) -> None:
    """A machine without a clock begins in 1970 and jumps: a value that was rotated out in between is not decades old."""
    converge(shipping, "first-password")
    real = clock.now
    clock.now = 1000.0
    converge(shipping, "second-password")
    clock.now = real + 60
    ship_status(shipping, time=clock.now)
    converge(shipping, "second-password", "later")
    assert "first-password" in masked(shipping)
