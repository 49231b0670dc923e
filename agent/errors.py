"""The errors that reach users, as one tree. A message never holds a secret or a credential.

    ParbakeError
    ├── UsageError                 64  wrong command line
    ├── SettingsError              78  invalid settings; lists all problems
    ├── DataError                  65  wrong data; nothing was replaced
    │   ├── MergeError                 a key is a table in one layer and a value in another; lists all problems
    │   ├── ContractError              run config breaks the contract; lists all problems
    │   ├── RenderError                a template failed; lists all problems
    │   └── CheckError                 a check of a template or group rejected the candidate
    ├── DiscoveryError             69  a fact that a layer needs is missing or unusable
    ├── SourceError                69  a source returned no run config
    │   ├── SourceUnreachable          no connection, time-out, 429, 5xx; retried
    │   ├── SourceDenied               401, 403, a bad token
    │   ├── SourceMissing              no layer of a required source exists
    │   └── SourceInvalid              an answer that is not run config
    ├── ApplyError                 74  a target could not be written
    │   └── UnhealthyAfterApply        the new targets of a group are in place, and it failed its verification
    │       └── RolledBack             the earlier targets of the group are restored
    ├── StateError                 74  the state directory cannot be used
    ├── BusyError                  75  another parbake holds the lock, and --no-wait was given
    ├── StopRequested              75  SIGTERM or SIGINT came before anything was replaced
    └── SinkError                  74  logs could not be shipped
        ├── SinkUnavailable            no connection, time-out, 429, 5xx; retried
        ├── SinkDenied                 401, 403; retried
        └── SinkRefused                the sink will never accept this batch

The numbers are exit codes, see INTERFACE section 6. Any other exception that ends a command is a bug: exit 70. Exceptions of
libraries become one of these in one place for each family: `agent.net.http_client` for requests, each plug-in for its library.
"""

from __future__ import annotations

from collections.abc import Iterable


class ParbakeError(Exception):
    """`message` states what failed and where, `hint` what to do next."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class _Problems(ParbakeError):
    """An error that lists all problems of a run, so that one round of repairs is enough."""

    def __init__(self, message: str, problems: Iterable[str] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {problem}" for problem in self.problems)])


class _Unavailable(ParbakeError):
    """A peer that does not answer now. `retry_after_seconds` is the least delay before the next request, or None."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class UsageError(ParbakeError):
    exit_code = 64


class SettingsError(_Problems):
    exit_code = 78


class DataError(ParbakeError):
    exit_code = 65


class MergeError(_Problems, DataError):
    pass


class ContractError(_Problems, DataError):
    pass


class RenderError(_Problems, DataError):
    pass


class CheckError(DataError):
    pass


class DiscoveryError(ParbakeError):
    exit_code = 69


class SourceError(ParbakeError):
    exit_code = 69


class SourceUnreachable(_Unavailable, SourceError):
    pass


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


class StateError(ParbakeError):
    exit_code = 74


class BusyError(ParbakeError):
    exit_code = 75


class StopRequested(ParbakeError):
    exit_code = 75


class SinkError(ParbakeError):
    exit_code = 74


class SinkUnavailable(_Unavailable, SinkError):
    pass


class SinkDenied(SinkError):
    pass


class SinkRefused(SinkError):
    pass
