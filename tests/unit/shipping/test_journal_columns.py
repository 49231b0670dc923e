"""Entries collected by row and turned into columns: the values are unchanged, however rows are shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.shipping import Batch, Constant
from agent.shipping.readers.journal_columns import Rows, whole_row

THRESHOLD = 8
NAMES = ("UNIT", "OTHER")
VALUES = st.one_of(
    st.none(),
    st.sampled_from([b"", b"a", b"aa", b"\0", b"a\0a", b"\0a"]),
    st.binary(max_size=12),
    st.lists(st.sampled_from([b"x", b"yy\0"]), min_size=2, max_size=3),
)
Entry = Mapping[str, Any]


def gathered(chunks: Sequence[Sequence[Entry]], *, everything: bool = False, threshold: int = THRESHOLD) -> Batch:
    """As the reader does it."""
    rows = Rows(() if everything else NAMES, threshold)
    for chunk in chunks:
        for number, entry in enumerate(chunk):
            rows.times.append(number)
            rows.messages.append(entry.get("MESSAGE"))
            row = whole_row(dict(entry)) if everything else tuple(map(entry.get, NAMES))
            rows.rows.append(rows.intern(row))
        rows.weigh(len(chunk))
    return rows.batch({}, full=False, lost=0, skipped=0)


def plainly(value: bytes | list[bytes] | None) -> bytes | None:
    joined = b"\n".join(value) if isinstance(value, list) else value
    return None if joined is None else joined[:THRESHOLD]


@given(st.lists(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=6), min_size=1, max_size=4), st.booleans())
def test_columns_hold_every_value_in_its_place(chunks: list[list[tuple[Any, Any, Any]]], everything: bool) -> None:
    names = ("MESSAGE", *NAMES)
    entries = [[{k: v for k, v in zip(names, values, strict=True) if v is not None} for values in chunk] for chunk in chunks]
    batch = gathered(entries, everything=everything)
    for i, name in enumerate(names):
        expected = [plainly(values[i]) for chunk in chunks for values in chunk]
        assert list(batch.columns.get(name, [None] * len(expected))) == expected
        assert (name in batch.columns) == any(value is not None for value in expected)


def test_columns_of_all_fields_keep_the_order_in_which_fields_were_met() -> None:
    batch = gathered([[{"B": b"1", "A": b"2"}], [{"C": b"3", "A": b"4"}]], everything=True)
    assert list(batch.columns.items()) == [("B", [b"1", None]), ("A", [b"2", b"4"]), ("C", [None, b"3"])]


def test_all_fields_leave_out_what_tells_nothing() -> None:
    entry = {"_CAP_EFFECTIVE": b"0", "A": b"1", "_SOURCE_REALTIME_TIMESTAMP": b"5", "MESSAGE": b"m"}
    assert list(gathered([[entry]], everything=True).columns) == ["MESSAGE", "A"]


def test_an_entry_without_another_field_is_no_other_entry() -> None:
    """A row of no field at all, between others and before them."""
    bare = {"MESSAGE": b"m"}
    batch = gathered([[bare, {**bare, "A": b"1"}, bare]], everything=True)
    assert list(batch.columns["A"]) == [None, b"1", None]


def test_equal_values_of_a_batch_are_one_object() -> None:
    """Also if they came in different rows."""
    entries = [{"UNIT": bytes([98, number % 2]), "OTHER": bytes([number])} for number in range(6)]
    column = gathered([entries[:3], entries[3:]]).columns["UNIT"]
    assert len({id(value) for value in column}) == 2


def test_what_is_the_same_for_all_entries_is_a_constant() -> None:
    columns = gathered([[{"UNIT": b"a", "OTHER": bytes([number])} for number in range(5)]] * 2).columns
    assert isinstance(columns["UNIT"], Constant)
    assert not isinstance(columns["OTHER"], Constant)


def test_entries_one_after_the_other_with_equal_rows_share_one() -> None:
    rows = Rows(NAMES, THRESHOLD)
    take = itemgetter(*NAMES)
    shared = [rows.intern(take({"UNIT": bytes([98]), "OTHER": [b"x", b"y"]})) for _ in range(3)]
    assert len({id(row) for row in shared}) == 1


@given(st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=30)), min_size=1, max_size=10))
def test_the_weight_is_that_of_all_values_even_of_shared_ones(pairs: list[tuple[bytes, bytes]]) -> None:
    """In every order of entries, a batch is bounded by what the sink will send, not by the memory of shared rows."""

    def weight(of: list[tuple[bytes, bytes]]) -> int:
        rows = Rows(NAMES, 1000)
        for message, unit in of:
            rows.messages.append(message)
            rows.rows.append(rows.intern((unit, None)))
        return rows.weigh(len(of))

    assert weight(pairs) == sum(weight([pair]) for pair in pairs)
    assert weight([(b"", b"x" * 100)]) - weight([(b"", b"")]) == 100
