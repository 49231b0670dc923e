"""Masks secrets in text that leaves the daemon or the shipper: shipped lines, the output of checks.

The cost of a pass hardly grows with the number of secrets. A needle is an encoding of a secret. An index holds words of 4 or
8 bytes of each needle, chosen so that a text with the needle has one of them at an aligned position. A text is read as aligned
words, in C, and only needles with a matching word are searched for. A text without secrets, the usual case, is returned
unchanged.
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
"""Texts of at least this length are masked anywhere. Two or three characters are masked only as a separate word, and a single
character never: that would mask most of a log."""
LINE_MIN = 6
"""Lines of at least this length of a secret with several lines are masked separately."""
COMMON = frozenset(("true", "false", "null", "none", "yes", "no", "on", "off"))
"""Words that are never masked: they reveal nothing."""
DIRECT_NEEDLES = 16
"""Up to this many needles of one index are searched one by one, which is faster than reading words."""
WORDS_MAX = 20_000
"""The approximate limit of words in one index. More words allow larger steps through a text."""
_MASK = MASK.encode()
_SEPARATOR = b"\n\0\n"
_PROSE = frozenset(b"abcdefghijklmnopqrstuvwxyz .-_/:=")
_SEES_NEIGHBOURS = re.compile(r"\(\?(?!:|P<)|[*+?}]\+|\\[AZ]")
"""Matches patterns whose matches depend on the text around them. Such patterns are not applied to joined texts."""
Text = TypeVar("Text", bytes, str)


def encodings(secret: str) -> set[bytes]:
    """Return the encodings of a secret that may occur in a log.

    These are: plain, base64 (also inside a longer text), URL-encoded, hexadecimal, and escaped for JSON, YAML, XML, SQL and
    shells; the same of each line of a secret with several lines.
    """
    encoded: set[bytes] = set()
    for text in {secret, secret.strip(), *_lines(secret)}:
        raw = _bytes(text)
        if len(raw) < MIN_ANYWHERE:
            continue
        encoded |= {raw, *map(_bytes, _escapes(text))}
        for url_encoded in (quote(raw, safe=""), quote_plus(raw), quote(raw)):
            encoded |= {url_encoded.encode(), _lower_hex(url_encoded).encode()}
        encoded |= _base64_encodings(raw)
        if len(raw) >= 6:
            encoded |= {raw.hex().encode(), raw.hex().upper().encode()}
    return {encoding for encoding in encoded if len(encoding) >= MIN_ANYWHERE}


def _bytes(text: str) -> bytes:
    """Encode as UTF-8. Surrogates become the bytes that they represent, if they represent any."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _escapes(text: str) -> set[str]:
    """Return the text as templates escape it for JSON, Python, YAML, SQL, shells and XML."""
    ascii_json = json.dumps(text)[1:-1]
    escaped = {ascii_json, ascii_json.replace("/", "\\/"), json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    escaped |= {text.replace("'", quoted) for quoted in ("''", "'\"'\"'", "\\'")}
    xml = html.escape(text, quote=False)
    escaped |= {xml, html.escape(text), xml.replace('"', "&#34;").replace("'", "&#39;"), xml.replace('"', "&quot;")}
    return escaped


def _lines(secret: str) -> set[str]:
    """Return the lines of a secret. A PEM key is logged line by line; its header and footer are not secret."""
    return {line.strip() for line in secret.splitlines() if len(line.strip()) >= LINE_MIN and not line.startswith("-----")}


def _lower_hex(encoded: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), encoded)


def _base64_encodings(raw: bytes) -> set[bytes]:
    """Return the whole, and for each of the three alignments the part that does not depend on neighbouring bytes."""
    encoded = {base64.b64encode(raw), base64.b64encode(raw).rstrip(b"=")}
    for before, affected in ((0, 0), (1, 2), (2, 3)):
        independent = base64.b64encode(bytes(before) + raw)[affected : 8 * (before + len(raw)) // 6]
        if len(independent) >= 5:
            encoded.add(independent)
    return encoded | {encoding.replace(b"+", b"-").replace(b"/", b"_") for encoding in encoded}


class WordIndex:
    """An index of needles by their words of `size` bytes. `code` is the struct code of such a word.

    Every needle is long enough to contain an aligned word at any position in a text. If all needles are longer, only every
    second or third word of a text is read, or even fewer.
    """

    def __init__(self, needles: Sequence[bytes], size: int, code: Literal["I", "Q"]) -> None:
        self._size, self._code = size, code
        self._needles = tuple(needles)
        self._needles_by_word: dict[int, list[bytes]] = {}
        longest_step = (min(map(len, needles), default=0) + 1) // size - 1
        self._step = max(1, min(longest_step, WORDS_MAX // (size * len(needles) or 1)))
        reach = size * self._step
        for needle in needles if len(needles) > DIRECT_NEEDLES else ():
            start = _most_selective_window(needle, reach, size)
            for offset in range(start, start + reach):
                word = memoryview(needle[offset : offset + size]).cast(code)[0]
                self._needles_by_word.setdefault(word, []).append(needle)
        self._words = frozenset(self._needles_by_word)

    def candidates(self, text: bytes) -> Iterable[bytes]:
        """Return the needles that may occur in a text. Needles that are not returned do not."""
        if not self._needles_by_word:
            return self._needles
        text_words = memoryview(text)[: len(text) // self._size * self._size].cast(self._code)[:: self._step]
        matches = self._words.intersection(text_words)
        return {needle for word in matches for needle in self._needles_by_word[word]} if matches else ()


def _most_selective_window(needle: bytes, reach: int, size: int) -> int:
    """Return the offset of the `reach` consecutive words that are least like prose, so that few other texts contain them."""
    length = reach + size - 1
    unusual = [0, *itertools.accumulate(byte not in _PROSE for byte in needle)]
    return max(range(len(needle) - length + 1), key=lambda start: unusual[start + length] - unusual[start])


class Masker:
    """Masks secrets, their encodings, and matches of patterns. Build it once and use it for every line."""

    def __init__(self, texts: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """Prepare for the secrets `texts`, and for `patterns`.

        Patterns are Python regular expressions, in which `^` and `$` match at each line. If a pattern has groups, only the
        groups are masked. Raises re.error for an invalid pattern.
        """
        texts = [text for text in set(texts) if text.strip().lower() not in COMMON]
        needles = sorted(set().union(*(encodings(text) for text in texts)))
        self._short = tuple(needle for needle in needles if len(needle) < 7)
        self._indexes = (
            WordIndex([n for n in needles if 7 <= len(n) < 15], 4, "I"),
            WordIndex([n for n in needles if len(n) >= 15], 8, "Q"),
        )
        self._needles = tuple(needles)
        words = sorted(re.escape(_bytes(t.strip())) for t in texts if 2 <= len(_bytes(t.strip())) < MIN_ANYWHERE)
        separate = [rb"(?<![A-Za-z0-9_])(?:%s)(?![A-Za-z0-9_])" % b"|".join(words)] if words else []
        joinable: list[bytes] = []
        for pattern in patterns:
            (separate if _SEES_NEIGHBOURS.search(pattern) else joinable).append(pattern.encode())
        self._joinable = tuple(re.compile(pattern, re.MULTILINE) for pattern in joinable)
        self._separate = tuple(re.compile(pattern, re.MULTILINE) for pattern in separate)
        self._patterns = self._joinable + self._separate

    def __bool__(self) -> bool:
        return bool(self._needles or self._patterns)

    def mask(self, text: Text) -> Text:
        """Return `text` with every secret replaced by the mask, or the same object if it contains no secret."""
        if isinstance(text, str):
            raw = _bytes(text)
            masked = self.mask(raw)
            return text if masked is raw else masked.decode("utf-8", "surrogateescape")
        return _cover(text, self._spans(text)) if text else text

    def mask_all(self, texts: Sequence[bytes]) -> Sequence[bytes]:
        """Mask many texts in one pass. If the pass finds something, each text is masked separately."""
        if not self:
            return texts
        joined = _SEPARATOR.join(texts)
        match = any(needle in joined for needle in self._candidates(joined))
        match = match or any(pattern.search(joined) for pattern in self._joinable)
        if match or any(pattern.search(text) for pattern in self._separate for text in texts):
            return [self.mask(text) for text in texts]
        return texts

    def mask_cut(self, text: bytes) -> bytes:
        """Mask a truncated text, including the beginning of a secret at its end."""
        tail = 0
        for needle in self._needles:
            for length in range(min(len(needle) - 1, len(text)), max(tail, MIN_ANYWHERE - 1), -1):
                if text.endswith(needle[:length]):
                    tail = length
                    break
        return self.mask(text[:-tail]) + _MASK if tail else self.mask(text)

    def _candidates(self, text: bytes) -> Iterable[bytes]:
        yield from self._short
        for index in self._indexes:
            yield from index.candidates(text)

    def _spans(self, text: bytes) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for needle in self._candidates(text):
            start = text.find(needle)
            while start >= 0:
                spans.append((start, start + len(needle)))
                start = text.find(needle, start + 1)
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                groups = range(1, pattern.groups + 1) if pattern.groups else (0,)
                spans.extend(match.span(group) for group in groups if match.start(group) >= 0)
        return spans


def _cover(text: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Replace each span by a mask of fixed length. Overlapping and adjacent spans become one mask."""
    if not spans:
        return text
    parts, end, first = [], 0, True
    for start, stop in sorted(spans):
        if start == stop:
            continue
        if start > end or first:
            parts += [text[end:start], _MASK]
        end, first = max(end, stop), False
    parts.append(text[end:])
    return b"".join(parts)
