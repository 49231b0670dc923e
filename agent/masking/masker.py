"""Secrets masked in text that leaves: shipped lines, the output of checks.

The cost of a pass over a text hardly grows with the number of secrets. Of each needle (a secret in one of its forms)
words of 8 bytes are kept in a set, of which one must lie aligned in a text that holds the needle; a text is read as
aligned words, in C, and only the needles of which a word was met are looked for. A text without any, the usual one, is
returned as it is.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar
from urllib.parse import quote, quote_plus

from agent.secret import MASK

MIN_ANYWHERE = 4
"""Texts from this length on are masked wherever they stand; two or three characters only as a word of their own, and
one never is: it would mask the log away."""
LINE_MIN = 6
"""Of a secret of several lines, those of so many characters are masked by themselves."""
COMMON = frozenset(("true", "false", "null", "none", "yes", "no", "on", "off"))
"""Words that say nothing even as the value of a secret key."""
DIRECT_NEEDLES = 16
"""Up to this many needles of a kind are searched one by one, which is faster than reading words."""
WORDS_MAX = 20_000
"""About so many words may be kept so that fewer have to be read."""
_MASK = MASK.encode()
_SEPARATOR = b"\n\0\n"
_PROSE = frozenset(b"abcdefghijklmnopqrstuvwxyz .-_/:=")
_ALONE = re.compile(r"\(\?(?!:|P<)|[*+?}]\+|\\[AZ]")
"""What makes a pattern see the neighbours of a text: such patterns are not tried on many texts joined."""
Text = TypeVar("Text", bytes, str)


def forms(secret: str) -> set[bytes]:
    """A secret as it may stand in a log: plain, base64 (also inside a longer text), URL-encoded, hex, escaped as in JSON,
    YAML, XML and a shell's quotes; and each line of one that has several."""
    found: set[bytes] = set()
    for text in {secret, secret.strip(), *_lines(secret)}:
        raw = _bytes(text)
        if len(raw) < MIN_ANYWHERE:
            continue
        found |= {raw, *map(_bytes, _escapes(text))}
        for encoded in (quote(raw, safe=""), quote_plus(raw), quote(raw)):
            found |= {encoded.encode(), _lower_hex(encoded).encode()}
        found |= _base64_forms(raw)
        if len(raw) >= 6:
            found |= {raw.hex().encode(), raw.hex().upper().encode()}
    return {form for form in found if len(form) >= MIN_ANYWHERE}


def _bytes(text: str) -> bytes:
    """As it stands in a file: surrogates are the bytes that they stand for, where they stand for some."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _escapes(text: str) -> set[str]:
    """As templates escape it for JSON, Python, YAML, SQL, shells and XML."""
    escaped = json.dumps(text)[1:-1]
    found = {escaped, escaped.replace("/", "\\/"), json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    found |= {text.replace("'", other) for other in ("''", "'\"'\"'", "\\'")}
    xml = html.escape(text, quote=False)
    found |= {xml, html.escape(text), xml.replace('"', "&#34;").replace("'", "&#39;"), xml.replace('"', "&quot;")}
    return found


def _lines(secret: str) -> set[str]:
    """A key in PEM is logged line by line; its frame is no secret."""
    return {line.strip() for line in secret.splitlines() if len(line.strip()) >= LINE_MIN and not line.startswith("-----")}


def _lower_hex(encoded: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), encoded)


def _base64_forms(raw: bytes) -> set[bytes]:
    """Whole, and the part that does not depend on what stands before and after it, at each of the three alignments."""
    found = {base64.b64encode(raw), base64.b64encode(raw).rstrip(b"=")}
    for before, touched in ((0, 0), (1, 2), (2, 3)):
        core = base64.b64encode(bytes(before) + raw)[touched : 8 * (before + len(raw)) // 6]
        if len(core) >= 5:
            found.add(core)
    return found | {form.replace(b"+", b"-").replace(b"/", b"_") for form in found}


class WordIndex:
    """Needles long enough to hold an aligned word of `size` bytes wherever they stand in a text. Where all are longer,
    every second or third word is enough, or an even smaller part of them."""

    def __init__(self, needles: Sequence[bytes], size: int, code: Literal["I", "Q"]) -> None:
        self._size, self._code = size, code
        self._needles = tuple(needles)
        self._of: dict[int, list[bytes]] = {}
        longest_step = (min(map(len, needles), default=0) + 1) // size - 1
        self._step = max(1, min(longest_step, WORDS_MAX // (size * len(needles) or 1)))
        reach = size * self._step
        for needle in needles if len(needles) > DIRECT_NEEDLES else ():
            start = _most_selective_window(needle, reach, size)
            for offset in range(start, start + reach):
                word = memoryview(needle[offset : offset + size]).cast(code)[0]
                self._of.setdefault(word, []).append(needle)
        self._set = frozenset(self._of)

    def candidates(self, text: bytes) -> Iterable[bytes]:
        if not self._of:
            return self._needles
        words = memoryview(text)[: len(text) // self._size * self._size].cast(self._code)[:: self._step]
        met = self._set.intersection(words)
        return {needle for word in met for needle in self._of[word]} if met else ()


def _most_selective_window(needle: bytes, reach: int, size: int) -> int:
    """Where `reach` words that begin one byte after the other look least like prose, so that other text seldom holds one."""
    length = reach + size - 1
    before = [0, *itertools.accumulate(byte not in _PROSE for byte in needle)]
    return max(range(len(needle) - length + 1), key=lambda start: before[start + length] - before[start])


class Masker:
    """Masks the given texts, their forms, and what the added patterns match. Made once, used for every line."""

    def __init__(self, texts: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """`patterns` are Python regular expressions; `^` and `$` are those of a line. Where one has groups, only they
        are masked. Raises re.error for a pattern that is none.
        """
        texts = [text for text in set(texts) if text.strip().lower() not in COMMON]
        needles = sorted(set().union(*(forms(text) for text in texts)))
        self._short = tuple(needle for needle in needles if len(needle) < 7)
        self._kinds = (
            WordIndex([n for n in needles if 7 <= len(n) < 15], 4, "I"),
            WordIndex([n for n in needles if len(n) >= 15], 8, "Q"),
        )
        self._needles = tuple(needles)
        words = sorted(re.escape(_bytes(t.strip())) for t in texts if 2 <= len(_bytes(t.strip())) < MIN_ANYWHERE)
        alone = [rb"(?<![A-Za-z0-9_])(?:%s)(?![A-Za-z0-9_])" % b"|".join(words)] if words else []
        given = tuple(patterns)
        alone += [pattern.encode() for pattern in given if _ALONE.search(pattern)]
        self._joinable = tuple(re.compile(p.encode(), re.MULTILINE) for p in given if not _ALONE.search(p))
        self._apart = tuple(re.compile(pattern, re.MULTILINE) for pattern in alone)
        self._patterns = self._joinable + self._apart

    def __bool__(self) -> bool:
        return bool(self._needles or self._patterns)

    def mask(self, text: Text) -> Text:
        """`text` with every secret in it replaced by the mask. The very same object where there is none."""
        if isinstance(text, str):
            raw = _bytes(text)
            masked = self.mask(raw)
            return text if masked is raw else masked.decode("utf-8", "surrogateescape")
        return _cover(text, self._spans(text)) if text else text

    def mask_all(self, texts: Sequence[bytes]) -> Sequence[bytes]:
        """Many texts in one pass. Only where something was met is each looked at alone."""
        if not self:
            return texts
        joined = _SEPARATOR.join(texts)
        met = any(needle in joined for needle in self._candidates(joined))
        met = met or any(pattern.search(joined) for pattern in self._joinable)
        if met or any(pattern.search(text) for pattern in self._apart for text in texts):
            return [self.mask(text) for text in texts]
        return texts

    def mask_cut(self, text: bytes) -> bytes:
        """A text whose end was cut off: the head of a secret at its end is masked too."""
        tail = 0
        for needle in self._needles:
            for length in range(min(len(needle) - 1, len(text)), max(tail, MIN_ANYWHERE - 1), -1):
                if text.endswith(needle[:length]):
                    tail = length
                    break
        return self.mask(text[:-tail]) + _MASK if tail else self.mask(text)

    def _candidates(self, text: bytes) -> Iterable[bytes]:
        yield from self._short
        for kind in self._kinds:
            yield from kind.candidates(text)

    def _spans(self, text: bytes) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for needle in self._candidates(text):
            at = text.find(needle)
            while at >= 0:
                spans.append((at, at + len(needle)))
                at = text.find(needle, at + 1)
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                groups = range(1, pattern.groups + 1) if pattern.groups else (0,)
                spans.extend(match.span(group) for group in groups if match.start(group) >= 0)
        return spans


def _cover(text: bytes, spans: list[tuple[int, int]]) -> bytes:
    """The spans, overlapping ones as one, each replaced by one mask of a fixed length."""
    if not spans:
        return text
    pieces, end = [], 0
    last = -1
    for start, stop in sorted(spans):
        if start == stop:
            continue
        if start > end or last < 0:
            pieces += [text[end:start], _MASK]
        end, last = max(end, stop), start
    pieces.append(text[end:])
    return b"".join(pieces)
