"""The reference pages say what the code says."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from agent.discovery import PROVIDERS
from agent.discovery.clouds import CLOUDS
from agent.settings.schema import toml_keys
from agent.shipping.sinks import SINKS
from agent.sources import BACKENDS
from agent.templates.filters import FILTERS
from tests.conftest import REPOSITORY

PAGES = REPOSITORY / "docs" / "reference"
PLUGINS = [("backends.md", name, path) for name, path in BACKENDS.items()] + [
    ("sinks.md", name, path) for name, path in SINKS.items()
]


def test_settings_and_commands() -> None:
    """The pages that are made from the code were made from this code."""
    ran = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(("page", "name", "path"), PLUGINS, ids=[f"{page}-{name}" for page, name, _ in PLUGINS])
def test_every_option_of_every_plugin(page: str, name: str, path: str) -> None:
    """An option that exists can be looked up."""
    module, _, attribute = path.partition(":")
    text = (PAGES / page).read_text("utf-8")
    options = getattr(importlib.import_module(module), attribute).options_class
    assert f"`{name}`" in text
    assert [key for key in toml_keys(options) if f"`{key}`" not in text and f"`{key} " not in text] == []


def test_every_provider_platform_and_filter() -> None:
    """So can whatever facts come from, and what templates may use."""
    discovery, templates = ((PAGES / page).read_text("utf-8") for page in ("discovery.md", "templates.md"))
    assert [name for name in (*PROVIDERS, *CLOUDS) if f"`{name}`" not in discovery] == []
    assert [name for name in FILTERS if f"`{name}`" not in templates and f"`{name}(" not in templates] == []
