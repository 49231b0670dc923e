"""Discovery without a cloud costs milliseconds, and imports nothing for absent files and platforms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys, time
from pathlib import Path
from agent.paths import Paths
from agent.settings.models import Component, Settings
settings = Settings(component=Component(name="web"))
before = set(sys.modules)
start, start_cpu = time.perf_counter(), time.process_time()
from agent.discovery.engine import discover
facts = discover(settings, Paths(Path(sys.argv[1])))
seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
modules = sorted(set(sys.modules) - before)
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "modules": modules, "facts": dict(facts.values)}))
"""
LIMIT_SECONDS = 0.05
RUNS_MAX = 20
NOT_NEEDED = {"requests", "urllib3", "http.client", "ssl", "email.message", "yaml", "_yaml", "jinja2", "tenacity", "subprocess"}


def run(root: Path, cache: Path) -> dict[str, object]:
    # Compiled modules, as the package ships them.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    repository = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", SCRIPT, str(root)]
    done = subprocess.run(command, capture_output=True, cwd=repository, env=environment, timeout=60, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def best(runs: list[dict[str, object]], clock: str) -> float:
    return min(float(str(each[clock])) for each in runs)


def test_no_cloud_costs_milliseconds(tmp_path: Path) -> None:
    """In a fresh interpreter, imports included, discovery takes under 50 ms if there is nothing to find.

    The best run counts, because the work is the same each time. On a machine that is too busy for one undisturbed run the
    processor time counts, and the rest of the best run's time is the wait for a processor, not a sleep.
    """
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("web-1\n")
    runs: list[dict[str, object]] = []
    while len(runs) < RUNS_MAX and (not runs or best(runs, "seconds") >= LIMIT_SECONDS):
        runs.append(run(tmp_path, tmp_path / "cache"))
    assert best(runs, "cpu_seconds") < LIMIT_SECONDS
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    assert best(runs, "seconds") < LIMIT_SECONDS * (10 if busy else 1), f"took {best(runs, 'seconds'):.3f} s"
    assert all(each["facts"] == {"hostname": "web-1"} for each in runs)


def test_nothing_is_imported_for_what_is_not_there(tmp_path: Path) -> None:
    """No HTTP client, YAML parser or subprocess is loaded if no platform and no file needs it."""
    modules = run(tmp_path, tmp_path / "cache")["modules"]
    assert isinstance(modules, list)
    assert NOT_NEEDED & set(modules) == set()
    assert not any(name.startswith("agent.discovery.clouds.") for name in modules)
