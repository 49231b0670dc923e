"""A strict YAML decoder, PyYAML's safe loader with two differences: a duplicate key is an error, and dates stay text."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number] and key[0] != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - the library raises arbitrary errors for a value that does not match its tag
            problem = "a value that does not fit its tag, or a number that is too long"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str) -> Any:
    """Return the value of a text with one document. Raises ValueError, which names a position and never a value."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = (error.problem or "not understood").partition("'")[0].strip()  # what follows quotes the text
        raise ValueError(f"{position}{problem}") from None
    except yaml.YAMLError:
        raise ValueError("it holds characters that YAML does not allow") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
