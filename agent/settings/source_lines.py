"""Which line of a TOML file a setting stands on: tomllib does not say, and an operator needs it."""

from __future__ import annotations

import re

_LIST = re.compile(r"\s*\[\[\s*([A-Za-z0-9_-]+)\s*\]\]")
_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_KEY = re.compile(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\")(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"))*)\s*=")


def quoted(key: str) -> str:
    """A key as TOML writes it in a path."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


class Lines:
    """The lines of one file by setting: "template[1]", "template[1].mode", 'keys."db.password".type'."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._numbers: dict[str, int] = {}
        counts: dict[str, int] = {}
        prefix = ""
        for number, line in enumerate(text.splitlines(), 1):
            if match := _LIST.match(line):
                index = counts.get(match[1], 0)
                counts[match[1]] = index + 1
                prefix = f"{match[1]}[{index}]"
                self._numbers.setdefault(match[1], number)
                self._numbers[prefix] = number
            elif match := _TABLE.match(line):
                prefix = re.sub(r"\s*\.\s*", ".", match[1])
                first, _, rest = prefix.partition(".")
                if rest and first in counts:
                    prefix = f"{first}[{counts[first] - 1}].{rest}"
                self._numbers.setdefault(prefix, number)
                self._numbers.setdefault(prefix.split(".", 1)[0], number)
            elif match := _KEY.match(line):
                key = re.sub(r"\s*\.\s*", ".", match[1])
                self._numbers.setdefault(f"{prefix}.{key}" if prefix else key, number)

    def at(self, where: str) -> str:
        """ "FILE:LINE: where" of the setting, or of the nearest table around it."""
        around = where
        while around and around not in self._numbers:
            cut = max(around.rfind("."), around.rfind("["))
            around = around[:cut] if cut > 0 else ""
        number = f":{self._numbers[around]}" if around else ""
        return f"{self.path}{number}: {where}"
