"""The digest of everything that a render may depend on."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import RunConfig
from agent.runconfig.digest import digest
from agent.secret import Secret

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
TREE: dict[str, Any] = {"a": 1, "b": {"c": True, "d": 1.5, "e": None, "f": ["x", 2]}}
FACTS: dict[str, Any] = {"environment": "dev", "tags": {"role": "edge"}}
BUILD = {"component": "web", "version": "1"}


@pytest.mark.parametrize(
    ("tree", "facts", "build", "expected"),
    [
        ({}, {}, {}, "964b423a0eb0a0d5eb2662c1671bed9f090681192b58e3243f42e560575ea572"),
        (TREE, FACTS, BUILD, "d89547b5afbad22c5ef3e279d240d11d667edb52da0823347441b1ae3a08c74b"),
        (
            {"db": {"password": Secret("hunter2"), "key": Secret(b"\0\xff"), "hosts": Secret(["a", 1])}},
            {},
            {"component": "web", "version": ""},
            "c9baf56320023365d10def3790d09b7a3f0012aeac2a1e39cb09354169445702",
        ),
        (
            {"raw": b"\0\xff", "text": "é\ud800", "secret": Secret("\ud800")},
            {},
            {},
            "6b109805f5431aed872d3e981396a1aaadf622c06d0826cc9d6907ea0a52509f",
        ),
    ],
)
def test_a_digest_is_the_same_in_every_version(
    tree: dict[str, Any], facts: dict[str, Any], build: dict[str, str], expected: str
) -> None:
    """A digest is kept in the state: an upgrade of parbake must not make an unchanged run config a new generation."""
    assert digest(RunConfig(tree, {}), MappingProxyType(facts), build, KEY) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("tree", "facts", "build"),
    [
        ({**TREE, "a": 2}, FACTS, BUILD),
        ({**TREE, "a": "1"}, FACTS, BUILD),
        (TREE, {**FACTS, "environment": "prod"}, BUILD),
        (TREE, FACTS, {**BUILD, "version": "2"}),
    ],
)
def test_every_input_is_in_the_digest(tree: dict[str, Any], facts: dict[str, Any], build: dict[str, str]) -> None:
    """Another value of the run config, the facts or the build config gives another digest."""
    assert digest(RunConfig(tree, {}), facts, build, KEY) != digest(RunConfig(TREE, {}), FACTS, BUILD, KEY)


def test_the_order_of_keys_is_not_in_the_digest() -> None:
    """The same values in another order give the same digest."""
    reordered = {"b": dict(reversed(TREE["b"].items())), "a": 1}
    assert digest(RunConfig(reordered, {}), FACTS, BUILD, KEY) == digest(RunConfig(TREE, {}), FACTS, BUILD, KEY)


@given(st.text(), st.text())
def test_secrets_are_keyed(one: str, two: str) -> None:
    """INTERFACE section 8.5: a digest changes with a secret, and without the instance's key it confirms no guess."""

    def of(secret: str, key: bytes) -> str:
        return digest(RunConfig({"password": Secret(secret)}, {}), {}, {}, key)

    assert (of(one, KEY) == of(two, KEY)) is (one == two)
    assert of(one, KEY) != of(one, OTHER_KEY)
