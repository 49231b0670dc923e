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
from agent.settings import quantities, schema  # noqa: E402
from agent.settings.models import TABLES, Journal, Key, LogFile, Sink, Source, Template, TemplateUnit  # noqa: E402

SETTINGS_EXAMPLE = """# Settings

Made by `tools/reference.py` from the code; a test fails if the page and the code differ.

```toml
# /etc/parbake/parbake.toml
[component]
name = "web"
version = "2.4.1"

[facts]
environment = "dev"                        # used if no provider gives this fact

[facts_from]
environment = ["tag:environment", "userdata:environment"]

[[source]]
name = "site"
backend = "file"
path = "/etc/parbake/site"
layers = ["common", "env/{{ facts.environment }}"]

[keys."db.password"]
required = true
secret = true

[[template]]
source = "haproxy.cfg.j2"
target = "/etc/haproxy/haproxy.cfg"
check = ["haproxy", "-c", "-f", "{candidate}"]
units = [{ name = "haproxy.service", action = "reload" }]

[ship]
files = ["/var/log/app/*.log"]
mask_for = "7d"

[[sink]]
name = "loki"
type = "loki"
url = "https://loki.example:3100"
labels = { component = "{{ build.component }}" }
```
"""

SETTINGS_RULES = """## Files

The files are read in this order:

| file | content |
|---|---|
| `/usr/lib/parbake/conf.d/*.toml` | defaults of packages |
| `/etc/parbake/parbake.toml`, or `--config FILE` in its place | build config, baked into the image |
| `/etc/parbake/conf.d/*.toml` | build config, baked into the image |
| `/run/parbake/conf.d/*.toml` | additions at run time; only `[facts]`, `[[source]]`, `[[sink]]` and `[log]` |

A later file's key overrides an earlier one's. A later `[[source]]`, `[[sink]]` or `[[template]]` of the same name replaces
the earlier. Two of one name in the same file are an error.

An unknown table or key, a wrong type, a missing file or an invalid value is an error. All errors are reported at once, each
with its file, line and key, the value that was found, what was expected, and the closest correct name. `parbake` then exits
with 78 and changes nothing.

## Values

| value | written as |
|---|---|
| duration | `"200ms"`, `"5s"`, `"2m"`, `"1h"`, `"7d"`, or a number of seconds |
| size | `"512KiB"`, `"10MiB"`, `"100kB"`, or a number of bytes |
| mode | an octal string, `"0640"` |

`[facts_from]` maps a fact to a list of `tag:NAME`, `userdata:NAME` or `fact:NAME`; the first that exists is taken.
`{{ facts.NAME }}` and `{{ build.NAME }}` are replaced in layers, in labels and in the options of sources and sinks.
`[facts]` holds any names, with strings or tables as values.

## Units and commands of templates

Templates that give the same `name` in `units` share one action per convergence, however many of them changed:

- Several actions on one unit: the strongest is done (`restart`, then `reload-or-restart`, `reload`, `start`; `start` with
  `reload` gives `reload-or-restart`; `none` asks for no action).
- The same command in several templates runs once.
- A unit with an action and a command under one name are an error, and so are two different commands under one name: only one
  of the two would run. Give the command another `name`.
- The same command with different values of `timeout` is an error too: the command runs once, and so has one timeout.
- A unit with the action `none` may share its name with a command.

A command without a `name` has its words, joined by spaces, as its name.

## Limits

- A duration is not negative, and a century at most. `check_timeout`, `poll` and `timeout` of a source, and `timeout` of
  `[discovery]` and of a command are above zero.
- `[watch] settle_max` is at least `settle`.
- `[ship] mask_for` is a year (`365d`) at most. `0s` masks only the values that are secret now.
- `[ship] drain` is `75s` at most: systemd kills parbake-ship.service at the end of its `TimeoutStopSec`.
- A sink's `name` becomes a file name: at most 64 letters, digits, `_`, `.` and `-`.
- A unit's `name` has its suffix (`haproxy.service`). A template cannot act on `parbake.service`.
- A table cannot be secret as a whole: declare its keys. A key with declared keys below it has the type `table`.
- `after` must not form a cycle.
"""

COMMANDS_PAGE = TREE / "docs" / "reference" / "commands.md"
OPTIONS_TABLE = re.compile(r"^\| option \| meaning \|\n(?:\|.*\n)+", re.MULTILINE)


def settings_page() -> str:
    """Return docs/reference/settings.md: the example, the tables, the rules, the limits."""
    parts = [SETTINGS_EXAMPLE]
    for name, cls in TABLES.items():
        parts.append(_section(f"[{name}]", cls))
        if name == "ship":
            parts.append(_section("[ship.journal]", Journal))
            parts.append(_section("A table in `files` of [ship]", LogFile))
    parts.append(_section('[keys."NAME"]', Key, "One key of the contract; the name is the whole path, in quotes."))
    parts.append(_section("[[source]]", Source, "The options of the backends are in [backends.md](backends.md)."))
    parts.append(_section("[[template]]", Template))
    parts.append(_section("An entry of `units` in [[template]]", TemplateUnit))
    parts.append(_section("[[sink]]", Sink, "The options of the types are in [sinks.md](sinks.md)."))
    parts.append(SETTINGS_RULES)
    return "\n".join(parts)


def _section(title: str, cls: type[Any], note: str = "") -> str:
    head = f"## {title}\n\n" + (f"{note}\n\n" if note else "")
    rows = "\n".join(_rows(cls))
    return f"{head}| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _rows(cls: type[Any]) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for key, field in schema.toml_keys(cls).items():
        doc = str(field.metadata["doc"]).replace("|", "\\|")
        yield f"| `{key}` | {_type(hints[field.name])} | {_default(field, hints[field.name])} | {doc} |"


def _type(hint: Any) -> str:
    if hint in (schema.Seconds, schema.Size, schema.Mode):
        return {schema.Seconds: "duration", schema.Size: "size", schema.Mode: "mode"}[hint]
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " \\| ".join(f'"{a}"' for a in arguments)
    if origin is tuple:
        return "list of " + " or ".join(f"{name}s" for name in _type(arguments[0]).split(" or "))
    if origin is dict:
        return "table"
    if arguments:
        return " or ".join(_type(a) for a in arguments)
    if dataclasses.is_dataclass(hint):
        return "table"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(hint, "any")


def _default(field: dataclasses.Field[Any], hint: Any) -> str:
    """Return a default as the settings write it. "" if there is no value to show."""
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else ""
    value = field.default
    if value is None or value in ("", (), ("",)):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if hint is schema.Seconds:
        return f"`{quantities.duration_text(value)}`"
    if hint is schema.Size:
        return f"`{quantities.size_text(value)}`"
    return f"`{value:04o}`" if hint is schema.Mode else f"`{value}`"


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
