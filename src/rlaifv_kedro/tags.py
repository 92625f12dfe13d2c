"""What nodes say of themselves by their tags: which model they ask, and which task they have.

A tag stands beside its node in ``pipelines/<stage>/pipeline.py``. The check before a run and the dry run read
tags and know no node by its name; ``kedro run --tags task.training`` and Kedro-Viz can choose by them too.
"""

from enum import StrEnum


class Role(StrEnum):
    """Which of the models under ``models`` a node asks."""

    POLICY = "role.policy"
    LABELER = "role.labeler"
    SPLITTER = "role.splitter"
    JUDGE = "role.judge"


class Task(StrEnum):
    """What a node does, where the check or the dry run has to know it."""

    SAMPLING = "task.sampling"
    DIVIDING = "task.dividing"
    LABELING = "task.labeling"
    SCORING = "task.scoring"
    """The labeler's log-probs of whole answers."""
    REWARDING = "task.rewarding"
    REFERENCE = "task.reference"
    TRAINING = "task.training"
    SELECTING = "task.selecting"
    """Every checkpoint answers, so that one can be chosen."""
    TIDYING = "task.tidying"
    """It alters its first input, and is done again where that is made again."""
    ANSWERING = "task.answering"
    """A policy answers the test prompts."""
    PROBING = "task.probing"
    """A policy answers yes/no questions whose answers are known."""
    BENCHMARK_ANSWERS = "task.benchmark-answers"
    BENCHMARK_JUDGING = "task.benchmark-judging"
    BENCHMARK_SCORING = "task.benchmark-scoring"
