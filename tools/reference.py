"""Write docs/reference/settings.md and commands.md from the code; with `--check`, only report whether they are current."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE))

from agent.cli import main as cli  # noqa: E402
from agent.settings import schema  # noqa: E402
from agent.settings.loader import TABLES  # noqa: E402
from agent.settings.models import Key, Sink, Source, Template, TemplateUnit  # noqa: E402

SETTINGS_HEAD = """# Settings

Made by `tools/reference.py` from the code; a test fails where it is not true any more.

TOML in `/usr/lib/parbake/conf.d/*.toml`, `/etc/parbake/parbake.toml`, `/etc/parbake/conf.d/*.toml` and, for `[facts]`,
`[[source]]`, `[[sink]]` and `[log]` only, `/run/parbake/conf.d/*.toml`, read in this order: a later file's key overrides an
earlier one's, and a later `[[source]]`, `[[sink]]` or `[[template]]` of the same name replaces the earlier. `--config FILE`
is read in place of `/etc/parbake/parbake.toml`.

Durations are written "200ms", "5s", "2m", "1h", "1d"; sizes "512KiB", "10MiB"; modes as octal strings, "0640".
`{{ facts.NAME }}` and `{{ build.NAME }}` are replaced in layers, labels and the options of sources and sinks.

`[facts]` holds any names, with strings or tables. `[facts_from]` maps a fact to a list of `tag:NAME`, `userdata:NAME` or
`fact:NAME`, of which the first that exists is taken.
"""

COMMANDS_PAGE = TREE / "docs" / "reference" / "commands.md"
OPTIONS_TABLE = re.compile(r"^\| option \| meaning \|\n(?:\|.*\n)+", re.MULTILINE)


def settings_page() -> str:
    parts = [SETTINGS_HEAD]
    for name, cls in TABLES.items():
        parts.append(_section(f"[{name}]", cls))
    parts.append(_section('[keys."NAME"]', Key, "One key of the contract; the name is the whole path, in quotes."))
    parts.append(_section("[[source]]", Source, "And the options of its backend: [backends.md](backends.md)."))
    parts.append(_section("[[template]]", Template))
    parts.append(_section("an entry of `units` in [[template]]", TemplateUnit))
    parts.append(_section("[[sink]]", Sink, "And the options of its type: [sinks.md](sinks.md)."))
    return "\n".join(parts)


def _section(title: str, cls: type[Any], note: str = "") -> str:
    rows = "\n".join(_rows(cls))
    return f"## {title}\n\n{note + chr(10) * 2 if note else ''}| key | type | default | what |\n|---|---|---|---|\n{rows}\n"


def _rows(cls: type[Any]) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for key, field in schema.toml_keys(cls).items():
        doc = str(field.metadata["doc"]).replace("|", "\\|")
        yield f"| `{key}` | {_type(hints[field.name])} | {_default(field)} | {doc} |"


def _type(hint: Any) -> str:
    if hint in (schema.Seconds, schema.Size, schema.Mode):
        return {schema.Seconds: "duration", schema.Size: "size", schema.Mode: "mode"}[hint]
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " \\| ".join(f'"{a}"' for a in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "table"
    if arguments:
        return " or ".join(_type(a) for a in arguments)
    if dataclasses.is_dataclass(hint):
        return "table"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(hint, "any")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else ""
    value = field.default
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g} s`" if isinstance(value, float) else f"`{value}`"


def commands_page() -> str:
    """Return commands.md with each table of options as the parser gives it; all else in the page is written by hand.

    Raises SystemExit if a command has no section, or if a section has no table for the command's options.
    """
    sections = re.split(r"^(?=## )", COMMANDS_PAGE.read_text("utf-8"), flags=re.MULTILINE)
    general = cli.parser()
    common = {option for action in general._actions for option in action.option_strings}
    tables = {"## Options of every command": _options(general, skip=("command",))}
    for name in cli.COMMANDS:
        parser = argparse.ArgumentParser(add_help=False)
        importlib.import_module(f"agent.cli.{name}").add_arguments(parser)
        tables[f"## parbake {name}"] = _options(parser, skip=tuple(common))
    for heading, table in tables.items():
        index = next((i for i, section in enumerate(sections) if section.startswith(f"{heading}\n")), None)
        if index is None:
            raise SystemExit(f'{COMMANDS_PAGE}: there is no section "{heading}"; write one')
        if len(OPTIONS_TABLE.findall(sections[index])) != bool(table):
            raise SystemExit(f'{COMMANDS_PAGE}: section "{heading}" needs {1 if table else 0} table "| option | meaning |"')
        sections[index] = OPTIONS_TABLE.sub(lambda _, table=table: table, sections[index])
    return "".join(sections)


def _options(parser: argparse.ArgumentParser, skip: tuple[str, ...] = ()) -> str:
    rows = []
    for action in parser._actions:
        if action.dest in skip or set(action.option_strings) & set(skip):
            continue
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = f" {action.metavar}" if action.option_strings and action.metavar else ""
        choices = f"one of {', '.join(action.choices)}" if action.choices and action.option_strings else ""
        rows.append(f"| `{name}{value}` | {re.sub(r'[|]', '', action.help or choices)} |")
    return "| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""


def main() -> int:
    pages = {"settings.md": settings_page(), "commands.md": commands_page()}
    stale = []
    for name, text in pages.items():
        path = TREE / "docs" / "reference" / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text("utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, "utf-8")
    if stale:
        sys.stderr.write(f"docs/reference: {', '.join(stale)} differs from the code; run tools/reference.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
