"""Text from stores on a terminal: it cannot move the cursor, reorder a line or end the program."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.terminal import printable

BIDIRECTIONAL = {"ALM", "LRM", "RLM", "LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
HOSTILE = st.sampled_from("\x00\x07\x08\x1b\x7f\r\x9b\u061c\u200e\u202e\u2066\u2069\u2028\ud800\udcff\n\t\\")


@given(st.text(st.one_of(HOSTILE, st.characters())))
def test_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    """No control character but tab and line feed, no bidirectional formatting, and nothing that cannot be encoded."""
    shown = printable(text)
    assert {unicodedata.category(char) for char in set(shown) - set("\n\t")}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert {unicodedata.bidirectional(char) for char in shown}.isdisjoint(BIDIRECTIONAL)
    assert not any(ord(char) in (0x061C, 0x200E, 0x200F) for char in shown)
    shown.encode("utf-8")


@given(st.text(st.one_of(HOSTILE, st.characters())))
def test_safe_text_is_kept_and_what_is_shown_is_safe(text: str) -> None:
    """Showing a text twice changes nothing, and only unsafe characters become escapes."""
    shown = printable(text)
    assert printable(shown) == shown
    assert shown.count("\n") == text.count("\n")
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b31mred", r"\x9b31mred"),
        ("over\rwritten", r"over\rwritten"),
        ("evil\u202etxt.exe", r"evil\u202etxt.exe"),
        ("a\udcff", r"a\udcff"),
        ("naïve 日本語 👩‍💻\n\tindented", "naïve 日本語 👩‍💻\n\tindented"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """An escape names the character that is not printed; text in any language stays."""
    assert printable(text) == shown
