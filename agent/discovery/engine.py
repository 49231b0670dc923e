"""Ask the providers in order, within one deadline: the first answer to a fact wins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from agent.discovery import CHANGING, NAMES, PROVIDERS, Context
from agent.discovery.precedence import FactMemory, Found
from agent.errors import ParbakeError
from agent.model import Attempt, Facts, FactValue
from agent.paths import Paths
from agent.settings import plugins
from agent.settings.models import Settings

Clock = Callable[[], float]
_NONE: Mapping[str, FactValue | None] = MappingProxyType({})
_THIS_RUN = FactMemory()


def discover(
    settings: Settings,
    paths: Paths,
    *,
    clock: Clock = time.monotonic,
    providers: Mapping[str, str] = PROVIDERS,
    notices: Mapping[str, FactValue | None] = _NONE,
    stopping: threading.Event | None = None,
    learnt: FactMemory = _THIS_RUN,
) -> Facts:
    """Everything that is known about the instance, in at most `discovery.timeout` seconds.

    `notices` is what `changes.Watcher` saw since: newer than what the platform said at boot. A provider that fails,
    hangs or answers with rubbish is recorded in `attempts` and the others are asked; what it may know is taken from `learnt`
    while it is away, before [facts]. Raises SettingsError only, for a provider that cannot be imported.
    """
    start = clock()
    timeout = float(settings.discovery.timeout)
    hard = start + timeout
    # What comes after a provider that used all of its time reads a few local files: this much is kept for it.
    soft = hard - min(0.25, timeout / 10)
    found = _Answers()
    for name in settings.discovery.providers:
        provider = plugins.load(providers, name, "provider")
        now = clock()
        allowed = max(soft - now, (hard - now) / 2)
        # It is to come back a little before it is abandoned.
        context = Context(paths, settings.discovery, time.monotonic() + allowed * 0.95, dict(found.values))
        answer, problem = _ask(provider, context, allowed)
        found.take(name, context, answer, problem, seconds_since(now, clock))
        found.judge(context.label or name, getattr(provider, "gives", None), context, problem)
    found.update(notices)
    learnt.apply(paths.root, settings, found)
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


def missing_facts_summary(facts: Facts) -> str:
    """Which providers failed, why, and what is therefore not known; "" where none did. For one line of a log."""
    failed = [f"{attempt.provider} {attempt.outcome}" for attempt in facts.attempts if attempt.outcome.startswith(_FAILED)]
    unknown = [name for name in NAMES if name not in facts.values]
    if not failed or not unknown:
        return ""
    return f"{'; '.join(failed)}; not known: {', '.join(unknown)}"


class _Answers(Found):
    """The providers' answers on their way into the facts."""

    def take(self, name: str, context: Context, answer: Mapping[str, Any], problem: str, seconds: float) -> None:
        label = context.label or name
        self.attempts.extend(list(context.attempts))
        added, refused = self.add(label, answer)
        if label.startswith("imds:"):
            added += self._replace_copies(label, answer)
        gave = f"gave {', '.join(added)}" if added else "nothing new" if answer else "nothing"
        outcome = f"{problem}; {gave}" if problem and added else problem or gave
        if refused:
            outcome += "; " + "; ".join(refused)
        self.attempts.append(Attempt(label, outcome, seconds))

    def _replace_copies(self, label: str, answer: Mapping[str, Any]) -> list[str]:
        """Take what changes from the platform, over cloud-init's copy of it: with that one, each new process would begin
        with the tags of the boot, and flip to the current ones at its first look."""
        replaced = []
        for key in CHANGING:
            if key in answer and self.providers.get(key) == "cloud-init":
                added, refused = self.add(label, {key: answer[key]}, override=True)
                replaced += added
                if not added and not refused:
                    self.forget(key)
        return replaced

    def judge(self, label: str, gives: tuple[str, ...] | None, context: Context, problem: str) -> None:
        """Remember who failed, and so left open what it may know. A platform that has answered settles what cloud-init, which
        only has it from there, could not say."""
        if problem or any(attempt.outcome.startswith(_FAILED) for attempt in context.attempts):
            self.failed[label] = gives
        elif label.startswith("imds:"):
            self.failed.pop("cloud-init", None)

    def update(self, notices: Mapping[str, FactValue | None]) -> None:
        """Replace what the platform said, and what nobody did; what another provider said stays."""
        self.noticed = frozenset(notices)
        for name, value in notices.items():
            label = self.providers.get(name, "imds")
            if label != "cloud-init" and not label.startswith("imds"):
                continue
            if value is None:
                self.forget(name)
            else:
                self.add(label, {name: value}, override=True)


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
            answers.append((dict(context.partial), f"failed: {error.message}"))
        except Exception as error:  # noqa: BLE001 - a third party's bug must not keep an instance from booting
            answers.append((dict(context.partial), f"failed: {type(error).__name__} in the provider: {str(error)[:200]!a}"))

    # In a thread, because a file on a dead mount or a third party's provider can block for ever.
    thread = threading.Thread(target=ask, name="discover", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (dict(context.partial), f"did not come back within {seconds:.2g} s")
