"""Plugins by name: a family's table maps a name to "module:Class"; a third party's is named by that path itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from agent.errors import SettingsError
from agent.settings.schema import closest


def load(table: Mapping[str, str], name: str, what: str) -> Any:
    """The class behind a name or dotted path. Only its own module is imported.

    Raises SettingsError for a name that does not exist, listing those that do.
    """
    path = table.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise SettingsError(f'there is no {what} "{name}"{closest(name, table)}')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - a third party's module may fail in any way while it is imported
        raise SettingsError(f'{what} "{name}" cannot be imported: {type(error).__name__}: {error}') from None
    if not hasattr(module, attribute):
        raise SettingsError(f'{what} "{name}": module {module_name} has no {attribute}')
    return getattr(module, attribute)
