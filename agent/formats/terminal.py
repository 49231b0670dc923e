"""Text from outside, made safe to print on a terminal."""

from __future__ import annotations

import re

_UNSAFE = (  # compiled at its first use, because every command imports this module
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters without tab and line feed; they begin escape sequences
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional formatting, which reorders what is shown
    "\u2028\u2029"  # line and paragraph separator
    "\ud800-\udfff"  # surrogates, which cannot be encoded
    "]"
)


def printable(text: str) -> str:
    r"""Return `text` with each unsafe character written as an escape, such as \x1b. Line feeds and tabs are kept."""
    return re.sub(_UNSAFE, lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
