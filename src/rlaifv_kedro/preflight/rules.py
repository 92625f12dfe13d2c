"""All rules about a run, in the order in which a person puts right what they find.

A rule is a function that takes a :class:`rlaifv_kedro.preflight.setup.RunSetup`, decides whether it applies,
and gives its findings. The check asks all of them; every run asks those of :data:`AT_START` before its first
node; the dry run repeats what they say of the numbers it shows.
"""

from collections.abc import Callable, Iterable

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params.current import current
from rlaifv_kedro.preflight import (
    benchmark_rules,
    engine_rules,
    feedback_rules,
    model_rules,
    serving_rules,
    table_rules,
    token_rules,
    training_rules,
)
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.resources import memory_suffices
from rlaifv_kedro.preflight.setup import RunSetup

Rule = Callable[[RunSetup], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
    *training_rules.RULES,
    *feedback_rules.RULES,
    table_rules.inputs_can_be_used,
    table_rules.truth_is_about_the_prompts,
    table_rules.prompts_suffice,
    *model_rules.RULES,
    *serving_rules.RULES,
    *engine_rules.RULES,
    *token_rules.RULES,
    *benchmark_rules.RULES,
)
"""Asked by the check, and again by the run."""

AT_START: tuple[Rule, ...] = (
    model_rules.hub_models_are_fetched,
    *RULES,
    model_rules.servers_are_named,
    model_rules.gpu_is_there,
)
"""Asked by every run before its first node. They load no weights and ask no server; that inputs are there and
outputs have versions is said where the run's versions are chosen (``rlaifv_kedro.runs.versions``).
"""

CHECKED: tuple[Rule, ...] = (
    *RULES,
    table_rules.nothing_is_overwritten,
    model_rules.servers_answer,
    model_rules.device_is_known,
    memory_suffices,
)
"""Asked by the check."""


def findings_of(rules: Iterable[Rule], setup: RunSetup) -> list[Finding]:
    """What the rules find, also what is as it should be."""
    return [finding for rule in rules for finding in rule(setup)]


def before_run(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Look, before the first node, for everything that would stop the run and can be known now.

    Args:
        pipeline: The nodes that will run.
        catalog: With the versions that the run takes.

    Raises:
        UserError: Something would stop the run; the message lists all of it.
    """
    setup = RunSetup(current().parameters, pipeline, catalog, starting=True)
    wrong = [finding for finding in findings_of(AT_START, setup) if not finding.ok]
    if wrong:
        listed = "\n".join(f"  - {finding.line()}" for finding in dict.fromkeys(wrong))
        raise UserError(f"the run was not started, for it would not get to its end:\n{listed}")
