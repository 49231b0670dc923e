"""Plugins by name: a family's table maps a name to "module:Class"; a third party's is named by that path itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from agent.errors import SettingsError
from agent.schema import closest


def load(table: Mapping[str, str], name: str, what: str) -> Any:
    """The class behind a name or dotted path. Only its own module is imported.

    Raises SettingsError for a name that does not exist, listing those that do.
    """
    path = table.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise SettingsError(f'there is no {what} "{name}"{closest(name, table)}')
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise SettingsError(f'{what} "{name}" cannot be imported: {error}') from None
    except AttributeError:
        raise SettingsError(f'{what} "{name}": module {module_name} has no {attribute}') from None
