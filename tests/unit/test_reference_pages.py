"""The reference pages agree with the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from typing import Any

import pytest

from agent.cli.output import FAMILIES
from agent.discovery import PROVIDERS
from agent.discovery.clouds import CLOUDS
from agent.paths import Paths
from agent.settings import loader
from agent.settings.models import ITEMS, TABLES, Journal, Key, LogFile, TemplateUnit
from agent.settings.schema import toml_keys
from agent.shipping.sinks import SINKS
from agent.sources import BACKENDS
from agent.templates.filters import FILTERS
from tests.conftest import REPOSITORY, Image

PAGES = REPOSITORY / "docs" / "reference"
PLUGINS = [("backends.md", name, path) for name, path in BACKENDS.items()] + [
    ("sinks.md", name, path) for name, path in SINKS.items()
]


def test_settings_and_commands() -> None:
    """The pages that are made from the code are current."""
    ran = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_example_of_the_settings_is_valid(image: Image) -> None:
    """The example at the top of the page can be copied."""
    match = re.search(r"```toml\n(.*?)```", (PAGES / "settings.md").read_text("utf-8"), re.DOTALL)
    assert match
    image.write("/etc/parbake/parbake.toml", match[1])
    image.template("haproxy.cfg.j2", "")
    loaded = loader.load(Paths(image.root), FAMILIES)
    assert [sink.name for sink in loaded.sinks] == ["loki"]


@pytest.mark.parametrize("cls", [*TABLES.values(), *ITEMS.values(), Journal, Key, LogFile, TemplateUnit])
def test_every_setting(cls: type[Any]) -> None:
    """A setting that exists can be looked up."""
    text = (PAGES / "settings.md").read_text("utf-8")
    rows = {(key, field.metadata["doc"].replace("|", "\\|")) for key, field in toml_keys(cls).items()}
    assert [key for key, doc in rows if not re.search(rf"^\| `{key}` \|.*\| {re.escape(doc)} \|$", text, re.MULTILINE)] == []


@pytest.mark.parametrize(("page", "name", "path"), PLUGINS, ids=[f"{page}-{name}" for page, name, _ in PLUGINS])
def test_every_option_of_every_plugin(page: str, name: str, path: str) -> None:
    """An option that exists can be looked up."""
    module, _, attribute = path.partition(":")
    text = (PAGES / page).read_text("utf-8")
    options = getattr(importlib.import_module(module), attribute).options_class
    assert f"`{name}`" in text
    assert [key for key in toml_keys(options) if f"`{key}`" not in text and f"`{key} " not in text] == []


def test_every_provider_platform_and_filter() -> None:
    """Every provider, platform and filter can be looked up."""
    discovery, templates = ((PAGES / page).read_text("utf-8") for page in ("discovery.md", "templates.md"))
    assert [name for name in (*PROVIDERS, *CLOUDS) if f"`{name}`" not in discovery] == []
    assert [name for name in FILTERS if f"`{name}`" not in templates and f"`{name}(" not in templates] == []
