"""The sandboxed Jinja2 environment of the templates, and the bytecode that `parbake bake` compiles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, MappingView
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, BytecodeCache, Environment, TemplateNotFound
from jinja2.bccache import Bucket
from jinja2.exceptions import UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from agent.paths import Paths
from agent.settings.models import TemplateSyntax
from agent.system.safe_files import write_atomic
from agent.templates.filters import FILTERS
from agent.templates.tracked_context import TABLE_METHODS, Missing, View

_CLOCK_ATTRIBUTES = ("now", "today", "utcnow", "fromtimestamp", "astimezone")


class Sandbox(ImmutableSandboxedEnvironment):
    """A strict environment without data in globals, without HTML escaping and without `random`."""

    def __init__(self, loader: BaseLoader, cache: BytecodeCache | None, syntax: TemplateSyntax) -> None:
        super().__init__(
            loader=loader,
            bytecode_cache=cache,
            undefined=Missing,
            trim_blocks=syntax.trim_blocks,
            lstrip_blocks=syntax.lstrip_blocks,
            variable_start_string=syntax.variable_start,
            variable_end_string=syntax.variable_end,
            block_start_string=syntax.block_start,
            block_end_string=syntax.block_end,
            comment_start_string=syntax.comment_start,
            comment_end_string=syntax.comment_end,
            keep_trailing_newline=True,
            autoescape=False,
            auto_reload=False,
            finalize=_printable,
        )
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
        }
        del self.filters["random"]
        self.filters.update(FILTERS)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Forbid, beyond Jinja2's own rules, the clock and the time zone of the machine: they are not inputs of a render."""
        if isinstance(obj, date) and (
            attr in _CLOCK_ATTRIBUTES or (attr == "timestamp" and getattr(obj, "tzinfo", None) is None)
        ):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`: a key of a table, unless the name is one of a table's methods."""
        if isinstance(obj, View):
            return getattr(obj, attribute) if attribute in TABLE_METHODS else obj.member(attribute)
        if isinstance(obj, Missing):
            return obj.child(attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return `obj[argument]`: always a key of a table."""
        if isinstance(obj, View):
            return obj.member(argument)
        if isinstance(obj, Missing):
            return obj.child(str(argument))
        return super().getitem(obj, argument)


def _printable(value: Any) -> Any:
    """Return the value of an expression for printing. Raises UndefinedError if its text would differ between machines."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (Iterator, MappingView, Cycler, Namespace)):
        raise UndefinedError(f"an expression gives a {type(value).__name__}, which cannot be printed; use `| list` or `| join`")
    if value is None or (callable(value) and not isinstance(value, Missing)):
        kind = "nothing (null)" if value is None else f"a function ({getattr(value, '__name__', value)})"
        raise UndefinedError(
            f"an expression gives {kind}, which cannot be printed; a key with the name of a method needs [...]"
        )
    return value


class TemplateFiles(BaseLoader):
    """Loads templates below the template directory, and the absolute paths that the settings name; no other file."""

    def __init__(self, paths: Paths, absolute_sources: frozenset[str]) -> None:
        self._paths = paths
        self._absolute_sources = absolute_sources

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """Return the text, the path and an "is current" function. Raises TemplateNotFound with the reason."""
        if template in self._absolute_sources:
            path = self._paths.host(template)
        elif template.startswith("/") or ".." in template.split("/"):
            raise TemplateNotFound(template, f"{template} is outside the template directory")
        else:
            path = self._paths.templates / template
        try:
            return path.read_text("utf-8"), str(path), lambda: True
        except FileNotFoundError:
            raise TemplateNotFound(template, f"{self._paths.shown(path)} does not exist") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name or its text is not UTF-8"
            raise TemplateNotFound(template, f"{self._paths.shown(path)} cannot be read: {reason}") from None


class CompiledTemplates(BytecodeCache):
    """The bytecode that `parbake bake` compiled. Jinja2 ignores it if the template's text has changed since.

    Only a `writable` store keeps what Jinja2 compiles; `written` lists the files.
    """

    def __init__(self, directory: Path, syntax: TemplateSyntax, *, writable: bool = False) -> None:
        self._directory = directory
        self._syntax = " ".join(map(str, syntax))
        self._writable = writable
        self.written: list[Path] = []

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """Return the file name of a template in one syntax, without its suffix."""
        return hashlib.sha256(f"{name}|{self._syntax}".encode()).hexdigest()[:32]

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load a template's bytecode. Without a usable file Jinja2 compiles the template."""
        try:
            with open(self._directory / f"{bucket.key}.jinja", "rb") as file:
                bucket.load_bytecode(file)
        except (OSError, ValueError, EOFError, TypeError):
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Write a template's bytecode, if the store is writable."""
        if not self._writable:
            return
        path = self._directory / f"{bucket.key}.jinja"
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomic(path, bucket.bytecode_to_string(), 0o644, sync=False)
        self.written.append(path)
