"""Layers overlaid: the laws that an operator who layers environments counts on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MergeError
from agent.keypath import leaves, lookup
from agent.model import Layer, Merged, Snapshot
from agent.runconfig.merge import merge

NAMES = st.sampled_from(["a", "b", "c", "d.e", ""])
VALUES = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.booleans(), st.lists(st.integers(), max_size=3))
TREES = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=4),
    lambda deeper: st.dictionaries(NAMES, st.one_of(VALUES, deeper), max_size=4),
    max_leaves=12,
)


def snapshot(*trees: dict[str, Any] | None) -> Snapshot:
    return Snapshot(tuple(Layer(f"layer{i}", tree, f"r{i}") for i, tree in enumerate(trees)), "whole")


def merged(*trees: dict[str, Any] | None) -> Merged:
    return merge([("site", snapshot(*trees))])


def test_later_wins_and_tables_are_deep() -> None:
    """INTERFACE 1: a later layer overrides an earlier one key by key; lists are replaced, not joined."""
    found = merged({"a": 1, "t": {"x": 1, "y": [1, 2]}}, {"t": {"y": [3]}}, None, {"a": 2})
    assert found.tree == {"a": 2, "t": {"x": 1, "y": [3]}}


def test_a_later_source_overrides_an_earlier_one() -> None:
    """INTERFACE 1: a later layer overrides an earlier layer, a later source an earlier source."""
    found = merge([("one", snapshot({"a": 1}, {"a": 2})), ("two", snapshot({"a": 3}))])
    origin = found.origins[("a",)]
    assert (found.tree["a"], origin.source, origin.layer, origin.revision) == (3, "two", "layer0", "r0")
    assert [(o.source, o.layer) for o in origin.overrode] == [("one", "layer1"), ("one", "layer0")]


def test_null_takes_an_earlier_value_away() -> None:
    """A null in a later layer removes a value or a whole table; a still later layer can set it anew."""
    assert merged({"a": 1, "t": {"x": 1}}, {"a": None, "t": None}).tree == {}
    assert merged({"t": {"x": 1}}, {"t": None}, {"t": {"y": 2}}).tree == {"t": {"y": 2}}
    assert merged({"t": {"x": 1}}, {"t": None}, {"t": 5}).tree == {"t": 5}
    assert merged({"t": 5}, {"t": None}, {"t": {"x": 1}}).tree == {"t": {"x": 1}}


def test_clashes_are_all_named_at_both_places() -> None:
    """A key that is a table here and a value there is an error naming both places, and every such key at once."""
    with pytest.raises(MergeError) as failed:
        merge([("one", snapshot({"a": 1, "b": {"x": 1}})), ("two", snapshot({"a": {"y": 1}, "b": 2}))])
    assert failed.value.problems == (
        "a: a table in source two, layer layer0; a value in source one, layer layer0",
        "b: a table in source one, layer layer0; a value in source two, layer layer0",
    )
    assert failed.value.exit_code == 65


def test_a_value_within_a_list_is_no_clash() -> None:
    """Lists are ends: what is in them is replaced with them; tables in them come out sorted."""
    found = merged({"l": [{"b": 1, "a": 2}]})
    assert list(found.tree["l"][0]) == ["a", "b"]


@given(TREES)
def test_idempotent(tree: dict[str, Any]) -> None:
    """The same layer twice is that layer once."""
    assert merged(tree, tree).tree == merged(tree).tree


@given(TREES)
def test_empty_layers_change_nothing(tree: dict[str, Any]) -> None:
    """A layer that the store does not have, or that is empty, leaves the others as they are."""
    assert merged(None, tree, {}, None).tree == merged(tree).tree


@given(st.lists(TREES, max_size=4))
def test_grouping_does_not_matter(trees: list[dict[str, Any]]) -> None:
    """Layers give the same config whether they are of one source or of a source each."""
    try:
        together = merged(*trees)
    except MergeError:
        with pytest.raises(MergeError):
            merge([(f"s{i}", snapshot(tree)) for i, tree in enumerate(trees)])
        return
    assert merge([(f"s{i}", snapshot(tree)) for i, tree in enumerate(trees)]).tree == together.tree


@given(st.lists(TREES, max_size=4))
def test_every_value_has_an_origin_that_holds_it(trees: list[dict[str, Any]]) -> None:
    """INTERFACE 5, explain: every key of the config knows its layer, and that layer indeed holds this value."""
    try:
        found = merged(*trees)
    except MergeError:
        return
    ends = {path: value for path, value in leaves(found.tree) if value != {}}
    assert set(found.origins) == set(ends)
    for path, origin in found.origins.items():
        assert lookup(trees[int(origin.layer.removeprefix("layer"))], path) == ends[path]


@given(TREES, st.randoms())
def test_order_within_a_store_does_not_matter(tree: dict[str, Any], random: Any) -> None:
    """INTERFACE 4: a mapping from a store comes out sorted, so that a render is the same everywhere."""

    def shuffled(table: dict[str, Any]) -> dict[str, Any]:
        keys = list(table)
        random.shuffle(keys)
        return {key: shuffled(table[key]) if isinstance(table[key], dict) else table[key] for key in keys}

    assert repr(merged(shuffled(tree)).tree) == repr(merged(tree).tree)
