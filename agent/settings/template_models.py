"""[[template]] and its `units` as frozen dataclasses: one record per setting drives parsing, checking and reference docs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from agent.settings.schema import Mode, Seconds, raise_problems, setting

ActionName = Literal["none", "start", "reload", "reload-or-restart", "restart"]
OTHER_CANDIDATE = re.compile(r"\{candidate:([^{}]+)\}")
"""A placeholder in a check for the candidate of another template, whose name is the one group."""
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*")  # systemd.unit(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateUnit:
    """An entry of a template's `units`: a systemd unit, or a command for a program that is not a unit."""

    name: str = setting(
        "the systemd unit, with its suffix; with `command`: a name for the command; default: the command itself", ""
    )
    action: ActionName = setting("the action by which the unit picks the target up", "reload-or-restart")
    command: tuple[str, ...] = setting("run instead of an action on a unit; it must end by itself", ())
    timeout: Seconds = setting("how long the command may take", Seconds(30.0))

    @property
    def label(self) -> str:
        """The name of the action in status and messages. Templates that use the same name share one action."""
        return self.name or " ".join(self.command)

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        if self.command:
            if self.timeout <= 0:
                yield "timeout is 0s, expected more"
        elif not self.name:
            yield "an entry of units needs a name, or a command"
        elif "." not in self.name:
            yield f'name "{self.name}" has no suffix; write "{self.name}.service"'
        elif not _UNIT_NAME.fullmatch(self.name):
            yield f'name "{self.name}" is not a name of a systemd unit'
        elif self.name.split(".")[0] == "parbake":
            yield f'name "{self.name}" is the unit of parbake itself, which a template cannot act on'


class TemplateSyntax(NamedTuple):
    """The settings of a template that decide how its text is compiled."""

    trim_blocks: bool
    lstrip_blocks: bool
    variable_start: str
    variable_end: str
    block_start: str
    block_end: str
    comment_start: str
    comment_end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """[[template]]"""

    source: str = setting("the Jinja2 file; a relative path is below /etc/parbake/templates")
    target: str = setting("the file that is written, an absolute path")
    name: str = setting("default: the target's file name", "")
    owner: str = setting("name or id; default: kept, root for a new file", "")
    group: str = setting("name or id; default: kept, root for a new file", "")
    mode: Mode | None = setting('default "0644", and "0600" if the template reads a secret key', None)
    directory_mode: Mode = setting("the mode of a parent directory that parbake creates", Mode(0o755))
    directory_owner: str = setting("the owner of a parent directory that parbake creates; default: root", "")
    directory_group: str = setting("the group of a parent directory that parbake creates; default: root", "")
    check: tuple[str, ...] = setting(
        "a command that runs on the candidate, `{candidate}`, before anything is replaced; `{candidate:NAME}` is the "
        "candidate of another template. The same command in several templates of a group runs once",
        (),
    )
    check_timeout: Seconds = setting("how long a check may take", Seconds(30.0))
    units: tuple[TemplateUnit, ...] = setting("the units that must pick the target up", ())
    verify: tuple[str, ...] = setting("a command that runs after the units' actions; if it fails, the group is rolled back", ())
    verify_timeout: Seconds = setting("how long `verify` may take, with its retries", Seconds(30.0))
    required: bool = setting("whether the start of the units waits for parbake (drop-ins of `parbake bake`)", True)
    after: tuple[str, ...] = setting("the names of templates whose targets are put in place before this one's", ())
    drift: Literal["report", "repair"] = setting("how the daemon treats a target that was edited by hand", "report")
    group_name: str = setting("a group is one transaction; the templates without a `group_name` are one group", "")
    trim_blocks: bool = setting("Jinja2's `trim_blocks`", True)
    lstrip_blocks: bool = setting("Jinja2's `lstrip_blocks`", False)
    variable_delimiters: tuple[str, ...] = setting(
        "the delimiters of an expression, for a target whose format uses braces", ("{{", "}}")
    )
    block_delimiters: tuple[str, ...] = setting("the delimiters of a statement", ("{%", "%}"))
    comment_delimiters: tuple[str, ...] = setting("the delimiters of a comment", ("{#", "#}"))

    @property
    def syntax(self) -> TemplateSyntax:
        """The syntax of the template's text. Templates of one syntax share a Jinja2 environment."""
        pairs = (self.variable_delimiters, self.block_delimiters, self.comment_delimiters)
        return TemplateSyntax(self.trim_blocks, self.lstrip_blocks, *(text for pair in pairs for text in pair))

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        if not self.source or "\0" in self.source:
            yield "source must be the path of a file"
        if (
            not self.target.startswith("/")
            or ".." in self.target.split("/")
            or self.target.endswith("/")
            or "\0" in self.target
        ):
            yield f'target "{self.target}" must be an absolute path of a file, without ".."'
        pairs = {
            "variable_delimiters": self.variable_delimiters,
            "block_delimiters": self.block_delimiters,
            "comment_delimiters": self.comment_delimiters,
        }
        invalid = [
            name for name, pair in pairs.items() if len(pair) != 2 or not all(text and text == text.strip() for text in pair)
        ]
        for name in invalid:
            yield f'{name} must be two strings without blanks around, such as ["[[", "]]"]; found {list(pairs[name])}'
        if not invalid and len({pair[0] for pair in pairs.values()}) < len(pairs):
            starts = ", ".join(f'"{pair[0]}"' for pair in pairs.values())
            yield f"variable_delimiters, block_delimiters and comment_delimiters must begin differently; found {starts}"
