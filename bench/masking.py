"""Measure the CPU time of masking a text with many secrets, as a ratio to masking it with a few.

Searched one by one, 500 secrets would cost 25 times as much as 20. The exit code is 1 from RATIO_MAX on. The best of several
rounds counts, because whatever else runs here can only slow one down.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.masking.masker import Masker

ROUNDS = 15
FEW, MANY = 20, 500
RATIO_MAX = 6.0
TEXT = b"GET /index.html 200 served by backend web1 in 12 ms for user alice\0" * 4000


def cpu_seconds(secrets: int) -> float:
    """Return the least CPU time of a pass over TEXT with that many secrets."""
    masker = Masker([os.urandom(12).hex() for _ in range(secrets)])
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        masker.mask(TEXT)
        rounds.append(time.process_time() - start)
    return min(rounds)


def main() -> int:
    base = cpu_seconds(FEW)
    for count in (FEW, 100, MANY):
        seconds = cpu_seconds(count)
        print(f"{count:4} secrets {seconds * 1000:8.1f} ms  {seconds / base:6.2f} x")
    return int(seconds >= RATIO_MAX * base)


if __name__ == "__main__":
    sys.exit(main())
