"""What discovery takes: with no cloud at all, on each emulated platform, and with a metadata service that hangs.

Each row is the median of fresh interpreters, imports included, from which nothing is subtracted: the clock starts
after the settings' module is loaded. Printed as milliseconds on this machine and as a ratio to the start of a bare
interpreter, which carries over.
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
    """Median milliseconds, and how many facts there were."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", SCRIPT, str(root), url, str(seconds)]
    taken, facts = [], 0
    for _ in range(rounds + 1):
        done = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True, check=True)
        first, second = done.stdout.split()
        taken.append(float(first) * 1000)
        facts = int(second)
    # The first run compiled.
    return statistics.median(taken[1:]), facts


def bare() -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        cache, base = directory / "cache", bare()

        def row(what: str, milliseconds: float, facts: int) -> None:
            print(f"{what:28} {milliseconds:8.1f} ms  {milliseconds / base:6.2f} x  {facts:3} facts")

        row("interpreter alone", base, 0)
        (directory / "none").mkdir()
        row("no cloud at all", *discover(directory / "none", cache, "", 5, ROUNDS))
        for platform in sorted(FIRMWARE):
            root = directory / platform
            machine(root, platform)
            with Metadata(platform) as service:
                row(platform, *discover(root, cache, service.url, 5, ROUNDS))
        with Metadata("ec2", "hang") as service:
            taken = discover(directory / "ec2", cache, service.url, HANG_SECONDS, 3)
        row(f"ec2 hangs, timeout {HANG_SECONDS:g} s", *taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
