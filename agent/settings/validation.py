"""What no single table can say of itself: names that must exist, targets that must differ, defaults that must fit."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping

from agent.keypath import dotted
from agent.paths import Paths
from agent.settings import interpolation
from agent.settings.models import Settings
from agent.settings.schema import Problems, closest, kind_of

_OTHER = re.compile(r"\{candidate:([^{}]+)\}")
_FITS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "table": (dict,),
    "bytes": (str,),
}


def check(settings: Settings, paths: Paths, providers: Mapping[str, str], clouds: Collection[str], problems: Problems) -> None:
    """Add every problem that shows only with the whole of the settings in hand."""
    _check_providers(settings, providers, problems)
    known = {"auto", "off", *clouds}
    if clouds and settings.discovery.imds not in known:
        problems.add(
            "[discovery] imds",
            f'there is no metadata service "{settings.discovery.imds}"{closest(settings.discovery.imds, known)}',
        )
    _check_keys(settings, problems)
    _check_templates(settings, paths, problems)
    for source in settings.sources:
        _check_placeholders(source.layers, f'[[source]] "{source.name}": layers', problems)
        if source.timeout <= 0 or source.poll <= 0:
            problems.add(f'[[source]] "{source.name}"', "timeout and poll must be above zero")
    for sink in settings.sinks:
        _check_placeholders(sink.labels.values(), f'[[sink]] "{sink.name}": labels', problems)
    if settings.watch.settle_max < settings.watch.settle:
        problems.add("[watch]", "settle_max is shorter than settle")


def _check_providers(settings: Settings, providers: Mapping[str, str], problems: Problems) -> None:
    for name in settings.discovery.providers:
        if name not in providers and ":" not in name:
            problems.add("[discovery] providers", f'there is no provider "{name}"{closest(name, providers)}')
    if settings.discovery.timeout <= 0:
        problems.add("[discovery] timeout", "must be above zero")


def _check_keys(settings: Settings, problems: Problems) -> None:
    for path, key in settings.keys.items():
        where = f'[keys."{dotted(path)}"]'
        fits = _FITS[key.type]
        wrong_bool = isinstance(key.default, bool) and key.type != "boolean"
        if key.default is not None and (wrong_bool or not isinstance(key.default, fits)):
            problems.add(where, f"default is {kind_of(key.default)}, but the type is {key.type}")
        if key.type == "bytes" and isinstance(key.default, str) and not _is_base64(key.default):
            problems.add(where, "default is not base64, as a default of type bytes must be")
        if key.secret and key.type == "table":
            problems.add(where, "a table cannot be secret as a whole; declare its keys")
        for other in settings.keys:
            if len(other) > len(path) and other[: len(path)] == path and key.type != "table":
                problems.add(where, f'is {key.type}, but "{dotted(other)}" is declared below it')


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return False
    return True


def _check_templates(settings: Settings, paths: Paths, problems: Problems) -> None:
    targets: dict[str, str] = {}
    names = {template.name for template in settings.templates}
    for template in settings.templates:
        where = f'[[template]] "{template.name}"'
        if template.target in targets:
            problems.add(where, f'has the same target as "{targets[template.target]}": {template.target}')
        targets[template.target] = template.name
        source = paths.templates / template.source
        if template.source.startswith("/"):
            source = paths.host(template.source)
        if not source.is_file():
            problems.add(where, f"source {paths.shown(source)} does not exist")
        for other in _OTHER.findall(" ".join(template.check)):
            if other not in names:
                problems.add(where, f'check: there is no template "{other}"{closest(other, names)}')
        if template.check_timeout <= 0:
            problems.add(where, "check_timeout must be above zero")


def _check_placeholders(texts: object, where: str, problems: Problems) -> None:
    for text in texts:  # type: ignore[attr-defined]
        for problem in interpolation.problems(text):
            problems.add(where, problem)
