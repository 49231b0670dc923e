"""TOML files -> one frozen `Settings`, or one SettingsError with every problem of every file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import SettingsError
from agent.paths import Paths
from agent.settings import tables, validation
from agent.settings.models import Settings
from agent.settings.schema import Problems
from agent.settings.toml_files import read_files


@dataclass(frozen=True, slots=True)
class Families:
    """The plug-in tables, name -> "module:Class", that settings may choose from. Injected, so that imports go one way."""

    backends: Mapping[str, str] = field(default_factory=dict)
    sinks: Mapping[str, str] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)
    clouds: Mapping[str, str] = field(default_factory=dict)


def load(paths: Paths, families: Families, config: Path | None = None) -> Settings:
    """Return the settings of the image below `paths`, with `config` in place of /etc/parbake/parbake.toml.

    A later file's key overrides an earlier one's; a later [[source]], [[sink]] or [[template]] of the same name replaces
    the earlier one. Raises SettingsError with every problem found.
    """
    problems = Problems()
    main = config or paths.main_file
    raw = read_files(paths, main, problems)
    settings = tables.build(raw, main, families.backends, families.sinks, problems)
    validation.check(settings, raw, paths, families.providers, families.clouds, problems)
    if problems.messages:
        count = len(problems.messages)
        raise SettingsError(
            f"the settings are invalid: {count} problem{'s' if count != 1 else ''}",
            problems.messages,
            hint="nothing was changed; docs/reference/settings.md lists every table and key",
        )
    return settings
