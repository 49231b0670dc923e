"""Plug-ins by name. A family's table maps a name to "module:Class"; a third party's plug-in is named by that path itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from agent.errors import SettingsError
from agent.settings.schema import closest


def load(family: Mapping[str, str], name: str, kind: str) -> Any:
    """Return the class behind a name or a dotted path. Only its own module is imported.

    `family` maps names to "module:Class"; `kind` is the family's name in messages, such as "backend".
    Raises SettingsError if the name does not exist (with the names that do) or if the module cannot be imported.
    """
    path = family.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise SettingsError(f'there is no {kind} "{name}"{closest(name, family)}')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - a third party's module may fail in any way while it is imported
        raise SettingsError(f'{kind} "{name}" cannot be imported: {type(error).__name__}: {error}') from None
    if not hasattr(module, attribute):
        raise SettingsError(f'{kind} "{name}": module {module_name} has no {attribute}')
    return getattr(module, attribute)
