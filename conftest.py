"""In CI a skip is a failure: PARBAKE_NO_SKIPS=1 turns every one into an error that says why it would have been skipped.

Property tests have no deadline for an example: on a busy machine it would say nothing about the code. They try 30
examples, since other ones are tried each time, and many more with PARBAKE_EXHAUSTIVE set.
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


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a skip is a failure here: {why}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Result[pytest.TestReport], None]:
    _refuse((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Result[pytest.CollectReport], None]:
    _refuse((yield).get_result())
