"""Measure discovery without a cloud, on each emulated platform, and with a metadata service that hangs.

Each row is the median of fresh interpreters, imports included. The clock starts after the settings' module is loaded. The
units are milliseconds on this machine, and the ratio to the start of a bare interpreter, which other machines share. The
exit code is 1 if discovery without a cloud reaches NO_CLOUD_RATIO_MAX.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers.metadata import Metadata
from tests.unit.discovery.machines import FIRMWARE, machine

TREE = Path(__file__).resolve().parent.parent
ROUNDS = 9
HANG_SECONDS = 1.0
NO_CLOUD_RATIO_MAX = 4.0
SCRIPT = """
import sys, time
from pathlib import Path
from agent.paths import Paths
from agent.settings.schema import Seconds
from agent.settings.models import Component, Discovery, Settings
discovery = Discovery(imds_url=sys.argv[2], timeout=Seconds(float(sys.argv[3])))
settings = Settings(component=Component(name="web"), discovery=discovery)
start = time.perf_counter()
from agent.discovery.engine import discover
facts = discover(settings, Paths(Path(sys.argv[1])))
print(time.perf_counter() - start, len(facts.values))
"""


def discover(root: Path, cache: Path, url: str, seconds: float, rounds: int) -> tuple[float, int]:
    """Return the median in milliseconds, and the number of facts."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", SCRIPT, str(root), url, str(seconds)]
    milliseconds, facts = [], 0
    for _ in range(rounds + 1):
        done = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True, check=True)
        seconds_text, facts_text = done.stdout.split()
        milliseconds.append(float(seconds_text) * 1000)
        facts = int(facts_text)
    # Without the first run, which compiles.
    return statistics.median(milliseconds[1:]), facts


def bare_interpreter() -> float:
    """Return the median start-up time of an interpreter in milliseconds."""
    milliseconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        milliseconds.append((time.perf_counter() - start) * 1000)
    return statistics.median(milliseconds)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        cache, base = directory / "cache", bare_interpreter()

        def row(label: str, milliseconds: float, facts: int) -> None:
            print(f"{label:28} {milliseconds:8.1f} ms  {milliseconds / base:6.2f} x  {facts:3} facts")

        row("interpreter alone", base, 0)
        (directory / "none").mkdir()
        no_cloud, facts = discover(directory / "none", cache, "", 5, ROUNDS)
        row("no cloud at all", no_cloud, facts)
        for platform in sorted(FIRMWARE):
            root = directory / platform
            machine(root, platform)
            with Metadata(platform) as service:
                row(platform, *discover(root, cache, service.url, 5, ROUNDS))
        with Metadata("ec2", "hang") as service:
            hanging = discover(directory / "ec2", cache, service.url, HANG_SECONDS, 3)
        row(f"ec2 hangs, timeout {HANG_SECONDS:g} s", *hanging)
    return int(no_cloud >= NO_CLOUD_RATIO_MAX * base)


if __name__ == "__main__":
    sys.exit(main())
