"""The numbers that the stages of a run share: prompts, answers, pairs, tokens, and its models' bytes."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rlaifv_kedro.params import Parameters
from rlaifv_kedro.preflight.assumptions import Assumptions
from rlaifv_kedro.preflight.sizes import QUESTION_TOKENS, ModelSize, checkpoint_disk, run_disk, staying
from rlaifv_kedro.preflight.work import Work
from rlaifv_kedro.prompts import PromptFile


@dataclass(frozen=True)
class Tables:
    """Rows of the tables that a run reads; the mean bytes of an image in the pool, 0 where it names files."""

    selection: int
    test: int
    probes: int
    image_bytes: float


@dataclass(frozen=True, eq=False)
class Counts:
    """What an iteration works on.

    Attributes:
        sizes: Of the models, by role.
        written: The artifacts that the run writes, without namespaces.
    """

    parameters: Parameters
    assumed: Assumptions
    tables: Tables
    sizes: Mapping[str, ModelSize]
    written: Collection[str]

    @property
    def prompts(self) -> int:
        """Prompts an iteration."""
        return self.parameters.data_generation.prompts

    @property
    def candidates(self) -> int:
        """Answers a prompt."""
        return self.parameters.data_generation.candidates

    @property
    def answers(self) -> int:
        """Answers an iteration."""
        return self.prompts * self.candidates

    @property
    def answer_tokens(self) -> float:
        """Tokens of an answer."""
        return min(self.assumed.answer_tokens, self.parameters.data_generation.max_new_tokens)

    @property
    def pairs(self) -> int:
        """Preference pairs an iteration."""
        most = self.parameters.feedback.pairs_per_prompt
        assumed = self.assumed.pairs_per_prompt
        return round(self.prompts * (most if assumed is None else min(assumed, most)))

    def distinct(self) -> tuple[int, int]:
        """Prompts with pairs, and distinct answers in these.

        There are at most two answers a pair, and not more than candidates.
        """
        prompts = min(self.prompts, self.pairs)
        return prompts, min(2 * self.pairs, prompts * self.candidates)

    @property
    def steps(self) -> int:
        """Optimiser steps of the training."""
        return self.parameters.training.steps(self.pairs)

    @property
    def checkpoints(self) -> int:
        """Checkpoints that the training writes."""
        return math.ceil(self.steps / self.parameters.training.save_steps(self.pairs))

    def prefix(self, role: str) -> int:
        """Tokens of an image and its question."""
        return self.sizes[role].prefix() if role in self.sizes else QUESTION_TOKENS

    def labeler(self) -> str:
        """The role that checks claims."""
        return "policy" if self.parameters.feedback.labeler == "self" else "labeler"

    def words(self, prompt: str | Path) -> float:
        """Tokens of a file with a prompt."""
        return self.assumed.tokens_per_word * len(PromptFile.read(prompt, []).text.split())

    @cached_property
    def checkpoint_bytes(self) -> tuple[int, int]:
        """Bytes of a checkpoint that stays, and of what lies beside it to resume from."""
        policy = self.sizes.get("policy")
        if policy is None:
            return 0, 0
        return checkpoint_disk(policy, self.parameters.training, self.parameters.compute.dtype)

    def staying(self) -> int:
        """How many checkpoints of an iteration are left when the next one begins."""
        return staying(self.checkpoints, self.parameters, self.written)

    def weights(self, role: str) -> int:
        """Bytes of a model's files: 2 a parameter.

        A policy that has learnt is in float32 (``checkpoint_disk``), with adapters merged too.
        """
        size = self.sizes.get(role)
        if size is None:
            return 0
        if role == "policy" and self.parameters.training.lora is None:
            return self.checkpoint_bytes[0]
        return 2 * size.parameters

    def loading(self, work: Work, times: int = 1) -> Work:
        """The work with the reading of its model's files."""
        return replace(work, moved=work.moved + times * self.weights(work.role))

    def disk(self, kinds: Collection[str], iterations: int = 1) -> dict[str, float]:
        """Bytes of these of the artifacts that the run writes, by kind."""
        written = self.written & set(kinds)
        sizes = run_disk(
            self.parameters, self.sizes.get("policy"), self.tables.image_bytes, iterations, written
        )
        return {kind: size for kind, size in sizes.items() if size}


def batches_of(items: int, chunk: int, batch: int) -> int:
    """Forward passes for so many items in chunks: the last batch of a chunk may be smaller."""
    whole, rest = divmod(items, chunk)
    return whole * math.ceil(chunk / batch) + math.ceil(rest / batch)
