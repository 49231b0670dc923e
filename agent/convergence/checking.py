"""The checks of templates, run on the candidates before anything is replaced.

All candidates exist before the first check, so a check may name any of them as `{candidate:NAME}`, also one of another group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.convergence.context import Runtime
from agent.convergence.staging import candidate_name
from agent.errors import CheckError
from agent.masking.masker import Masker
from agent.settings.models import OTHER_CANDIDATE, Template
from agent.system.process import ProcessResult

_OUTPUT_LINES = 20


def check_groups(
    runtime: Runtime, staged: Mapping[str, Collection[str]], secrets: Sequence[str] | None
) -> dict[str, CheckError]:
    """Run the checks and return the error of each group that is refused.

    `staged` maps a group to its templates that have a candidate. `secrets` are masked in the output (None: not known).

    A check that names a candidate of a refused group is run once more, with the target that stays in use: what is committed
    was checked as it will be. Raises StopRequested.
    """
    refused: dict[str, CheckError] = {}
    results: dict[tuple[str, ...], ProcessResult] = {}
    while True:
        candidates = {name for group, names in staged.items() if group not in refused for name in names}
        failure = _first_failure(runtime, candidates, results, secrets)
        if failure is None:
            return refused
        for group in failure.groups:
            refused[group] = failure.error


@dataclass(frozen=True, slots=True)
class _Failure:
    groups: frozenset[str]
    error: CheckError


def _first_failure(
    runtime: Runtime,
    candidates: Collection[str],
    results: dict[tuple[str, ...], ProcessResult],
    secrets: Sequence[str] | None,
) -> _Failure | None:
    """Run the checks that involve a candidate until one fails. `results` holds those that ran before, by their arguments."""
    templates = {template.name: template for template in runtime.settings.templates}
    for template in templates.values():
        named = set(_candidates_named(template)) & set(candidates)
        if not template.check or not (template.name in candidates or (named and _exists(runtime, template))):
            continue
        argv = _argv(runtime, template, templates, candidates)
        if argv not in results:
            runtime.raise_if_stopping()
            results[argv] = runtime.run(argv, template.check_timeout)
            runtime.raise_if_stopping()
        if not results[argv].ok:
            blamed = {template.name} if template.name in candidates else named
            groups = frozenset(templates[name].group_name for name in blamed)
            return _Failure(groups, _error(template, templates, candidates, results[argv], secrets))
    return None


def _exists(runtime: Runtime, template: Template) -> bool:
    """Whether the target of a template without a candidate exists. Before its first generation there is nothing to check."""
    return runtime.paths.host(template.target).is_file()


def _candidates_named(template: Template) -> list[str]:
    return [match[1] for part in template.check for match in OTHER_CANDIDATE.finditer(part)]


def _argv(
    runtime: Runtime, template: Template, templates: Mapping[str, Template], candidates: Collection[str]
) -> tuple[str, ...]:
    """Return the check with `{candidate}` and `{candidate:NAME}` filled.

    The path is that of the candidate, or that of the target if the template has no candidate.
    """

    def path_of(name: str) -> Path:
        target = runtime.paths.host(templates[name].target)
        return target.with_name(candidate_name(target.name)) if name in candidates else target

    def filled(part: str) -> str:
        part = part.replace("{candidate}", str(path_of(template.name)))
        return OTHER_CANDIDATE.sub(lambda match: str(path_of(match[1])) if match[1] in templates else match[0], part)

    return tuple(filled(part) for part in template.check)


def _error(
    template: Template,
    templates: Mapping[str, Template],
    candidates: Collection[str],
    result: ProcessResult,
    secrets: Sequence[str] | None,
) -> CheckError:
    ending = "did not finish" if result.code is None else f"exit code {result.code}"
    absent = [name for name in _candidates_named(template) if name in templates and name not in candidates]
    unchanged = f"; it was run with the present target of {', '.join(absent)}, which has no candidate" if absent else ""
    subject = "refused the new" if template.name in candidates else "does not accept the others' changes with the present"
    output = _indented(masked_output(result, secrets))
    return CheckError(
        f"template {template.name}: its check {subject} {template.target} ({ending}): "
        f"{' '.join(template.check)}\n{output}".rstrip(),
        hint=f"nothing of its group was replaced; the old file stays in use{unchanged}",
    )


def masked_output(result: ProcessResult, secrets: Sequence[str] | None) -> str:
    """Return the output of a program, fit to be shown."""
    if secrets is None:
        return "(its output is withheld: the secrets in it are not known)"
    return Masker(secrets).mask(result.output)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-_OUTPUT_LINES:])
