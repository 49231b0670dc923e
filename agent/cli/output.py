"""The commands, one module each: `add_arguments(parser)` and `run(arguments, settings, paths) -> exit code`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.discovery import PROVIDERS
from agent.discovery.clouds import CLOUDS
from agent.paths import Paths
from agent.settings import loader
from agent.settings.loader import Families
from agent.settings.models import Settings
from agent.shipping.sinks import SINKS
from agent.sources import BACKENDS

FAMILIES = Families(BACKENDS, SINKS, PROVIDERS, CLOUDS)


def load_settings(paths: Paths, arguments: Namespace) -> Settings:
    """The settings. Raises SettingsError with every problem."""
    config = Path(arguments.config) if arguments.config else None
    return loader.load(paths, FAMILIES, config)


def say(text: str) -> None:
    """A line for people, on standard output."""
    sys.stdout.write(f"{text}\n")


def say_json(value: Any) -> None:
    """The same for programs."""
    sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Aligned columns."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
