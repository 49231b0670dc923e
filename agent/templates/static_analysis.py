"""Find the keys that a template reads, in its syntax tree. `parbake check` compares them with the contract."""

from __future__ import annotations

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, nodes

from agent.errors import RenderError
from agent.keypath import KeyPath
from agent.templates.tracked_context import TABLE_METHODS


def static_key_reads(environment: Environment, source: str) -> set[KeyPath]:
    """Return the paths below `config` that a template and the templates that it includes read.

    A path ends before a segment that is not constant; it is empty if the template uses `config` as a whole.
    Raises RenderError if a template that is included does not exist, cannot be read or has a syntax error.
    """
    return _reads_of(environment, source, set())


def _reads_of(environment: Environment, name: str, seen: set[str]) -> set[KeyPath]:
    if name in seen or environment.loader is None:
        return set()
    seen.add(name)
    try:
        text, _, _ = environment.loader.get_source(environment, name)
        tree = environment.parse(text, name)
    except TemplateNotFound as error:
        raise RenderError(f"{name}: {error.message}") from None
    except TemplateSyntaxError as error:
        raise RenderError(f"{name} line {error.lineno}: {error.message}") from None
    reads: set[KeyPath] = set()
    _collect(tree, {"config": ()}, reads)
    for node in tree.find_all((nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)):
        template = getattr(node, "template", None)
        names = template.items if isinstance(template, (nodes.List, nodes.Tuple)) else [template]
        optional = len(names) > 1 or getattr(node, "ignore_missing", False)
        for included in names:
            if isinstance(included, nodes.Const) and isinstance(included.value, str):
                reads |= _reads_of_included(environment, name, included.value, seen, optional=optional)
    return reads


def _reads_of_included(environment: Environment, name: str, included: str, seen: set[str], *, optional: bool) -> set[KeyPath]:
    try:
        return _reads_of(environment, included, seen)
    except RenderError as error:
        if optional and not _exists(environment, included):
            return set()
        raise RenderError(f"{name} includes {error}") from None


def _exists(environment: Environment, name: str) -> bool:
    assert environment.loader is not None
    try:
        environment.loader.get_source(environment, name)
    except TemplateNotFound:
        return False
    return True


def _collect(node: nodes.Node, aliases: dict[str, KeyPath], reads: set[KeyPath]) -> None:
    """Walk the syntax tree and add to `reads`. `aliases` maps variables, those of `set` included, to paths below config."""
    path = _path(node, aliases)
    if path is not None:
        reads.add(path)
        return
    if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
        assigned = _path(node.node, aliases)
        if assigned is not None:
            if assigned:
                reads.add(assigned)
            aliases[node.target.name] = assigned
            return
        aliases.pop(node.target.name, None)
    if isinstance(node, nodes.For):
        inner = {name: path for name, path in aliases.items() if name not in _target_names(node.target)}
        _collect(node.iter, aliases, reads)
        for child in (*node.body, *node.else_, *([node.test] if node.test else [])):
            _collect(child, inner, reads)
        return
    for child in node.iter_child_nodes():
        _collect(child, aliases, reads)


def _target_names(target: nodes.Node) -> set[str]:
    """Return the variables that a loop sets."""
    names = {name.name for name in target.find_all(nodes.Name)}
    return names | ({target.name} if isinstance(target, nodes.Name) else set())


def _path(node: nodes.Node, aliases: dict[str, KeyPath]) -> KeyPath | None:
    """Return the path of config.a.b, config["a"].b, config.get("a") or config.a.items(). None for any other node."""
    if isinstance(node, nodes.Name):
        return aliases.get(node.name)
    if isinstance(node, nodes.Getattr):
        base = _path(node.node, aliases)
        return None if base is None else base if node.attr in TABLE_METHODS else (*base, node.attr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        base = _path(node.node, aliases)
        return None if base is None else (*base, node.arg.value)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in TABLE_METHODS:
        base = _path(node.node.node, aliases)
        if base is not None and node.node.attr == "get" and node.args and isinstance(node.args[0], nodes.Const):
            return (*base, str(node.args[0].value))
        return base
    return None
