"""The platform ends the instance: `parbake ship` reads it in status.json and ships everything."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Image
from tests.servers.processes import ServerError, wait_until
from tests.servers.receiver import Receiver

PROMPT_SECONDS = 40.0
"""A third of the batch_age below: an entry that arrives by then has not waited for it."""
SETTINGS = """\
[component]
name = "web"

[ship]
journal = false
files = ["/var/log/app.log"]

[[sink]]
name = "central"
type = "http"
url = "{url}"
batch_age = "120s"
labels.environment = "{{{{ facts.environment }}}}"
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "receiver") as made:
        yield made


@pytest.fixture
def shipping(image: Image, receiver: Receiver) -> Image:
    """An image whose shipper collects for two minutes before it sends."""
    image.write("/etc/parbake/parbake.toml", SETTINGS.format(url=receiver.url))
    image.write("/var/log/app.log", "first\n")
    say(image, environment="prod")
    return image


def say(image: Image, state: str = "converged", **facts: str) -> None:
    """status.json as the daemon writes it: replaced as a whole."""
    status: dict[str, Any] = {
        "schema": 1,
        "state": state,
        "since": "2026-01-01T00:00:00Z",
        "generation": 1,
        "component": {"name": "web", "version": "1"},
        "facts": facts,
        "error": None,
        **{name: [] for name in ("sources", "templates", "units")},
    }
    new = image.write("/run/parbake/status.new", json.dumps(status))
    new.rename(image.path("/run/parbake/status.json"))


def log(image: Image, line: str) -> None:
    with image.path("/var/log/app.log").open("a") as file:
        file.write(f"{line}\n")


@contextmanager
def shipper(image: Image) -> Iterator[subprocess.Popen[str]]:
    process = image.start("ship")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> str:
    """Send SIGTERM, and return the log."""
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def arrives(receiver: Receiver, message: str) -> dict[str, str]:
    line: dict[str, str] = receiver.wait_for(1, PROMPT_SECONDS, MESSAGE=message)[0]
    return line


def test_a_notice_wakes_every_pipeline_until_it_is_called_off(shipping: Image, receiver: Receiver) -> None:
    """Lines that wait for company go at once, as do those that come later; called off, the next ones wait again."""
    with shipper(shipping) as process:
        arrives(receiver, "first")
        log(shipping, "waits")
        with pytest.raises(ServerError):
            receiver.wait_for(1, 4, MESSAGE="waits")
        say(shipping, environment="prod", terminating="spot", terminating_at="2030-01-01T00:00:00Z")
        arrives(receiver, "waits")
        for number in range(3):
            log(shipping, f"hurries {number}")
            assert arrives(receiver, f"hurries {number}")["environment"] == "prod"
        assert "this instance will be terminated (spot at 2030-01-01T00:00:00Z)" in shipping.run("status").out
        wait_for_draining(shipping, expected=True)
        say(shipping, environment="prod")
        wait_for_draining(shipping, expected=False)
        log(shipping, "waits again")
        with pytest.raises(ServerError):
            receiver.wait_for(1, 4, MESSAGE="waits again")
        said = end(process)
    assert "this instance will be terminated (spot at 2030-01-01T00:00:00Z)" in said
    assert "the termination of this instance is cancelled (it was: spot)" in said
    assert said.index("will be terminated (") < said.index("is cancelled")


def test_a_shipper_that_starts_late_hurries_from_the_start(shipping: Image, receiver: Receiver) -> None:
    """One that was restarted within the two minutes does not have to see the fact come."""
    say(shipping, environment="prod", terminating="preempted")
    with shipper(shipping) as process:
        arrives(receiver, "first")
        log(shipping, "second")
        arrives(receiver, "second")
        end(process)


def test_a_notice_shortens_the_wait_for_a_sink_that_is_away(shipping: Image, receiver: Receiver) -> None:
    """A receiver that asked for an hour's patience is asked again within seconds: there is no hour."""
    receiver.answer(503, retry_after_seconds=3600)
    with shipper(shipping) as process:
        receiver_was_asked(receiver, 1)
        time.sleep(2)
        asked = len(receiver.requests())
        assert asked == 1
        say(shipping, environment="prod", terminating="spot")
        receiver_was_asked(receiver, 2)
        receiver.answer(200)
        arrives(receiver, "first")
        end(process)


def wait_for_draining(image: Image, *, expected: bool) -> None:
    """Wait until three statuses in a row have `draining` so. They take four seconds: the shipper has read the facts since, and
    a short wait of a pipeline that began before is over."""
    times: list[float] = []

    def is_so() -> bool:
        status = json.loads(image.read("/var/lib/parbake/ship/status.json"))
        if status["draining"] != expected:
            times.clear()
        elif status["time"] not in times:
            times.append(status["time"])
        return len(times) == 3

    wait_until(is_so, PROMPT_SECONDS, f"three statuses of the shipper with draining = {expected}")


def receiver_was_asked(receiver: Receiver, times: int) -> None:
    give_up = time.monotonic() + PROMPT_SECONDS
    while len(receiver.requests()) < times:
        assert time.monotonic() < give_up, f"{len(receiver.requests())} requests"
        time.sleep(0.1)


def test_a_daemon_that_starts_anew_takes_no_label_away(shipping: Image, receiver: Receiver) -> None:
    """Between a daemon's restart and its first convergence the facts are those that were known before."""
    say(shipping, environment="prod", terminating="spot")
    with shipper(shipping) as process:
        assert arrives(receiver, "first")["environment"] == "prod"
        say(shipping, state="starting")
        wait_for_draining(shipping, expected=True)
        log(shipping, "second")
        assert arrives(receiver, "second")["environment"] == "prod"
        assert "is called off" not in end(process)
