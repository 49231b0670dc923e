"""Rules for every test run.

PARBAKE_NO_SKIPS=1 turns each skip into a failure that names the reason; CI sets it.

Property tests have no deadline per example, because a deadline fails on a busy machine for no fault of the code. They try
30 examples, different ones in each run, and 1,000 with PARBAKE_EXHAUSTIVE set.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings
from pluggy import Result

NO_SKIPS = os.environ.get("PARBAKE_NO_SKIPS") == "1"

settings.register_profile("parbake", deadline=None, max_examples=1000 if "PARBAKE_EXHAUSTIVE" in os.environ else 30)
settings.load_profile("parbake")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a skip is a failure here: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Result[pytest.TestReport], None]:
    _fail_if_skipped((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Result[pytest.CollectReport], None]:
    _fail_if_skipped((yield).get_result())
