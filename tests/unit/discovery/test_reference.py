"""docs/reference/discovery.md names every fact, provider and platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.discovery import CHANGING_FACTS, FACT_NAMES, PROVIDERS
from agent.discovery.clouds import CLOUDS
from agent.discovery.dmi import TABLE

PAGE = (Path(__file__).resolve().parents[3] / "docs/reference/discovery.md").read_text("utf-8")
PLAIN = [pattern.removesuffix(".*") for _, _, pattern in TABLE if pattern.replace(" ", "").removesuffix(".*").isalnum()]


@pytest.mark.parametrize("name", sorted({*FACT_NAMES, *CHANGING_FACTS, *PROVIDERS, *CLOUDS}))
def test_every_name_is_in_the_reference(name: str) -> None:
    """The page names each fact, provider and platform."""
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("text", PLAIN)
def test_every_string_of_firmware_is_in_the_reference(text: str) -> None:
    """The page has the exact string by which a platform is recognised."""
    assert f"`{text}`" in PAGE
