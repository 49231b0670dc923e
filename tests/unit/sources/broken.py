"""A third party's backend with bugs: what its file says decides what a fetch raises or returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext

SECRET = "s3cret"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenOptions:
    path: str = setting("the file")
    bug_of: str = setting("the method that has a bug besides fetch", "")


class BrokenSource:
    options_class: ClassVar[type[BrokenOptions]] = BrokenOptions

    def __init__(self, options: BrokenOptions, context: SourceContext) -> None:
        self._path = context.paths.host(options.path)
        self._bug_of = options.bug_of
        if options.bug_of == "constructor":
            raise KeyError(SECRET)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        content = self._path.read_text("utf-8")
        if content == "KeyError":
            raise KeyError(SECRET)
        if content == "SystemExit":
            raise SystemExit(SECRET)
        if content == "a list":
            return cast(Snapshot, [SECRET])
        return Snapshot(tuple(Layer(name, {"name": content}) for name in layers))

    def close(self) -> None:
        if self._bug_of == "close":
            raise KeyError(SECRET)
