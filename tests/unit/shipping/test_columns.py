"""Entries gathered by column: what comes out is what went in, whatever was compared or kept once on the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.shipping import Batch
from agent.shipping.readers.columns import Rows

THRESHOLD = 8
VALUES = st.one_of(
    st.none(),
    st.sampled_from([b"", b"a", b"aa", b"\0", b"a\0a", b"\0a"]),
    st.binary(max_size=12),
    st.lists(st.sampled_from([b"x", b"yy\0"]), min_size=2, max_size=3),
)


def plainly(value: bytes | list[bytes] | None) -> bytes | None:
    joined = b"\n".join(value) if isinstance(value, list) else value
    return None if joined is None else joined[:THRESHOLD]


@given(st.lists(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6), min_size=1, max_size=4), st.booleans())
def test_columns_hold_every_value_in_its_place(chunks: list[list[tuple[object, object]]], everything: bool) -> None:
    names = ("MESSAGE", "OTHER")
    rows = Rows(["*"] if everything else names, THRESHOLD)
    for pairs in chunks:
        rows.add(Batch(range(len(pairs)), dict(zip(names, zip(*pairs, strict=True), strict=True))))
    batch = rows.batch({}, full=False, lost=0, skipped=0)
    for i, name in enumerate(names):
        expected = [plainly(pair[i]) for pairs in chunks for pair in pairs]  # type: ignore[arg-type]
        assert list(batch.columns.get(name, [None] * len(expected))) == expected


def test_columns_of_all_fields_keep_the_order_in_which_fields_were_met() -> None:
    rows = Rows(["*"], THRESHOLD)
    rows.add(Batch([1], {"B": (b"1",), "A": (b"2",)}))
    rows.add(Batch([2], {"C": (b"3",), "A": (b"4",)}))
    batch = rows.batch({}, full=False, lost=0, skipped=0)
    assert list(batch.columns.items()) == [("B", [b"1", None]), ("A", [b"2", b"4"]), ("C", [None, b"3"])]


def test_equal_values_of_a_batch_are_one_object() -> None:
    rows = Rows(["UNIT"], THRESHOLD)
    for _ in range(2):
        rows.add(Batch([1, 2, 3], {"UNIT": (bytes([98, 49]), bytes([98, 50]), bytes([98, 49]))}))
    column = rows.batch({}, full=False, lost=0, skipped=0).columns["UNIT"]
    assert len({id(value) for value in column}) == 2


def test_the_weight_is_that_of_all_values_even_of_equal_ones() -> None:
    rows = Rows(["UNIT"], 1000)
    one = rows.add(Batch([1], {"UNIT": (b"x" * 100,)}))
    assert rows.add(Batch([1] * 10, {"UNIT": (b"x" * 100,) * 10})) == 10 * one
