"""Renders template + run config + facts + build config to bytes, and records every read. Reads only the templates' files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError

from agent.errors import RenderError
from agent.keypath import KeyPath, lookup, same
from agent.masking import masker
from agent.model import Facts, Rendering, RunConfig
from agent.paths import Paths
from agent.settings.models import Component, Template, TemplateSyntax
from agent.templates.environment import CompiledTemplates, Sandbox, TemplateFiles
from agent.templates.tracked_context import Namespace, Reads, View

log = logging.getLogger("parbake.render")
ALL_FACTS = "*"
"""In the `facts` of a rendering: the template reads all facts."""
_ABSENT = object()


class Renderer:
    """Renders the templates of one image. Environments and compiled templates are created once and kept.

    With `baking`, compiled templates are written for later renders (`parbake bake`).
    """

    def __init__(self, paths: Paths, component: Component, templates: Iterable[Template], *, baking: bool = False) -> None:
        self._paths = paths
        self._build = {"component": component.name, "version": component.version}
        self._absolute_sources = frozenset(t.source for t in templates if t.source.startswith("/"))
        self._baking = baking
        self._environments: dict[TemplateSyntax, Sandbox] = {}
        self._compiled: dict[TemplateSyntax, CompiledTemplates] = {}

    def render(self, template: Template, config: RunConfig, facts: Facts) -> Rendering:
        """Return the rendering of a template.

        Raises RenderError with the template, the line and every missing key.
        """
        reads = Reads()
        try:
            compiled = self.compile(template)
            text = compiled.render(self._namespaces(config, facts, reads))
            content = text.encode("utf-8", "surrogateescape")
        except RenderError:
            raise
        except TemplateSyntaxError as error:  # of an included template
            raise _syntax_error(template, error) from None
        except UndefinedError as error:
            raise self._missing_keys_error(template, config, facts, error) from None
        except Exception as error:  # noqa: BLE001 - a template runs arbitrary filters, which raise any exception
            raise RenderError(f"template {template.name}: {_line(error)}{_error_text(error, reads)}") from None
        return Rendering(
            template.name,
            content,
            reads=frozenset(reads.keys[Namespace.CONFIG]),
            facts=_first_segments([*reads.keys[Namespace.FACTS], *reads.tables[Namespace.FACTS]]),
            secret=reads.secret,
            tables=frozenset(reads.tables[Namespace.CONFIG]),
        )

    def compile(self, template: Template) -> JinjaTemplate:
        """Return the compiled template, from the files of `parbake bake` if they are current.

        Raises RenderError with the line of a syntax error, or if the file cannot be read.
        """
        try:
            return self.environment(template).get_template(template.source)
        except TemplateSyntaxError as error:
            raise _syntax_error(template, error) from None
        except (TemplateError, OSError, UnicodeDecodeError) as error:
            raise RenderError(f"template {template.name}: {error}") from None

    def environment(self, template: Template) -> Sandbox:
        """Return the environment of a template. Templates of one syntax share it."""
        syntax = template.syntax
        if syntax not in self._environments:
            compiled = CompiledTemplates(self._paths.compiled, syntax, writable=self._baking)
            self._compiled[syntax] = compiled
            self._environments[syntax] = Sandbox(TemplateFiles(self._paths, self._absolute_sources), compiled, syntax)
        return self._environments[syntax]

    def baked_files(self) -> list[str]:
        """Return the paths of the compiled templates that were written while baking."""
        return sorted(str(path) for compiled in self._compiled.values() for path in compiled.written)

    def _namespaces(self, config: RunConfig, facts: Facts, reads: Reads) -> dict[str, Any]:
        trees = {Namespace.BUILD: self._build, Namespace.CONFIG: config.tree, Namespace.FACTS: facts.values}
        return {str(namespace): View(namespace, tree, reads) for namespace, tree in trees.items()}

    def _missing_keys_error(self, template: Template, config: RunConfig, facts: Facts, first: UndefinedError) -> RenderError:
        """Return one error with every missing key of the template."""
        missing = self.missing_keys(template, config, facts)
        first_message = masker.Masker(config.secret_texts()).mask(str(first))
        problems = [f"{name} is not set" for name in missing]
        if not any(name in first_message for name in missing):
            problems.insert(0, first_message)
        summary = "a key it needs is missing" if missing else "cannot be rendered"
        return RenderError(
            f"template {template.name}: {_line(first)}{summary}",
            problems,
            hint="set the keys in the store, declare a default under [keys], or use `| default(...)` in the template",
        )

    def missing_keys(self, template: Template, config: RunConfig, facts: Facts) -> list[str]:
        """Return the absent keys that a template uses, such as "config.db.password", secrets masked. Never raises.

        The template is rendered once more, with absent keys recorded instead of raised.
        """
        reads = Reads(lenient=True)
        try:
            self.compile(template).render(self._namespaces(config, facts, reads))
        except Exception as error:  # noqa: BLE001 - `render` has reported the first error; this pass only adds names
            log.debug("template %s: the search for missing keys ended early: %s", template.name, type(error).__name__)
        # A key may be looked up by the value of a secret.
        return [masker.Masker(config.secret_texts()).mask(name) for name in reads.missing]


def _syntax_error(template: Template, error: TemplateSyntaxError) -> RenderError:
    return RenderError(f"template {template.name}: {error.name or template.source} line {error.lineno}: {error.message}")


def _line(error: BaseException) -> str:
    """Return "line N: " for the innermost line of a template in the error's traceback. "" if no template is in it."""
    text, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.endswith((".j2", ".jinja", ".jinja2")) or "__jinja_exception__" in trace.tb_frame.f_globals:
            text = f"line {trace.tb_lineno}: "
        trace = trace.tb_next
    return text


def _error_text(error: BaseException, reads: Reads) -> str:
    # The message of a filter can quote the value that it failed on.
    if reads.secret:
        return f"{type(error).__name__} (its text is withheld: the template reads secrets)"
    return f"{type(error).__name__}: {error}"


def _first_segments(paths: Iterable[KeyPath]) -> frozenset[str]:
    return frozenset(path[0] if path else ALL_FACTS for path in paths)


def inputs_unchanged(rendering: Rendering, old: RunConfig, new: RunConfig, old_facts: Facts, new_facts: Facts) -> bool:
    """Return whether every input that a rendering read is unchanged, so that the rendering can be kept."""
    if not all(same(lookup(old.tree, path, _ABSENT), lookup(new.tree, path, _ABSENT)) for path in rendering.reads):
        return False
    if not all(isinstance(lookup(new.tree, path, _ABSENT), Mapping) for path in rendering.tables):
        return False
    if ALL_FACTS in rendering.facts:
        return same(old_facts.values, new_facts.values)
    return all(same(old_facts.values.get(name), new_facts.values.get(name)) for name in rendering.facts)
