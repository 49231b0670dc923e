"""Which keys a template reads, found in its syntax without rendering it: what `parbake check` compares with the contract."""

from __future__ import annotations

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, nodes

from agent.errors import RenderError
from agent.keypath import KeyPath

_METHODS = ("items", "keys", "values", "get")


def static_key_reads(environment: Environment, source: str) -> set[KeyPath]:
    """The paths below `config` that a template and those it includes name. A path ends where a variable takes over, and
    is empty where all of `config` is used. Raises RenderError where an included template is not there or is no template.
    """
    return _of(environment, source, set())


def _of(environment: Environment, name: str, seen: set[str]) -> set[KeyPath]:
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
    found: set[KeyPath] = set()
    _collect(tree, {"config": ()}, found)
    for node in tree.find_all((nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)):
        template = getattr(node, "template", None)
        names = template.items if isinstance(template, (nodes.List, nodes.Tuple)) else [template]
        optional = len(names) > 1 or getattr(node, "ignore_missing", False)
        for included in names:
            if isinstance(included, nodes.Const) and isinstance(included.value, str):
                found |= _included(environment, name, included.value, seen, optional=optional)
    return found


def _included(environment: Environment, name: str, included: str, seen: set[str], *, optional: bool) -> set[KeyPath]:
    try:
        return _of(environment, included, seen)
    except RenderError as error:
        if optional and not _there(environment, included):
            return set()
        raise RenderError(f"{name} includes {error}") from None


def _there(environment: Environment, name: str) -> bool:
    assert environment.loader is not None
    try:
        environment.loader.get_source(environment, name)
    except TemplateNotFound:
        return False
    return True


def _collect(node: nodes.Node, known: dict[str, KeyPath], found: set[KeyPath]) -> None:
    """Walk the syntax; `known` are the names that stand for a path below config, aliases of `set` and `for` included."""
    path = _path(node, known)
    if path is not None:
        found.add(path)
        return
    if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
        alias = _path(node.node, known)
        if alias is not None:
            if alias:
                found.add(alias)
            known[node.target.name] = alias
            return
        known.pop(node.target.name, None)
    if isinstance(node, nodes.For):
        inner = {name: path for name, path in known.items() if name not in _names(node.target)}
        _collect(node.iter, known, found)
        for child in (*node.body, *node.else_, *([node.test] if node.test else [])):
            _collect(child, inner, found)
        return
    for child in node.iter_child_nodes():
        _collect(child, known, found)


def _names(target: nodes.Node) -> set[str]:
    return {name.name for name in target.find_all(nodes.Name)} | ({target.name} if isinstance(target, nodes.Name) else set())


def _path(node: nodes.Node, known: dict[str, KeyPath]) -> KeyPath | None:
    """config.a.b, config["a"].b, config.get("a"), config.a.items(): the path, or None for anything else."""
    if isinstance(node, nodes.Name):
        return known.get(node.name)
    if isinstance(node, nodes.Getattr):
        base = _path(node.node, known)
        return None if base is None else base if node.attr in _METHODS else (*base, node.attr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        base = _path(node.node, known)
        return None if base is None else (*base, node.arg.value)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS:
        base = _path(node.node.node, known)
        if base is not None and node.node.attr == "get" and node.args and isinstance(node.args[0], nodes.Const):
            return (*base, str(node.args[0].value))
        return base
    return None
