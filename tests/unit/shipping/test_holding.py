"""Lines that wait for the daemon, and a stop in the middle of that; pipelines that a bug ends."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.paths import Paths
from agent.settings.models import Component, Settings, Ship
from agent.settings.models import Sink as SinkSettings
from agent.settings.schema import Seconds
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.shipper import ShipOptions, Shipper
from agent.shipping.shutdown import Stop
from agent.shipping.sinks.file import FileOptions
from agent.shipping.status_file import PipelineStatus
from agent.shipping.supervisor import Supervisor
from tests.conftest import Image

SECRET = '[keys."db.password"]\ntype = "string"\nsecret = true\n'
HELD = '{keys}[ship]\njournal = false\nfiles = ["/logs/*.log"]\nmask_wait = "1d"\n[[sink]]\ntype = "file"\npath = "/out/copy"\n'


def stopped(image: Image) -> tuple[int, str]:
    """`parbake ship` that is stopped as soon as it can be: the handler comes first of all."""
    running = image.start("ship")
    try:
        _await(lambda: _catches(running.pid, signal.SIGTERM))
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    return running.returncode, err


def test_a_stop_while_lines_are_held_ships_none_of_them(image: Image) -> None:
    """It is unknown what to mask, and mask_wait has not passed: held lines stay for the next start, and no sink gets them."""
    image.settings(HELD.format(keys=SECRET))
    image.write("/logs/app.log", "the password is hunter2-hunter2\n")
    code, err = stopped(image)
    assert code == 0, err
    assert "nothing is shipped" in err
    assert not image.path("/out/copy").exists()
    assert list(image.path("/var/lib/parbake/ship").glob("*.files.json")) == []
    image.write("/run/parbake/mask", json.dumps(["hunter2-hunter2"]))
    ran = image.run("ship", "--once")
    assert ran.code == 0, ran.err
    assert "the password is ********" in image.read("/out/copy")


def test_a_stop_where_nothing_is_to_be_masked_ships_what_is_there(image: Image) -> None:
    """Without a secret in the contract nothing is held, and a stop drains as usual."""
    image.settings(HELD.format(keys=""))
    image.write("/logs/app.log", "line\n")
    assert stopped(image)[0] == 0
    assert "line" in image.read("/out/copy")


def test_a_stop_before_the_checkpoints_are_known_to_be_ours_ships_nothing(tmp_path: Path) -> None:
    """They may belong to another instance, from which the image was captured."""

    class Strangers(Shipper):
        _checkpoints_are_own = False

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/app.log").write_text("line\n")
    sink = SinkSettings(type="file", name="copy", options=FileOptions(path="/out/copy"))
    ship = Ship(journal=False, files=("/logs/*.log",), mask_wait=Seconds(86400.0))
    stop = Stop()
    stop.set(5.0)
    settings = Settings(component=Component(name="web"), ship=ship, sinks=(sink,))
    assert Strangers(settings, Paths(tmp_path), ShipOptions(), stop).run() == ()
    assert not (tmp_path / "out").exists()


class Breaking:
    """A third party's sink with a bug: it fails `left` times, and accepts all after that."""

    options_class = FileOptions
    wants_ids = False
    left: ClassVar[int] = 0
    accepted: ClassVar[list[str]] = []

    def __init__(self, options: Any, context: SinkContext) -> None:
        """Nothing is kept."""

    def send(self, batch: Batch) -> SendResult:
        if Breaking.left > 0:
            Breaking.left -= 1
            raise KeyError("value-of-an-entry")
        Breaking.accepted += [row["MESSAGE"] for row in batch.rows()]
        return ACCEPTED

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def both(tmp_path: Path) -> tuple[Settings, Paths]:
    """A breaking sink before a sound one, and one line for both."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/app.log").write_text("line\n")
    options = FileOptions(path="/out/copy")
    sinks = (
        SinkSettings(type=f"{__name__}:Breaking", name="broken", options=options, batch_age=Seconds(0.05)),
        SinkSettings(type="file", name="sound", options=options, batch_age=Seconds(0.05)),
    )
    ship = Ship(journal=False, files=("/logs/*.log",), drain=Seconds(1.0))
    Breaking.accepted = []
    return Settings(component=Component(name="web"), ship=ship, sinks=sinks), Paths(tmp_path)


def test_a_bug_in_one_sink_ends_no_other(
    both: tuple[Settings, Paths], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sound sink gets lines written after the crash; log and status name the sink, and the command ends as a bug."""
    Breaking.left = 1000
    stop = Stop()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            Shipper(*both, ShipOptions(), stop).run()
        except KeyError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        _await(lambda: "line" in _read(tmp_path / "out/copy"))
        _await(lambda: any("sink broken: a bug" in message for message in caplog.messages))
        with (tmp_path / "logs/app.log").open("a") as file:
            file.write("later\n")
        _await(lambda: "later" in _read(tmp_path / "out/copy"))
    finally:
        stop.set(1.0)
        thread.join(60)
    assert [type(error) for error in ended] == [KeyError]
    assert not any("value-of-an-entry" in message for message in caplog.messages)
    status = json.loads((tmp_path / "var/lib/parbake/ship/status.json").read_text())["sinks"]
    assert status["broken"]["state"] == "failing"
    assert "KeyError" in status["broken"]["error"]
    assert status["sound"]["state"] == "ok"


def test_a_pipeline_restarts_after_a_bug() -> None:
    """A bug that passes costs a pause; a new pipeline goes on from the checkpoint. The first exception is kept."""
    made: list[int] = []

    class Fake:
        status = PipelineStatus("s", "file", "files")

        def run(self) -> bool:
            made.append(1)
            if len(made) < 3:
                raise KeyError("value-of-an-entry")
            return True

    first: Any = Fake()
    supervisor = Supervisor(first, Stop(), Fake, first_wait_seconds=0.05)  # type: ignore[arg-type]
    supervisor.run()
    assert len(made) == 3
    assert isinstance(supervisor.crash, KeyError)
    assert not supervisor.left_behind


def test_a_bug_while_draining_holds_up_no_stop() -> None:
    """There is no time left for a restart: the other pipelines drain, and the command ends with them. A restart would wait
    until the end of the drain."""

    class Fake:
        status = PipelineStatus("s", "file", "files")

        def run(self) -> bool:
            raise KeyError

    pipeline: Any = Fake()
    stop = Stop()
    stop.set(60.0)
    began = time.monotonic()
    supervisor = Supervisor(pipeline, stop, lambda: pipeline, first_wait_seconds=300.0)
    supervisor.run()
    assert time.monotonic() - began < 30
    assert supervisor.left_behind


def test_a_closed_pipe_ends_the_command_and_a_bug_does_not() -> None:
    """A closed standard output ends the command; the broken connection of another sink does not."""

    class Fake:
        status = PipelineStatus("s", "stdout", "files")

        def run(self) -> bool:
            raise BrokenPipeError

    pipeline: Any = Fake()
    stop = Stop()
    Supervisor(pipeline, stop, None).run()
    assert not stop.is_set
    Supervisor(pipeline, stop, lambda: pipeline, is_pipe=True).run()
    assert stop.is_set


def test_once_with_a_bug_in_one_sink_ships_to_the_others(both: tuple[Settings, Paths], tmp_path: Path) -> None:
    """`--once` does not wait for a bug to pass. It ends with the bug after the other sinks have all entries."""
    Breaking.left = 1000
    with pytest.raises(KeyError):
        Shipper(*both, ShipOptions(once=True), Stop()).run()
    assert "line" in _read(tmp_path / "out/copy")


def test_pipelines_that_hang_are_waited_for_together(tmp_path: Path) -> None:
    """After the time for draining, all hanging pipelines together have one second: systemd kills soon after."""
    made = Shipper(Settings(component=Component(name="web")), Paths(tmp_path), ShipOptions(), Stop())
    made._stop.set(0)
    release = threading.Event()
    threads = [threading.Thread(target=release.wait, name=f"s{number}", daemon=True) for number in range(60)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    made._join(threads)
    took = time.monotonic() - began
    release.set()
    assert took < 20  # one second for each would be a minute
    assert made._hanging == [f"s{number}" for number in range(60)]


def _catches(pid: int, number: int) -> bool:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _await(true: Any, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it does not come to be"
        time.sleep(0.05)
