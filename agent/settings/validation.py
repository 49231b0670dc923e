"""Checks that need more than one table: names that must exist, targets and actions that must not collide."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping

from agent.keypath import KeyPath, dotted
from agent.paths import Paths
from agent.settings import interpolation, unit_actions
from agent.settings.models import OTHER_CANDIDATE, Key, KeyType, Settings, Template
from agent.settings.quantities import duration_text
from agent.settings.schema import Problems, closest, kind_of, suggestion
from agent.settings.source_lines import Location
from agent.settings.toml_files import RawSettings

_TOML_TYPES: dict[KeyType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "table": (dict,),
    "bytes": (str,),
}


def check(
    settings: Settings,
    raw: RawSettings,
    paths: Paths,
    providers: Mapping[str, str],
    clouds: Collection[str],
    problems: Problems,
) -> None:
    """Add every problem that shows only in the settings as a whole.

    `raw` has the locations; `providers` and `clouds` hold the names of the fact providers and the metadata services.
    """
    _check_discovery(settings, raw.location("discovery"), providers, clouds, problems)
    for path, key in settings.keys.items():
        _check_key(path, key, settings.keys, raw.location("keys").key(dotted(path)), problems)
    for source in settings.sources:
        location = raw.item_location("source", source.name)
        _check_placeholders(source.layers, location.key("layers"), problems)
        _check_above_zero({"poll": source.poll, "timeout": source.timeout}, location, problems)
    for sink in settings.sinks:
        _check_placeholders(sink.labels.values(), raw.item_location("sink", sink.name).key("labels"), problems)
    _check_templates(settings.templates, raw, paths, problems)
    unit_actions.check(settings.templates, raw, problems)


def _check_discovery(
    settings: Settings, location: Location, providers: Mapping[str, str], clouds: Collection[str], problems: Problems
) -> None:
    discovery = settings.discovery
    for name in discovery.providers:
        if name not in providers and ":" not in name:
            problems.add(location.key("providers"), f'there is no provider "{name}"{closest(name, providers)}')
    names = {"auto", "off", *clouds}
    if clouds and discovery.imds not in names:
        problems.add(location.key("imds"), f'there is no metadata service "{discovery.imds}"{closest(discovery.imds, names)}')
    _check_above_zero({"timeout": discovery.timeout}, location, problems)


def _check_key(path: KeyPath, key: Key, keys: Mapping[KeyPath, Key], location: Location, problems: Problems) -> None:
    default = location.key("default")
    is_wrong_boolean = isinstance(key.default, bool) and key.type != "boolean"
    if key.default is not None and (is_wrong_boolean or not isinstance(key.default, _TOML_TYPES[key.type])):
        problems.add(default, f"default is {kind_of(key.default)}, but the type is {key.type}")
    if key.type == "bytes" and isinstance(key.default, str) and not _is_base64(key.default):
        problems.add(default, "default is not base64, as a default of type bytes must be")
    if key.secret and key.type == "table":
        problems.add(location.key("secret"), "a table cannot be secret as a whole; declare its keys")
    for other in keys:
        if len(other) > len(path) and other[: len(path)] == path and key.type != "table":
            problems.add(
                location.key("type"),
                f'"{dotted(path)}" has the type {key.type}, but "{dotted(other)}" is declared below it; expected table',
            )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return False
    return True


def _check_templates(templates: Iterable[Template], raw: RawSettings, paths: Paths, problems: Problems) -> None:
    names_by_target: dict[str, str] = {}
    all_names = raw.items.get("template", {})
    for template in templates:
        location = raw.item_location("template", template.name)
        if template.target in names_by_target:
            problems.add(
                location.key("target"),
                f'"{template.name}" has the same target as "{names_by_target[template.target]}": {template.target}',
            )
        names_by_target[template.target] = template.name
        _check_template_source(template, location.key("source"), paths, problems)
        for name in OTHER_CANDIDATE.findall(" ".join(template.check)):
            if name not in all_names:
                problems.add(location.key("check"), f'there is no template "{name}"{closest(name, all_names)}')
        _check_above_zero({"check_timeout": template.check_timeout}, location, problems)


def _check_template_source(template: Template, location: Location, paths: Paths, problems: Problems) -> None:
    is_absolute = template.source.startswith("/")
    source = paths.host(template.source) if is_absolute else paths.templates / template.source
    if source.is_file():
        return
    siblings = [path.name for path in source.parent.iterdir()] if source.parent.is_dir() else []
    problems.add(location, f"{paths.shown(source)} does not exist{suggestion(source.name, siblings)}")


def _check_above_zero(durations: Mapping[str, float], location: Location, problems: Problems) -> None:
    for key, duration in durations.items():
        if duration <= 0:
            problems.add(location.key(key), f"{key} is {duration_text(duration)}, expected more")


def _check_placeholders(texts: Iterable[str], location: Location, problems: Problems) -> None:
    for text in texts:
        for problem in interpolation.problems(text):
            problems.add(location, problem)
