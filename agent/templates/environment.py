"""The sandboxed Jinja2 that templates run in, and the store of templates compiled by `parbake bake`."""

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
from agent.templates.tracked_context import Missing, View

_CLOCK = ("now", "today", "utcnow", "fromtimestamp", "astimezone")
_METHODS = ("items", "keys", "values", "get")


class Sandbox(ImmutableSandboxedEnvironment):
    """Strict, without globals that hold data, without HTML escaping, without `random`."""

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
        """Nor the clock and the time zone of the machine, which are no inputs of a render."""
        if isinstance(obj, date) and (attr in _CLOCK or (attr == "timestamp" and getattr(obj, "tzinfo", None) is None)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, View):
            return getattr(obj, attribute) if attribute in _METHODS else obj.member(attribute)
        if isinstance(obj, Missing):
            return obj.below(attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, View):
            return obj.member(argument)
        if isinstance(obj, Missing):
            return obj.below(str(argument))
        return super().getitem(obj, argument)


def _printable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (Iterator, MappingView, Cycler, Namespace)):
        raise UndefinedError(f"an expression gives a {type(value).__name__}, which cannot be printed; use `| list` or `| join`")
    if value is None or (callable(value) and not isinstance(value, Missing)):
        what = "nothing (null)" if value is None else f"a function ({getattr(value, '__name__', value)})"
        raise UndefinedError(f"an expression gives {what}, which cannot be printed; a key named like a method needs [...]")
    return value


class TemplateFiles(BaseLoader):
    """Templates by name below the template directory, and by absolute path where the settings name one; nothing else."""

    def __init__(self, paths: Paths, absolute: frozenset[str]) -> None:
        self._paths = paths
        self._absolute = absolute

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        if template in self._absolute:
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
            why = error.strerror if isinstance(error, OSError) else "its name or its text is not UTF-8"
            raise TemplateNotFound(template, f"{self._paths.shown(path)} cannot be read: {why}") from None


class Compiled(BytecodeCache):
    """The bytecode that `parbake bake` left. Keyed by the template's text, so a changed template is never run as it was."""

    def __init__(self, directory: Path, syntax: str, *, writable: bool = False) -> None:
        self._directory = directory
        self._syntax = syntax
        self._writable = writable
        self.written: list[Path] = []

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        return hashlib.sha256(f"{name}|{self._syntax}".encode()).hexdigest()[:32]

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            with open(self._directory / f"{bucket.key}.jinja", "rb") as file:
                bucket.load_bytecode(file)
        except (OSError, ValueError, EOFError, TypeError):
            bucket.reset()  # not baked, or damaged: compile it now

    def dump_bytecode(self, bucket: Bucket) -> None:
        if not self._writable:
            return
        path = self._directory / f"{bucket.key}.jinja"
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomic(path, bucket.bytecode_to_string(), 0o644, sync=False)
        self.written.append(path)
