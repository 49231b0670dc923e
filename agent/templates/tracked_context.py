"""The namespaces that templates see: read-only, sorted, and with every read recorded.

A recorded read is a dependency, not a guess: it decides which templates render again, which read a secret, and which
keys `explain` and `check` name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import UndefinedError

from agent.keypath import KeyPath, dotted
from agent.secret import Secret


class Reads:
    """What one render read. `tables` are those that it passed through or asked for: that they are tables is what it knows
    of them. With `lenient`, missing keys are collected and the render goes on, to name them all."""

    def __init__(self, *, lenient: bool = False) -> None:
        self.lenient = lenient
        self.keys: dict[str, set[KeyPath]] = {"config": set(), "facts": set(), "build": set()}
        self.tables: dict[str, set[KeyPath]] = {"config": set(), "facts": set(), "build": set()}
        self.missing: dict[str, None] = {}
        self.secret = False


class Missing(StrictUndefined):
    """An absent key. Going further down is allowed, so that `default` and `is defined` work at any depth and the error
    names the whole key; using it is not."""

    __slots__ = ("_parbake_path", "_parbake_reads", "_parbake_space")
    _parbake_path: KeyPath
    _parbake_reads: Reads
    _parbake_space: str

    @classmethod
    def key(cls, space: str, path: KeyPath, reads: Reads) -> Missing:
        where = "run config" if space == "config" else space
        kind = MissingLenient if reads.lenient else cls
        missing = kind(hint=f"{space}.{dotted(path)} is not in the {where}", name=path[-1])
        missing._parbake_space, missing._parbake_path, missing._parbake_reads = space, path, reads
        return missing

    def below(self, name: str) -> Missing:
        """The absent key below this absent key."""
        if getattr(self, "_parbake_reads", None) is None:
            self._fail_with_undefined_error()
        path = (*self._parbake_path, name)
        self._parbake_reads.keys[self._parbake_space].add(path)
        return Missing.key(self._parbake_space, path, self._parbake_reads)


class MissingLenient(Missing):
    """A missing key that notes its use instead of failing. Only ever used to list every missing key of a template."""

    __slots__ = ()

    def _note(self) -> None:
        self._parbake_reads.missing[f"{self._parbake_space}.{dotted(self._parbake_path)}"] = None

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
    """Bytes that are text wherever a template puts them into text, and come out of the render as the same bytes."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.decode("utf-8", "surrogateescape")


class View(Mapping[str, Any]):
    """A table of one namespace. Ends come out as plain values (secrets revealed, and the reveal recorded)."""

    __slots__ = ("_path", "_reads", "_space", "_tree")

    def __init__(self, space: str, tree: Mapping[str, Any], reads: Reads, path: KeyPath = ()) -> None:
        self._space = space
        self._tree = tree
        self._reads = reads
        self._path = path

    def member(self, name: Any) -> Any:
        """The value, the table or the absence below this table."""
        path = (*self._path, str(name))
        if name not in self._tree:
            self._reads.keys[self._space].add(path)
            return Missing.key(self._space, path, self._reads)
        value = self._tree[name]
        if isinstance(value, Mapping):
            if value:
                self._reads.tables[self._space].add(path)
            else:
                self._reads.keys[self._space].add(path)
            return View(self._space, value, self._reads, path)
        self._reads.keys[self._space].add(path)
        if isinstance(value, Secret):
            self._reads.secret = True
            value = value.reveal()
        if isinstance(value, bytes):
            return TextBytes(value)
        # a copy, since a list has methods that change it (and Jinja2 before 3.1.5 lets a template call pop)
        return plain(value) if isinstance(value, (list, tuple, Mapping)) else value

    def plain(self) -> dict[str, Any]:
        """The whole table as ordinary dictionaries, for filters; a read of all of it."""
        return {key: value.plain() if isinstance(value, View) else value for key, value in self.items()}

    def __getitem__(self, name: str) -> Any:
        value = self.member(name)
        if isinstance(value, Missing):
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        self._reads.keys[self._space].add((*self._path, str(name)))
        return name in self._tree

    def __iter__(self) -> Iterator[str]:
        self._reads.keys[self._space].add(self._path)
        return iter(sorted(self._tree))

    def __len__(self) -> int:
        self._reads.keys[self._space].add(self._path)
        return len(self._tree)

    def __hash__(self) -> int:
        return hash((self._space, self._path))

    def __str__(self) -> str:
        name = ".".join([self._space, *([dotted(self._path)] if self._path else [])])
        raise UndefinedError(f"{name} is a table; name one of its keys, or use to_json")

    def __repr__(self) -> str:
        return f"<table {self._space}.{dotted(self._path)}>"


def plain(value: Any) -> Any:
    """A value as ordinary dictionaries and lists: what filters work on."""
    if isinstance(value, View):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
