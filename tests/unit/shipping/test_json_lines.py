"""Batches as JSON: fast and slow paths give the same text, and the text is JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.shipping import Batch
from agent.shipping.json_lines import JsonFields, timestamps

ODD = [b"same", b"\x7f", b"a\x7fb", b'"\\\n\x00', "wörd\uffff".encode()]
texts = st.one_of(st.none(), st.binary(max_size=20), st.sampled_from(ODD))
moments = st.integers(0, 4_000_000_000_000_000)


def _expected(moment: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@given(st.lists(st.tuples(moments, texts, texts), min_size=1, max_size=30), st.booleans())
def test_entries_read_back_as_they_were(entries: list[tuple[int, bytes | None, bytes | None]], same: bool) -> None:
    """For any bytes in the fields, each entry is one JSON object with its time, its fields and the labels."""
    times = [moment for moment, _, _ in entries]
    columns = {"MESSAGE": [text for _, text, _ in entries], "OTHER": [b"x" if same else other for _, _, other in entries]}
    batch = Batch(times, columns, labels={"env": 'a"b'})
    fields = JsonFields()
    for _ in range(2):  # the second time values are looked up
        for line, moment, row in zip(fields.objects(batch), times, batch.rows(), strict=True):
            assert json.loads(line) == {"timestamp": _expected(moment), **row, "env": 'a"b'}
        assert [json.loads(line) for line in fields.bodies(batch)] == batch.rows()


def test_entries_without_fields() -> None:
    """Entries of nothing but a time are objects, too."""
    batch = Batch([1, 2], {})
    assert [json.loads(line) for line in JsonFields().objects(batch)] == [{"timestamp": _expected(n)} for n in (1, 2)]
    assert JsonFields().bodies(batch) == ["{}", "{}"]


@pytest.mark.parametrize("moment", [0, 1, 99_999, 999_999, 1_000_000, 1_700_000_000_999_999])
def test_times_to_the_microsecond(moment: int) -> None:
    """Also those of a clock that was never set."""
    assert list(timestamps([moment])) == [_expected(moment)]
