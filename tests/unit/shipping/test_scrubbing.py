"""A batch on its way: a column of one value is treated as one that holds it for every entry, and nothing secret passes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from agent.masking.masker import Masker
from agent.secret import MASK
from agent.shipping import Batch, Column, Constant
from agent.shipping.scrubbing import CUT, own_lines, scrub

SECRET = b"hunter2-hunter2"
MARK = "parbake-0123abcd"
LINE_MAX = 40
MASKER = Masker([SECRET.decode()])
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=8),
    st.sampled_from([b"", b"a", b"x" * 100, SECRET, b"with " + SECRET, MARK.encode() + b"!", b"one two parbake[7]: sent"]),
)


@given(VALUES, st.integers(0, 5), st.integers(-7, 7), st.integers(-7, 7))
def test_a_constant_is_the_column_that_it_stands_for(value: bytes | None, count: int, start: int, stop: int) -> None:
    constant, plain = Constant(value, count), [value] * count
    assert (len(constant), list(constant), list(constant[start:stop])) == (count, plain, plain[start:stop])
    assert (value in constant, constant.count(value)) == (value in plain, count)
    assert [constant[i] for i in range(-count, count)] == [plain[i] for i in range(-count, count)]


@given(st.lists(VALUES, min_size=1, max_size=6), VALUES, VALUES)
def test_constants_are_cleaned_as_columns_are(texts: list[bytes | None], other: bytes | None, message: bytes | None) -> None:
    """Masked, cut, and dropped if an entry came back: the result is the same for both forms of a column."""
    count = len(texts)
    for own in (None, own_lines(7)):
        for one, same in ((texts, {"OTHER": other}), ([other] * count, {"MESSAGE": message})):
            name = "OTHER" if "MESSAGE" in same else "MESSAGE"
            constants: dict[str, Column] = {name: one, **{key: Constant(value, count) for key, value in same.items()}}
            plain = {key: list(column) for key, column in constants.items()}
            cleaned = [scrub(Batch(range(count), columns), MASKER, LINE_MAX, MARK, own) for columns in (constants, plain)]
            assert cleaned[0].rows() == cleaned[1].rows()
            assert list(cleaned[0].times) == list(cleaned[1].times)


@given(st.lists(VALUES, min_size=1, max_size=6), VALUES)
def test_what_is_left_is_masked_short_and_not_our_own(texts: list[bytes | None], other: bytes | None) -> None:
    columns: dict[str, Column] = {"MESSAGE": texts, "OTHER": Constant(other, len(texts))}
    cleaned = scrub(Batch(range(len(texts)), columns), MASKER, LINE_MAX, MARK, own_lines(7))
    for row in zip(*cleaned.columns.values(), strict=True):
        assert all(value is None or (SECRET not in value and len(value) <= LINE_MAX + len(CUT)) for value in row)
    expected = [i for i, text in enumerate(texts) if text is None or not re.search(rb"parbake-0123abcd|parbake\[7\]:", text)]
    assert list(cleaned.times) == expected
    secret = [i for i in expected if texts[i] == SECRET]
    messages = dict(zip(cleaned.times, cleaned.columns["MESSAGE"], strict=True))
    assert all(messages[i] == MASK.encode() for i in secret)
