"""Every error that parbake tells a user about.

    ParbakeError
    ├── UsageError                 64  the command line
    ├── SettingsError              78  the settings; carries every problem found
    ├── DataError                  65  the data is wrong, nothing was replaced
    │   ├── MergeError                 a key is a table in one layer and a value in another
    │   ├── ContractError              run config breaks the contract; carries every problem
    │   ├── RenderError                a template failed
    │   └── CheckError                 a template's or group's check refused the candidate
    ├── DiscoveryError             69  a fact is missing that a layer needs, or is not usable
    ├── SourceError                69  a source gave no run config
    │   ├── SourceUnreachable          no connection, time-out, 429, 5xx: tried again
    │   ├── SourceDenied               401, 403, a bad token
    │   ├── SourceMissing              no layer of a required source exists
    │   └── SourceInvalid              an answer that is no run config
    ├── ApplyError                 74  a target could not be written
    │   └── NotUp                      a group's new targets are in place, and did not hold
    │       └── RolledBack             and its earlier ones are back
    ├── UnitError                  74  a unit did not come up
    ├── StateError                 74  parbake's own state directory cannot be used
    ├── BusyError                  75  another parbake holds the lock and --no-wait was given
    ├── StopRequested              75  SIGTERM or SIGINT came before anything was replaced
    └── SinkError                  74  logs could not be shipped
        ├── SinkUnavailable            no connection, time-out, 429, 5xx: tried again
        ├── SinkDenied                 401, 403
        └── SinkRefused                the sink will never take this batch as it is

Only `agent.cli.main` and `agent.daemon.loop` catch `ParbakeError`. Anything else that reaches them is a bug: exit 70.
Foreign exceptions become one of these in one place a family: `agent.net.http_client` for requests, each plugin for its library.
"""

from __future__ import annotations

from collections.abc import Iterable


class ParbakeError(Exception):
    """What failed and where, for an operator; `hint` is what to do next. Never holds a secret or a credential."""

    exit_code = 70
    retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class _Problems(ParbakeError):
    """An error that is a list: every problem found in one run, so that one repair round is enough."""

    def __init__(self, message: str, problems: Iterable[str] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {problem}" for problem in self.problems)])


class UsageError(ParbakeError):
    exit_code = 64


class SettingsError(_Problems):
    exit_code = 78


class DataError(ParbakeError):
    exit_code = 65


class MergeError(_Problems, DataError):
    exit_code = 65


class ContractError(_Problems, DataError):
    exit_code = 65


class RenderError(_Problems, DataError):
    exit_code = 65


class CheckError(DataError):
    pass


class DiscoveryError(ParbakeError):
    exit_code = 69


class SourceError(ParbakeError):
    exit_code = 69


class SourceUnreachable(SourceError):
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class SourceDenied(SourceError):
    pass


class SourceMissing(SourceError):
    pass


class SourceInvalid(SourceError):
    pass


class ApplyError(ParbakeError):
    exit_code = 74


class UnhealthyAfterApply(ApplyError):
    pass


class RolledBack(UnhealthyAfterApply):
    pass


class UnitError(ParbakeError):
    exit_code = 74


class StateError(ParbakeError):
    exit_code = 74


class BusyError(ParbakeError):
    exit_code = 75


class StopRequested(ParbakeError):
    exit_code = 75


class SinkError(ParbakeError):
    exit_code = 74


class SinkUnavailable(SinkError):
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class SinkDenied(SinkError):
    retryable = True


class SinkRefused(SinkError):
    pass
