"""Asks the providers in order, within one deadline. The first answer to a fact wins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from agent.discovery import CHANGING_FACTS, FACT_NAMES, PROVIDERS, Context, Provider, ProviderName, RawFacts
from agent.discovery.precedence import FactCollector, FactMemory
from agent.errors import ParbakeError
from agent.model import Attempt, Facts, FactValue
from agent.paths import Paths
from agent.settings import plugins
from agent.settings.models import Settings

Clock = Callable[[], float]
_NO_NOTICES: Mapping[str, FactValue | None] = MappingProxyType({})
_PROCESS_MEMORY = FactMemory()
_RESERVE_SECONDS = 0.25
"""Time kept for the providers after one that uses all of its time: they read a few local files."""
_STOP_CHECK_SECONDS = 0.1
_FAILURES = ("failed: ", "did not return")
"""The possible prefixes of the outcome of a failed attempt."""


def discover(
    settings: Settings,
    paths: Paths,
    *,
    clock: Clock = time.monotonic,
    providers: Mapping[str, str] = PROVIDERS,
    notices: Mapping[str, FactValue | None] = _NO_NOTICES,
    memory: FactMemory = _PROCESS_MEMORY,
    stopping: threading.Event | None = None,
) -> Facts:
    """Return the facts about the instance, in at most `discovery.timeout` seconds, sooner once `stopping` is set.

    `notices` are the changes that `watcher.Watcher` saw: they are newer than the facts of the boot. A provider that fails,
    hangs or returns an invalid answer is recorded in `attempts`, and the next provider is asked. Meanwhile the facts that
    it can give are taken from `memory`, in preference to [facts]. A stopped discovery returns the facts so far, and counts
    the providers that were not asked as failed.

    Raises SettingsError for a provider that cannot be imported, and nothing else.
    """
    stopping = stopping or threading.Event()
    start = clock()
    timeout = float(settings.discovery.timeout)
    deadline = start + timeout
    early_deadline = deadline - min(_RESERVE_SECONDS, timeout / 10)
    answers = _Answers()
    for name in settings.discovery.providers:
        provider: type[Provider] = plugins.load(providers, name, "provider")
        now = clock()
        seconds = max(early_deadline - now, (deadline - now) / 2)
        # The provider's deadline comes a little before the moment at which its thread is abandoned.
        provider_deadline = time.monotonic() + seconds * 0.95
        context = Context(paths, settings.discovery, provider_deadline, dict(answers.values), stopping=stopping)
        answer, problem = _ask(provider, context, seconds)
        answers.take(name, provider, context, answer, problem, seconds_since(now, clock))
    answers.apply_notices(notices)
    memory.apply(paths.root, settings, answers)
    return Facts(answers.values, answers.providers, seconds_since(start, clock), tuple(answers.attempts))


def seconds_since(start: float, clock: Clock) -> float:
    """Return the seconds between `start` and now, never below zero."""
    return round(max(0.0, clock() - start), 6)


def providers_summary(facts: Facts) -> str:
    """Return each provider that was asked once, with its failure or else its outcome: for the error about an unknown fact.

    `parbake facts -v` shows every attempt.
    """
    outcomes: dict[str, str] = {}
    for attempt in facts.attempts:
        if not outcomes.get(attempt.provider, "").startswith(_FAILURES):
            outcomes[attempt.provider] = attempt.outcome
    if any(provider.startswith(f"{ProviderName.IMDS}:") for provider in outcomes):
        outcomes.pop(ProviderName.IMDS, None)
    return "; ".join(f"{provider}: {outcome}" for provider, outcome in outcomes.items()) or "no provider"


def missing_facts_summary(facts: Facts) -> str:
    """Return the failed providers with their reasons, and the unknown facts, in one line. "" if either is empty."""
    failed = [f"{attempt.provider} {attempt.outcome}" for attempt in facts.attempts if attempt.outcome.startswith(_FAILURES)]
    unknown = [name for name in FACT_NAMES if name not in facts.values]
    if not failed or not unknown:
        return ""
    return f"{'; '.join(failed)}; not known: {', '.join(unknown)}"


class _Answers(FactCollector):
    """The answers of the providers, added in the order in which the providers are asked."""

    def take(
        self, name: str, provider: type[Provider], context: Context, answer: RawFacts, problem: str, seconds: float
    ) -> None:
        """Add an answer. An exception here, such as from a value that cannot be compared, counts as the provider's failure."""
        try:
            label = str(context.label or name)
            attempts = [attempt for attempt in context.attempts if isinstance(attempt, Attempt)]
            failed = bool(problem) or any(attempt.outcome.startswith(_FAILURES) for attempt in attempts)
            self.attempts.extend(attempts)
            self._record_failure(label, _given_facts(provider), failed)
            self._add_answer(label, answer, problem, seconds)
        except Exception as error:  # noqa: BLE001 - see above
            self.attempts.append(Attempt(name, _unexpected(error), seconds))
            self.failed[name] = None

    def apply_notices(self, notices: Mapping[str, FactValue | None]) -> None:
        """Replace facts that the platform gave, and add new ones. A fact that another provider gave stays."""
        self.noticed = frozenset(notices)
        for name, value in notices.items():
            label = self.providers.get(name, ProviderName.IMDS)
            if label != ProviderName.CLOUD_INIT and not label.startswith(ProviderName.IMDS):
                continue
            if value is None:
                self.forget(name)
            else:
                self.add(label, {name: value}, override=True)

    def _record_failure(self, label: str, gives: frozenset[str] | None, failed: bool) -> None:
        if failed:
            self.failed[label] = gives
        elif label.startswith(f"{ProviderName.IMDS}:"):
            # cloud-init's facts come from the platform, so the platform's answer makes up for cloud-init's failure.
            self.failed.pop(ProviderName.CLOUD_INIT, None)

    def _add_answer(self, label: str, answer: RawFacts, problem: str, seconds: float) -> None:
        added, refused = self.add(label, answer)
        if label.startswith(f"{ProviderName.IMDS}:"):
            added += self._replace_copies(label, answer)
        gave = f"gave {', '.join(added)}" if added else "nothing new" if answer else "nothing"
        outcome = f"{problem}; {gave}" if problem and added else problem or gave
        self.attempts.append(Attempt(label, "; ".join([outcome, *refused]), seconds))

    def _replace_copies(self, label: str, answer: RawFacts) -> list[str]:
        """Take changing facts from the platform instead of cloud-init's copies. Returns the names of the facts added.

        Otherwise each new process would start with the tags of the boot, and change to the current tags at its first poll.
        """
        replaced = []
        for name in CHANGING_FACTS:
            if name in answer and self.providers.get(name) == ProviderName.CLOUD_INIT:
                added, refused = self.add(label, {name: answer[name]}, override=True)
                replaced += added
                if not added and not refused:
                    self.forget(name)
        return replaced


def _ask(provider: type[Provider], context: Context, seconds: float) -> tuple[RawFacts, str]:
    """Return a provider's facts, and its problem or ""."""
    if context.stopping.is_set():
        return {}, "failed: discovery was stopped before this provider was asked"
    answers: list[tuple[RawFacts, str]] = []

    def ask() -> None:
        try:
            answer = provider().discover(context)
            if isinstance(answer, Mapping):
                answers.append((dict(answer), ""))
            else:
                answers.append((_partial(context), f"failed: answered with a {type(answer).__name__}, expected a table"))
        except ParbakeError as error:
            answers.append((_partial(context), f"failed: {error.message}"))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a third party's bug must not keep an instance from booting
            answers.append((_partial(context), _unexpected(error)))

    # In a thread, because a file on a dead mount or a third party's provider can block forever.
    thread = threading.Thread(target=ask, name="discover", daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and not context.stopping.is_set() and (left := deadline - time.monotonic()) > 0:
        thread.join(min(left, _STOP_CHECK_SECONDS))
    if answers:
        return answers[0]
    limit = "before discovery was stopped" if context.stopping.is_set() else f"within {seconds:.2g} s"
    return _partial(context), f"did not return {limit}"


def _partial(context: Context) -> RawFacts:
    return dict(context.partial) if isinstance(context.partial, Mapping) else {}


def _given_facts(provider: type[Provider]) -> frozenset[str] | None:
    """Return the facts that a provider can give, None for any."""
    gives: object = getattr(provider, "gives", None)
    return frozenset(map(str, gives)) if isinstance(gives, Iterable) and not isinstance(gives, str) else None


def _unexpected(error: BaseException) -> str:
    """Return the type and location of an unexpected error, and log its stack. The text of the error may quote a value."""
    import logging  # both cost milliseconds that most boots need not pay
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    stack = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    logging.getLogger("parbake.discovery").debug("a provider raised %s:%s", type(error).__name__, stack)
    location = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
    return f"failed: {type(error).__name__} in the provider, at {location}"
