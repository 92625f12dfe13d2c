"""What nodes say of themselves by their tags: which model they ask, and which work they do.

A tag stands beside its node in ``pipelines/<stage>/pipeline.py``. The check before a run and the dry run read
tags and know no node by its name; ``kedro run --tags work.training`` and Kedro-Viz can choose by them too.
"""

from enum import StrEnum


class Role(StrEnum):
    """Which of the models under ``models`` a node asks."""

    POLICY = "role.policy"
    LABELER = "role.labeler"
    SPLITTER = "role.splitter"
    JUDGE = "role.judge"


class Work(StrEnum):
    """What a node does, where the check or the dry run has to know it."""

    SAMPLING = "work.sampling"
    DIVIDING = "work.dividing"
    LABELING = "work.labeling"
    SCORING = "work.scoring"
    """The labeler's log-probs of whole answers."""
    REWARDING = "work.rewarding"
    REFERENCE = "work.reference"
    TRAINING = "work.training"
    SELECTING = "work.selecting"
    """Every checkpoint answers, so that one can be chosen."""
    ANSWERING = "work.answering"
    """A policy answers the test prompts."""
    PROBING = "work.probing"
    """A policy answers yes/no questions whose answers are known."""
    BENCHMARK_ANSWERS = "work.benchmark-answers"
    BENCHMARK_JUDGING = "work.benchmark-judging"
    BENCHMARK_SCORING = "work.benchmark-scoring"
