"""A backend for INI files: a layer is a section."""

import configparser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from agent.errors import SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext


@dataclass(frozen=True, slots=True, kw_only=True)
class IniOptions:
    path: str = setting("the file")


class IniSource:
    options_class: ClassVar[type[IniOptions]] = IniOptions

    def __init__(self, options: IniOptions, context: SourceContext) -> None:
        self._path = context.paths.host(options.path)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return Snapshot(tuple(Layer(layer, None) for layer in layers))
        except OSError as error:
            raise SourceUnreachable(f"{self._path}: {error.strerror}") from None
        except (UnicodeDecodeError, configparser.Error) as error:
            raise SourceInvalid(f"{self._path} is not an INI file: {type(error).__name__}") from None
        return Snapshot(tuple(Layer(name, dict(parser[name]) if name in parser else None) for name in layers))

    def close(self) -> None:
        """Do nothing: the source holds nothing open."""
