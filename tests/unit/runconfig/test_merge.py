"""The laws of merging layers, which operators of several environments rely on."""

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
    """INTERFACE section 1: a later layer overrides an earlier one key by key; lists are replaced, not joined."""
    overlaid = merged({"a": 1, "t": {"x": 1, "y": [1, 2]}}, {"t": {"y": [3]}}, None, {"a": 2})
    assert overlaid.tree == {"a": 2, "t": {"x": 1, "y": [3]}}


def test_a_later_source_overrides_an_earlier_one() -> None:
    """INTERFACE section 1: a later layer overrides an earlier layer, a later source an earlier source."""
    overlaid = merge([("one", snapshot({"a": 1}, {"a": 2})), ("two", snapshot({"a": 3}))])
    origin = overlaid.origins[("a",)]
    assert (overlaid.tree["a"], origin.source, origin.layer, origin.revision) == (3, "two", "layer0", "r0")
    assert [(o.source, o.layer) for o in origin.overrode] == [("one", "layer1"), ("one", "layer0")]


def test_null_takes_an_earlier_value_away() -> None:
    """A null in a later layer removes a value or a whole table; a still later layer can set it again."""
    assert merged({"a": 1, "t": {"x": 1}}, {"a": None, "t": None}).tree == {}
    assert merged({"t": {"x": 1}}, {"t": None}, {"t": {"y": 2}}).tree == {"t": {"y": 2}}
    assert merged({"t": {"x": 1}}, {"t": None}, {"t": 5}).tree == {"t": 5}
    assert merged({"t": 5}, {"t": None}, {"t": {"x": 1}}).tree == {"t": {"x": 1}}


def test_clashes_are_all_named_at_both_places() -> None:
    """A key that is a table in one layer and a value in another is an error. It names both layers, for every such key."""
    with pytest.raises(MergeError) as failed:
        merge([("one", snapshot({"a": 1, "b": {"x": 1}})), ("two", snapshot({"a": {"y": 1}, "b": 2}))])
    assert failed.value.problems == (
        "a: a table in source two, layer layer0; a value in source one, layer layer0",
        "b: a table in source one, layer layer0; a value in source two, layer layer0",
    )
    assert failed.value.exit_code == 65


def test_a_value_within_a_list_is_no_clash() -> None:
    """A list is one value, replaced as a whole. Tables in it come out sorted."""
    overlaid = merged({"l": [{"b": 1, "a": 2}]})
    assert list(overlaid.tree["l"][0]) == ["a", "b"]


@given(TREES)
def test_idempotent(tree: dict[str, Any]) -> None:
    """Merging a layer twice gives the same tree as merging it once."""
    assert merged(tree, tree).tree == merged(tree).tree


@given(TREES)
def test_empty_layers_change_nothing(tree: dict[str, Any]) -> None:
    """An absent or empty layer does not change the others."""
    assert merged(None, tree, {}, None).tree == merged(tree).tree


@given(st.lists(TREES, max_size=4))
def test_grouping_does_not_matter(trees: list[dict[str, Any]]) -> None:
    """Layers of one source give the same tree as layers of a source each."""
    try:
        together = merged(*trees)
    except MergeError:
        with pytest.raises(MergeError):
            merge([(f"s{i}", snapshot(tree)) for i, tree in enumerate(trees)])
        return
    assert merge([(f"s{i}", snapshot(tree)) for i, tree in enumerate(trees)]).tree == together.tree


@given(st.lists(TREES, max_size=4))
def test_every_value_has_an_origin_that_holds_it(trees: list[dict[str, Any]]) -> None:
    """INTERFACE section 5, explain: every key has the origin of its value, and the layer that it names holds this value."""
    try:
        overlaid = merged(*trees)
    except MergeError:
        return
    ends = {path: value for path, value in leaves(overlaid.tree) if value != {}}
    assert set(overlaid.origins) == set(ends)
    for path, origin in overlaid.origins.items():
        assert lookup(trees[int(origin.layer.removeprefix("layer"))], path) == ends[path]


@given(TREES, st.randoms())
def test_order_within_a_store_does_not_matter(tree: dict[str, Any], random: Any) -> None:
    """INTERFACE section 4: a mapping from a store comes out sorted, so that a render is the same everywhere."""

    def shuffled(table: dict[str, Any]) -> dict[str, Any]:
        keys = list(table)
        random.shuffle(keys)
        return {key: shuffled(table[key]) if isinstance(table[key], dict) else table[key] for key in keys}

    assert repr(merged(shuffled(tree)).tree) == repr(merged(tree).tree)
