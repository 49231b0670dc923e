"""The contract: conversion, required keys, secrets and defaults of the merged tree."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ContractError
from agent.keypath import lookup, segments
from agent.model import Layer, Merged, RunConfig, Snapshot
from agent.runconfig import contract, merge
from agent.secret import Secret
from agent.settings.models import Key


def merged(tree: dict[str, Any]) -> Merged:
    return merge.merge([("site", Snapshot((Layer("common", tree, "7"),)))])


def applied(tree: dict[str, Any], **keys: Key) -> RunConfig:
    return contract.enforce(merged(tree), {segments(name.replace("__", ".")): key for name, key in keys.items()})


GOOD: list[tuple[str, Any, Any]] = [
    ("string", "x", "x"),
    ("string", "", ""),
    ("integer", 5, 5),
    ("integer", "5", 5),
    ("integer", " -5 ", -5),
    ("number", 1.5, 1.5),
    ("number", "1.5e3", 1500.0),
    ("number", "7", 7),
    ("boolean", True, True),
    ("boolean", "Yes", True),
    ("boolean", "0", False),
    ("boolean", "off", False),
    ("list", ["a"], ["a"]),
    ("list", '["a", 1]', ["a", 1]),
    ("table", {"a": 1}, {"a": 1}),
    ("table", '{"a": 1}', {"a": 1}),
    ("bytes", base64.b64encode(b"\0\xff").decode(), b"\0\xff"),
    ("bytes", "AP8=\n", b"\0\xff"),
]
BAD: list[tuple[str, Any]] = [
    ("string", 5), ("string", True), ("string", ["x"]), ("string", {"a": 1}),
    ("integer", "five"), ("integer", True), ("integer", 1.5), ("integer", "1.5"), ("integer", "9" * 5000),
    ("number", "nan"), ("number", "1e999"), ("number", float("inf")), ("number", False), ("number", "one"),
    ("boolean", "maybe"), ("boolean", 1), ("boolean", []),
    ("list", "a,b"), ("list", '{"a": 1}'), ("list", {"a": 1}), ("list", "[" * 100_000),
    ("list", "[NaN]"), ("list", "[-Infinity]"), ("table", '{"a": 1, "a": 2}'),
    ("table", "[1]"), ("table", [1]), ("table", 5),
    ("bytes", "not base64!"), ("bytes", 5), ("bytes", "é"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given", "expected"), GOOD)
def test_conversion(kind: Any, given: Any, expected: Any) -> None:
    """INTERFACE section 4: values from stores that only hold strings are converted by the contract's type."""
    value = lookup(applied({"k": given}, k=Key(type=kind)).tree, ("k",))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("kind", "given"), BAD)
def test_what_does_not_fit_is_named_and_never_shown(kind: Any, given: Any) -> None:
    """INTERFACE section 8.5: a problem names the key, the type and the origin, and not the value, which may be a secret."""
    with pytest.raises(ContractError) as failed:
        applied({"k": given}, k=Key(type=kind, secret=kind != "table"))
    (problem,) = failed.value.problems
    assert problem.startswith("k: found ")
    assert "source site, layer common" in problem
    if isinstance(given, str):
        assert given not in problem


def test_every_problem_in_one_run() -> None:
    """INTERFACE section 3: all errors at once, so that one repair round is enough."""
    with pytest.raises(ContractError) as failed:
        applied(
            {"port": "x", "db": {"user": 5}, "passwrd": "hunter2"},
            port=Key(type="integer"),
            db__user=Key(),
            db__password=Key(required=True, description="the application's password"),
            password=Key(required=True, secret=True),
        )
    text = str(failed.value)
    assert len(failed.value.problems) == 4
    assert "db.password: required, and in no layer; there is passwrd (the application's password)" not in text
    assert "the application's password" in text
    assert "there is passwrd" in text
    assert "hunter2" not in text
    assert failed.value.exit_code == 65


def test_defaults() -> None:
    """INTERFACE section 3: a default is used if no layer has the key, with the contract as its origin; a value overrides it."""
    config = applied({"b": 2}, a=Key(default="x"), b=Key(type="integer", default=1), c__d=Key(type="bytes", default="AA=="))
    assert config.tree == {"a": "x", "b": 2, "c": {"d": b"\0"}}
    assert config.origins[("a",)].source == "contract"
    assert config.origins[("b",)].source == "site"


def test_a_secret_is_wrapped_wherever_it_comes_from() -> None:
    """INTERFACE section 8.5: a secret key is a Secret: a value, a default, or a part of a table that is text in the store."""
    config = applied(
        {"a": "one", "t": '{"in": "two", "open": "three"}'},
        a=Key(secret=True),
        b=Key(secret=True, default="four"),
        t=Key(type="table"),
        t__in=Key(secret=True, required=True),
    )
    assert config.secrets == {("a",), ("b",), ("t", "in")}
    assert lookup(config.tree, ("t", "open")) == "three"
    assert sorted(config.secret_texts()) == ["four", "one", "two"]


def test_a_value_where_the_contract_has_a_table() -> None:
    """A store with a value at `db`, while `db.password` is declared, breaks the contract and causes no crash."""
    for key in (Key(), Key(required=True), Key(default="x")):
        with pytest.raises(ContractError, match=r"db\.password: db is a value, expected a table, from source site"):
            applied({"db": "oops"}, db__password=key)


def test_undeclared_keys_stay_as_they_are() -> None:
    """INTERFACE section 4: undeclared keys stay strings."""
    assert applied({"x": "5", "y": {"z": "true"}}).tree == {"x": "5", "y": {"z": "true"}}


def test_parts_of_secret_lists_are_secret_texts() -> None:
    """INTERFACE section 8.5: a template prints the parts of a secret list, so each part is masked."""
    config = applied({"tokens": ["first-token", {"deep": "second-token"}]}, tokens=Key(type="list", secret=True))
    assert {"first-token", "second-token"} <= set(config.secret_texts())
    raw = applied({"key": "/wD+"}, key=Key(type="bytes", secret=True))
    assert "/wD+" in raw.secret_texts()


@given(
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.text(), st.booleans(), st.lists(st.text()))),
    st.sampled_from(["string", "integer", "number", "boolean", "list", "table", "bytes"]),
    st.booleans(),
)
def test_applies_or_refuses(tree: dict[str, Any], kind: Any, secret: bool) -> None:
    """For any content of a store the contract gives a value of the declared type, or a ContractError."""
    try:
        config = applied(tree, a=Key(type=kind, secret=secret and kind != "table"))
    except ContractError:
        return
    value = config.tree.get("a")
    if value is not None:
        bare = value.reveal() if isinstance(value, Secret) else value
        types: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
        types |= {"list": list, "table": dict}
        assert isinstance(bare, types.get(kind, bytes))
