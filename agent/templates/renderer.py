"""Template + run config + facts + build -> bytes, and a record of all that was read. No I/O but the template's file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError

from agent.errors import RenderError
from agent.keypath import KeyPath, dotted, lookup, same
from agent.masking import masker
from agent.model import Facts, Rendering, RunConfig
from agent.paths import Paths
from agent.settings.models import Component, Template, TemplateSyntax
from agent.templates.environment import Compiled, Sandbox, TemplateFiles
from agent.templates.tracked_context import Reads, View

log = logging.getLogger("parbake.render")
ALL_FACTS = "*"
"""In a rendering's `facts`: it went through all of them."""


class Renderer:
    """Renders the templates of one image. Environments and compiled templates are made once and kept."""

    def __init__(self, paths: Paths, component: Component, templates: Iterable[Template], *, baking: bool = False) -> None:
        self._paths = paths
        self._build = {"component": component.name, "version": component.version}
        self._absolute = frozenset(t.source for t in templates if t.source.startswith("/"))
        self._baking = baking
        self._environments: dict[TemplateSyntax, Sandbox] = {}
        self._compiled: dict[TemplateSyntax, Compiled] = {}

    def render(self, template: Template, config: RunConfig, facts: Facts) -> Rendering:
        """The rendering. Raises RenderError naming the template, the line and every key that is missing."""
        reads = Reads()
        try:
            compiled = self.compile(template)
            text = compiled.render(self._spaces(config, facts, reads))
            content = text.encode("utf-8", "surrogateescape")
        except RenderError:
            raise
        except TemplateSyntaxError as error:  # of an included template
            raise _syntax_error(template, error) from None
        except UndefinedError as error:
            raise self._missing(template, config, facts, error) from None
        except Exception as error:  # noqa: BLE001 - a template runs arbitrary filters: whatever fails is the template's fault
            raise RenderError(f"template {template.name}: {_line(error)}{_text(error, reads)}") from None
        facts_read = _first([*reads.keys["facts"], *reads.tables["facts"]])
        tables = frozenset(reads.tables["config"])
        return Rendering(template.name, content, frozenset(reads.keys["config"]), facts_read, reads.secret, tables)

    def compile(self, template: Template) -> JinjaTemplate:
        """The compiled template, from the bake's store where it fits. Raises RenderError with the line of a syntax error."""
        environment = self._environment(template)
        try:
            return environment.get_template(template.source)
        except TemplateSyntaxError as error:
            raise _syntax_error(template, error) from None
        except (TemplateError, OSError, UnicodeDecodeError) as error:
            raise RenderError(f"template {template.name}: {error}") from None

    def environment(self, template: Template) -> Sandbox:
        """The environment this template is compiled in, for `parbake check`."""
        return self._environment(template)

    def baked_files(self) -> list[str]:
        """The compiled files written while baking."""
        return sorted(str(path) for cache in self._compiled.values() for path in cache.written)

    def _environment(self, template: Template) -> Sandbox:
        syntax = template.syntax
        if syntax not in self._environments:
            cache = Compiled(self._paths.compiled, " ".join(map(str, syntax)), writable=self._baking)
            self._compiled[syntax] = cache
            loader = TemplateFiles(self._paths, self._absolute)
            self._environments[syntax] = Sandbox(loader, cache, syntax)
        return self._environments[syntax]

    def _spaces(self, config: RunConfig, facts: Facts, reads: Reads) -> dict[str, Any]:
        return {
            "build": View("build", self._build, reads),
            "config": View("config", config.tree, reads),
            "facts": View("facts", facts.values, reads),
        }

    def _missing(self, template: Template, config: RunConfig, facts: Facts, first: UndefinedError) -> RenderError:
        """All that this template misses, in one error."""
        named = self.missing_keys(template, config, facts)
        said = masker.Masker(config.secret_texts()).mask(str(first))
        problems = [f"{name} is not set" for name in named]
        if not any(name in said for name in named):
            problems.insert(0, said)
        return RenderError(
            f"template {template.name}: {_line(first)}{'a key it needs is missing' if named else 'cannot be rendered'}",
            problems,
            hint="set the keys in the store, declare a default under [keys], or use `| default(...)` in the template",
        )

    def missing_keys(self, template: Template, config: RunConfig, facts: Facts) -> list[str]:
        """The absent keys a template uses, found by rendering it with each noted instead of fatal. Never raises."""
        reads = Reads(lenient=True)
        try:
            self.compile(template).render(self._spaces(config, facts, reads))
        except Exception as error:  # noqa: BLE001 - another error is reported as the first; this pass only adds names
            log.debug("template %s: the search for missing keys ended early: %s", template.name, type(error).__name__)
        # a key may be looked up by a secret's value
        return [masker.Masker(config.secret_texts()).mask(name) for name in reads.missing]


def _syntax_error(template: Template, error: TemplateSyntaxError) -> RenderError:
    return RenderError(f"template {template.name}: {error.name or template.source} line {error.lineno}: {error.message}")


def _line(error: BaseException) -> str:
    """The innermost line of a template that the error passed through."""
    found, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.endswith((".j2", ".jinja", ".jinja2")) or "__jinja_exception__" in trace.tb_frame.f_globals:
            found = f"line {trace.tb_lineno}: "
        trace = trace.tb_next
    return found


def _text(error: BaseException, reads: Reads) -> str:
    # a filter's own message can quote the value it choked on
    if reads.secret:
        return f"{type(error).__name__} (its text is withheld: the template reads secrets)"
    return f"{type(error).__name__}: {error}"


def _first(paths: Iterable[KeyPath]) -> frozenset[str]:
    return frozenset(path[0] if path else ALL_FACTS for path in paths)


def inputs_unchanged(rendering: Rendering, old: RunConfig, new: RunConfig, old_facts: Facts, new_facts: Facts) -> bool:
    """Whether everything this rendering read is as it was, so that it need not be made again."""
    if not all(same(lookup(old.tree, path, _ABSENT), lookup(new.tree, path, _ABSENT)) for path in rendering.reads):
        return False
    if not all(isinstance(lookup(new.tree, path, _ABSENT), Mapping) for path in rendering.tables):
        return False
    if ALL_FACTS in rendering.facts:
        return same(old_facts.values, new_facts.values)
    return all(same(old_facts.values.get(name), new_facts.values.get(name)) for name in rendering.facts)


_ABSENT = object()


def secret_reads(rendering: Rendering, config: RunConfig) -> list[str]:
    """The secret keys a rendering read, as operators write them."""
    return sorted(dotted(secret) for secret in config.secrets if any(secret[: len(path)] == path for path in rendering.reads))
