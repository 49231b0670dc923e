"""A strict YAML decoder: PyYAML's safe loader, except that a duplicate key is an error and dates stay text."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, five times as fast, is not in every build of PyYAML

MAX_DEPTH = 100
"""Levels of nesting. The parser in C recurses: deeper documents would overrun its stack and end the process."""
_OPENING = (
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)


class _LenientLoader(_Base):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - PyYAML raises any kind of exception for such a value
            problem = "a value that does not fit its tag, or a number that is too long"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_LenientLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(_LenientLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load(text: str, *, aliases: bool = True, unique_keys: bool = True) -> Any:
    """Return the value of the one document.

    `aliases=False` refuses aliases: a few hundred bytes of them become gigabytes once something copies the value.
    `unique_keys=False` takes the last of duplicate keys, as for a document that belongs to another program.

    Raises ValueError with the line and column, never with the text there.
    """
    try:
        _check_tokens(text, aliases)
        return yaml.load(text, _Loader if unique_keys else _LenientLoader)  # noqa: S506 - subclasses of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = (error.problem or "cannot be parsed").partition("'")[0].strip()  # the rest quotes the text
        raise ValueError(f"{position}{problem}") from None
    except yaml.YAMLError:
        raise ValueError("contains characters that YAML does not allow") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check_tokens(text: str, aliases: bool) -> None:
    depth = 0
    for token in yaml.scan(text, Loader=_Base):
        if isinstance(token, yaml.AliasToken) and not aliases:
            raise yaml.MarkedYAMLError(problem="aliases are not allowed here", problem_mark=token.start_mark)
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested too deeply, more than {MAX_DEPTH} levels", problem_mark=token.start_mark
            )
