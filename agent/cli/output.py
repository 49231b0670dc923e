"""Shared by all commands: the loading of settings, and printing."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.discovery import PROVIDERS
from agent.discovery.clouds import CLOUDS
from agent.formats.terminal import printable
from agent.paths import Paths
from agent.settings.loader import Families, load
from agent.settings.models import Settings
from agent.shipping.sinks import SINKS
from agent.sources import BACKENDS

FAMILIES = Families(BACKENDS, SINKS, PROVIDERS, CLOUDS)


def load_settings(paths: Paths, arguments: Namespace) -> Settings:
    """Load the settings. Raises SettingsError with every problem."""
    return load(paths, FAMILIES, Path(arguments.config) if arguments.config else None)


def print_line(text: str) -> None:
    """Print one line of text, with what a terminal would obey as escapes: values come from stores."""
    sys.stdout.write(f"{printable(text)}\n")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the rows as lines with aligned columns. Every row has the same number of cells."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
