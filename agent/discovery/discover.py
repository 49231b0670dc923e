"""Ask the providers in order, within one deadline: the first answer to a fact wins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from agent import plugins
from agent.discovery import NAMES, PROVIDERS, Context, values
from agent.errors import ParbakeError
from agent.model import Attempt, Facts, FactValue
from agent.places import Places
from agent.settings.tables import Settings

Clock = Callable[[], float]
_NONE: Mapping[str, FactValue | None] = MappingProxyType({})


def discover(
    settings: Settings,
    places: Places,
    *,
    clock: Clock = time.monotonic,
    providers: Mapping[str, str] = PROVIDERS,
    notices: Mapping[str, FactValue | None] = _NONE,
) -> Facts:
    """Everything that is known about the instance, in at most `discovery.timeout` seconds.

    `notices` is what `changes.Watcher` saw since: newer than what the platform said at boot. A provider that fails,
    hangs or answers with rubbish is recorded in `attempts` and the others are asked. Raises SettingsError only, for a
    provider that cannot be imported.
    """
    start = clock()
    timeout = float(settings.discovery.timeout)
    hard = start + timeout
    # What comes after a provider that used all of its time reads a few local files: this much is kept for it.
    soft = hard - min(0.25, timeout / 10)
    found = _Found()
    for name in settings.discovery.providers:
        provider = plugins.load(providers, name, "provider")
        now = clock()
        allowed = max(soft - now, (hard - now) / 2)
        # It is to come back a little before it is abandoned.
        context = Context(places, settings.discovery, time.monotonic() + allowed * 0.95, dict(found.values))
        found.take(name, context, *_ask(provider, context, allowed), seconds_since(now, clock))
    found.update(notices)
    _apply_rules(settings.facts_from, found)
    _, refused = found.add("settings", settings.facts)
    if refused:
        found.attempts.append(Attempt("settings", f"failed: [facts]: {'; '.join(refused)}", 0.0))
    return Facts(found.values, found.providers, seconds_since(start, clock), tuple(found.attempts))


def seconds_since(start: float, clock: Clock) -> float:
    return round(max(0.0, clock() - start), 6)


_FAILED = ("failed: ", "did not come back")


def asked(facts: Facts) -> str:
    """Who was asked and what came of it, for the error about a fact that is not known: each provider once, with its failure
    where it had one. `parbake facts -v` has every step."""
    outcomes: dict[str, str] = {}
    for attempt in facts.attempts:
        if not outcomes.get(attempt.provider, "").startswith(_FAILED):
            outcomes[attempt.provider] = attempt.outcome
    if any(provider.startswith("imds:") for provider in outcomes):
        outcomes.pop("imds", None)
    return "; ".join(f"{provider}: {outcome}" for provider, outcome in outcomes.items()) or "nobody"


def shortfall(facts: Facts) -> str:
    """Which providers failed, why, and what is therefore not known; "" where none did. For one line of a log."""
    failed = [f"{attempt.provider} {attempt.outcome}" for attempt in facts.attempts if attempt.outcome.startswith(_FAILED)]
    unknown = [name for name in NAMES if name not in facts.values]
    if not failed or not unknown:
        return ""
    return f"{'; '.join(failed)}; not known: {', '.join(unknown)}"


class _Found:
    """The facts so far, and what was said about those that were not taken."""

    def __init__(self) -> None:
        self.values: dict[str, FactValue] = {}
        self.providers: dict[str, str] = {}
        self.attempts: list[Attempt] = []

    def take(self, name: str, context: Context, answer: Mapping[str, Any], problem: str, seconds: float) -> None:
        label = context.label or name
        self.attempts.extend(list(context.attempts))
        added, refused = self.add(label, answer)
        gave = f"gave {', '.join(added)}" if added else "nothing new" if answer else "nothing"
        outcome = f"{problem}; {gave}" if problem and added else problem or gave
        if refused:
            outcome += "; " + "; ".join(refused)
        self.attempts.append(Attempt(label, outcome, seconds))

    def update(self, notices: Mapping[str, FactValue | None]) -> None:
        """Replace what the platform said, and what nobody did; what another provider said stays."""
        for name, value in notices.items():
            label = self.providers.get(name, "imds")
            if label != "cloud-init" and not label.startswith("imds"):
                continue
            if value is None:
                self.values.pop(name, None)
                self.providers.pop(name, None)
            else:
                self.add(label, {name: value}, override=True)

    def add(self, label: str, answer: Mapping[str, Any], *, override: bool = False) -> tuple[list[str], list[str]]:
        added, refused = [], []
        for name, raw in answer.items():
            try:
                value = values.accept(str(name), raw)
            except values.Refused as error:
                refused.append(f"refused {str(name)[:64]!a}: {error}")
                continue
            if value is not None and (override or name not in self.values):
                self.values[name] = value
                self.providers[name] = label
                added.append(name)
        return added, refused


def _ask(provider: type[Any], context: Context, seconds: float) -> tuple[Mapping[str, Any], str]:
    """One provider's answer, or what kept it from answering."""
    answers: list[tuple[Mapping[str, Any], str]] = []

    def ask() -> None:
        try:
            answer = provider().discover(context)
            if not isinstance(answer, Mapping):
                answers.append(({}, f"failed: answered with a {type(answer).__name__}, expected a table"))
                return
            answers.append((dict(answer), ""))
        except ParbakeError as error:
            answers.append(({}, f"failed: {error.message}"))
        except Exception as error:  # noqa: BLE001 - a third party's bug must not keep an instance from booting
            answers.append(({}, f"failed: {type(error).__name__} in the provider: {str(error)[:200]!a}"))

    # In a thread, because a file on a dead mount or a third party's provider can block for ever.
    thread = threading.Thread(target=ask, name="discover", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (dict(context.partial), f"did not come back within {seconds:.2g} s")


def _apply_rules(rules: Mapping[str, Iterable[str]], found: _Found) -> None:
    """[facts_from]: a rule that finds something wins over what a provider called the fact."""
    for name, origins in rules.items():
        for origin in origins:
            value = _origin(origin, found.values)
            if value is None:
                continue
            label = found.providers.get(name, origin) if origin == f"fact:{name}" else origin
            added, refused = found.add(label, {name: value}, override=True)
            if refused:
                found.attempts.append(Attempt(origin, "; ".join(refused), 0.0))
            if added:
                break
        else:
            found.attempts.append(Attempt("facts_from", f"{name}: there is no {' and no '.join(origins)}", 0.0))


def _origin(origin: str, known: Mapping[str, FactValue]) -> Any:
    """What "tag:NAME", "userdata:NAME" or "fact:NAME" stands for; a NAME with dots goes down into tables."""
    kind, _, key = origin.partition(":")
    table: Any = known if kind == "fact" else known.get({"tag": "tags", "userdata": "userdata"}.get(kind, ""), {})
    if not isinstance(table, Mapping):
        return None
    if key in table:
        return table[key]
    for segment in key.split("."):
        table = table.get(segment) if isinstance(table, Mapping) else None
    return table
