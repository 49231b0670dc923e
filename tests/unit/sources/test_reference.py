"""docs/reference/backends.md has every option; run this file to print the tables."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from agent.settings import plugins, schema
from agent.settings.models import Source
from agent.sources import BACKENDS

PAGE = Path(__file__).parents[3] / "docs/reference/backends.md"
TLS = ("ca_file", "cert_file", "key_file", "server_name", "insecure")


def kind_name(hint: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", tuple[str, ...]: "list of strings", dict[str, str]: "table"}
    return "one of its names" if typing.get_origin(hint) is typing.Literal else names[hint]


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return "" if value in ("", []) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def rows(backend: str) -> list[str]:
    """Return the option table of a backend, a row an option. The TLS options are in one table for all backends."""
    options = plugins.load(BACKENDS, backend, "backend").options_class
    hints = typing.get_type_hints(options)
    keys = schema.toml_keys(options)
    return [
        f"| `{key}` | {kind_name(hints[field.name])} | {default(field)} | {field.metadata['doc']} |"
        for key, field in keys.items()
        if key not in TLS or backend == "zookeeper"
    ]


def section(backend: str) -> str:
    match = re.search(rf"^## `{backend}`$(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert match, f"docs/reference/backends.md has no section for {backend}"
    return match[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_option_is_documented_where_its_backend_is(backend: str) -> None:
    """The section of a backend has the row of each of its options, word for word, and of no other."""
    written = [line for line in section(backend).splitlines() if line.startswith("| `")]
    assert written == rows(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_option_can_be_set(backend: str) -> None:
    """No option has the name of a key that every source has: the settings would take it for that key."""
    options = plugins.load(BACKENDS, backend, "backend").options_class
    assert not set(schema.toml_keys(options)) & set(schema.toml_keys(Source))


def test_the_tls_options_are_documented_once() -> None:
    """The section on TLS has a row for each of them."""
    from agent.net.tls import TlsOptions

    text = PAGE.read_text("utf-8").split("## TLS", 1)[1]
    for key, field in schema.toml_keys(TlsOptions).items():
        assert f"| `{key}` | {field.metadata['doc']} |" in text


if __name__ == "__main__":
    for name in BACKENDS:
        print(f"## `{name}`\n", *rows(name), "", sep="\n")
