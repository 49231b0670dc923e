"""The median time of `parbake once` on the image of the demo: first run and run without changes, baked and not.

It is printed in milliseconds and as a ratio to the start of a bare interpreter, which is comparable between machines.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
ROUNDS = 15


def run_milliseconds(argv: list[str]) -> float:
    """Run a command and return its wall-clock time in milliseconds."""
    start = time.perf_counter()
    subprocess.run(argv, cwd=TREE, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def median(run: Callable[[], float]) -> float:
    run()
    return statistics.median(run() for _ in range(ROUNDS))


def prepare(root: Path) -> None:
    """Create the image of `make demo` below `root`, without the check by haproxy, which would dominate the time."""
    shutil.copytree(TREE / "examples" / "web", root, dirs_exist_ok=True)
    settings = root / "etc/parbake/parbake.toml"
    kept = [line for line in settings.read_text().splitlines(True) if '"haproxy", "-c"' not in line]
    settings.write_text("".join(kept))


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        prepare(root)
        parbake = [sys.executable, "-m", "agent", "--root", str(root)]

        def first() -> float:
            for path in ("var", "run"):
                shutil.rmtree(root / path, ignore_errors=True)
            return run_milliseconds([*parbake, "once"])

        bare = median(lambda: run_milliseconds([sys.executable, "-c", "pass"]))
        rows = [("interpreter alone", bare), ("parbake --version", median(lambda: run_milliseconds([*parbake, "--version"])))]
        rows += [("once, first", median(first)), ("once, no change", median(lambda: run_milliseconds([*parbake, "once"])))]
        subprocess.run([*parbake, "bake"], cwd=TREE, check=True, stdout=subprocess.DEVNULL)
        rows += [("once, first, baked", median(first))]
        rows += [("once, no change, baked", median(lambda: run_milliseconds([*parbake, "once"])))]
        for name, milliseconds in rows:
            print(f"{name:28} {milliseconds:7.1f} ms  {milliseconds / bare:5.1f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
