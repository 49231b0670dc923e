"""The namespaces that templates see: read-only, sorted, and with every read recorded.

A recorded read is a dependency. The reads decide which templates are rendered again, which targets contain a secret, and
which templates `explain` lists for a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from jinja2 import StrictUndefined, Undefined
from jinja2.exceptions import UndefinedError

from agent.keypath import KeyPath, dotted
from agent.secret import Secret

TABLE_METHODS = ("items", "keys", "values", "get")
"""The methods that a template may call on a table. A key of such a name is read with [...]."""


class Namespace(StrEnum):
    """The names under which a template sees its inputs."""

    BUILD = "build"
    CONFIG = "config"
    FACTS = "facts"


class Reads:
    """The reads of one render, by namespace.

    `keys` are the paths whose value was read. `tables` are the tables that the render passed through: it depends on their
    type and not on their content. With `lenient`, missing keys are collected in `missing` and the render continues.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.lenient = lenient
        self.keys: dict[Namespace, set[KeyPath]] = {namespace: set() for namespace in Namespace}
        self.tables: dict[Namespace, set[KeyPath]] = {namespace: set() for namespace in Namespace}
        self.missing: dict[str, None] = {}
        self.secret = False


class Missing(StrictUndefined):
    """An absent key. Using it is an error; reading a key below it is not.

    So `default` and `is defined` work at any depth, and the error names the whole key.
    """

    __slots__ = ("_parbake_namespace", "_parbake_path", "_parbake_reads")
    _parbake_path: KeyPath
    _parbake_reads: Reads
    _parbake_namespace: Namespace

    @classmethod
    def key(cls, namespace: Namespace, path: KeyPath, reads: Reads) -> Missing:
        """Return the absent key `path` of a namespace."""
        table = "run config" if namespace is Namespace.CONFIG else namespace
        kind = MissingLenient if reads.lenient else cls
        missing = kind(hint=f"{namespace}.{dotted(path)} is not in the {table}", name=path[-1])
        missing._parbake_namespace, missing._parbake_path, missing._parbake_reads = namespace, path, reads
        return missing

    def child(self, name: str) -> Missing:
        """Return the absent key below this absent key."""
        if getattr(self, "_parbake_reads", None) is None:
            self._fail_with_undefined_error()
        path = (*self._parbake_path, name)
        self._parbake_reads.keys[self._parbake_namespace].add(path)
        return Missing.key(self._parbake_namespace, path, self._parbake_reads)


class MissingLenient(Missing):
    """An absent key that records its use and does not fail. It only serves to list every missing key of a template."""

    __slots__ = ()

    def _note(self) -> None:
        self._parbake_reads.missing[f"{self._parbake_namespace}.{dotted(self._parbake_path)}"] = None

    def __str__(self) -> str:  # type: ignore[override]
        self._note()
        return ""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._note()
        return iter(())

    def __len__(self) -> int:  # type: ignore[override]
        self._note()
        return 0

    def __bool__(self) -> bool:  # type: ignore[override]
        self._note()
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        self._note()
        return False

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __int__(self) -> int:  # type: ignore[override]
        self._note()
        return 0

    def __float__(self) -> float:  # type: ignore[override]
        self._note()
        return 0.0

    def _chain(self, *_: Any) -> Any:
        self._note()
        return self

    def _falsy(self, *_: Any) -> Any:
        self._note()
        return False

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _chain
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __pos__ = __neg__ = __call__ = _chain
    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __contains__ = _falsy


class TextBytes(bytes):
    """Bytes that become text when a template prints them, and leave the render as the same bytes.

    Bytes that are not UTF-8 become surrogates in the text, which the render encodes back.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return self.decode("utf-8", "surrogateescape")


class View(Mapping[str, Any]):
    """A table of one namespace. Its values are plain: a secret is revealed, and that is recorded."""

    __slots__ = ("_namespace", "_path", "_reads", "_tree")

    def __init__(self, namespace: Namespace, tree: Mapping[str, Any], reads: Reads, path: KeyPath = ()) -> None:
        self._namespace = namespace
        self._tree = tree
        self._reads = reads
        self._path = path

    def member(self, name: Any) -> Any:
        """Return the value of a key: a `View` if it is a table, a `Missing` if it is absent."""
        path = (*self._path, str(name))
        if name not in self._tree:
            self._reads.keys[self._namespace].add(path)
            return Missing.key(self._namespace, path, self._reads)
        value = self._tree[name]
        if isinstance(value, Mapping):
            if value:
                self._reads.tables[self._namespace].add(path)
            else:
                self._reads.keys[self._namespace].add(path)
            return View(self._namespace, value, self._reads, path)
        self._reads.keys[self._namespace].add(path)
        if isinstance(value, Secret):
            self._reads.secret = True
            value = value.reveal()
        if isinstance(value, bytes):
            return TextBytes(value)
        # A copy: a list has methods that change it, and Jinja2 before 3.1.5 lets a template call pop.
        return plain(value) if isinstance(value, (list, tuple, Mapping)) else value

    def plain(self) -> dict[str, Any]:
        """Return the whole table as dictionaries, for filters. It is a read of every key."""
        return {key: value.plain() if isinstance(value, View) else value for key, value in self.items()}

    def __getitem__(self, name: str) -> Any:
        value = self.member(name)
        if isinstance(value, Missing):
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        self._reads.keys[self._namespace].add((*self._path, str(name)))
        return name in self._tree

    def __iter__(self) -> Iterator[str]:
        self._reads.keys[self._namespace].add(self._path)
        return iter(sorted(self._tree))

    def __len__(self) -> int:
        self._reads.keys[self._namespace].add(self._path)
        return len(self._tree)

    def __hash__(self) -> int:
        return hash((self._namespace, self._path))

    def __str__(self) -> str:
        name = f"{self._namespace}.{dotted(self._path)}" if self._path else self._namespace
        raise UndefinedError(f"{name} is a table; name one of its keys, or use to_json")

    def __repr__(self) -> str:
        return f"<table {self._namespace}.{dotted(self._path)}>"


def plain(value: Any) -> Any:
    """Return a value as dictionaries and lists, for filters."""
    if isinstance(value, View):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def defined(value: Any) -> Any:
    """Return a filter's input. Raises UndefinedError, with the key's name, if it is absent."""
    return str(value) if isinstance(value, Undefined) else value
