"""How often each stage of an iteration calls which model, with how many tokens, and what it leaves on the
disk.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rlaifv_kedro.claims.llm_splitter import DIVIDE, TO_QUESTIONS
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.preflight.assumptions import Assumptions
from rlaifv_kedro.preflight.sizes import QUESTION_TOKENS, ModelSize, checkpoint_disk, run_disk, staying
from rlaifv_kedro.preflight.work import Schedule, Work, packed, sampled

HEADING_TOKENS = 8
"""Of a splitter's reply: its heading and the end of the turn."""

TEMPLATE_TOKENS = 15
"""That a chat template adds to a splitter's prompt."""


@dataclass(frozen=True)
class Tables:
    """Rows of the tables that a run reads; the mean bytes of an image in the pool, 0 where it names files."""

    pool: int | None
    selection: int
    test: int
    probes: int
    image_bytes: float


@dataclass(frozen=True)
class Stage:
    """One stage once.

    Attributes:
        name: Of its node.
        calls: What it counts, and how many.
        works: What its models compute.
        disk: Bytes that stay until the end of the run, by kind.
    """

    name: str
    calls: dict[str, float]
    works: tuple[Work, ...]
    disk: dict[str, float]


class Stages:
    """The stages of a run in numbers.

    Args:
        sizes: Of the models, by role.
        there: Names of the run's nodes' functions.
    """

    def __init__(
        self,
        parameters: Parameters,
        assumed: Assumptions,
        tables: Tables,
        sizes: Mapping[str, ModelSize],
        there: set[str],
    ):
        self.parameters, self.assumed, self.tables, self.sizes, self.there = (
            parameters,
            assumed,
            tables,
            sizes,
            there,
        )
        generation, training = parameters.data_generation, parameters.training
        self.prompts = generation.prompts
        self.answers = generation.prompts * generation.candidates
        self.answer_tokens = min(assumed.answer_tokens, generation.max_new_tokens)
        most = parameters.feedback.pairs_per_prompt
        self.pairs = round(
            generation.prompts
            * (most if assumed.pairs_per_prompt is None else min(assumed.pairs_per_prompt, most))
        )
        self.schedule = Schedule.of(self.pairs, training)
        policy = sizes.get("policy")
        self.prefix = policy.prefix() if policy else QUESTION_TOKENS
        dtype = parameters.compute.dtype
        self.checkpoint, self.optimizer = checkpoint_disk(policy, training, dtype) if policy else (0, 0)

    def iteration(self, first: bool) -> list[Stage]:
        """The stages of an iteration; in the first one, the policy it starts from is the base policy,
        which is measured once.
        """
        makers: dict[str, Callable[[], Stage]] = {
            "sample_candidates": self._sample_candidates,
            "divide": self._divide,
            "verify_claims": self._verify_claims,
            "score": self._score_answers,
            "compute_rewards": self._compute_rewards,
            "compute_reference": self._compute_reference,
            "train_policy": self._train_policy,
            "measure_checkpoints": lambda: self._measure_checkpoints(1 if first else 2),
            "answer_prompts": self._answer_test,
            "sample_answers": self._answer_test,
        }
        skipped = set() if self.parameters.feedback.scoring == "answer" else {"score"}
        if "sample_answers" in self.there and "score_rewards" not in self.there:
            skipped.add("compute_rewards")  # of the test answers only
        return [make() for name, make in makers.items() if name in self.there - skipped]

    def base(self) -> list[Stage]:
        """What is done once a loop: the base policy measured like those of the iterations."""
        return [self._answer_test()]

    def _sample_candidates(self) -> Stage:
        generation = self.parameters.data_generation
        batches = batches_of(self.prompts, generation.chunk_size, generation.batch_size)
        longest = min(self.assumed.longest * self.answer_tokens, generation.max_new_tokens)
        work = sampled(
            "policy",
            self.prompts,
            self.prefix,
            generation.candidates,
            self.answer_tokens,
            batches=batches,
            longest=longest,
        )
        calls = {"prompts": self.prompts, "candidates": self.answers}
        kinds = (
            {"draw_prompts"} if "verify_claims" in self.there else {"draw_prompts", "sample_candidates"}
        )  # answers and verdicts are one kind
        return self._stage("sample_candidates", calls, [self._loading(work)], kinds)

    def _divide(self) -> Stage:
        """Both replies to each answer; what is asked for again isn't counted, nor that equal answers are
        asked for once.
        """
        feedback, assumed = self.parameters.feedback, self.assumed
        if feedback.splitter != "llm":
            return Stage("divide", {"answers by rule": self.answers}, (), {})
        listed = assumed.claims * assumed.claim_tokens
        reply = min(listed + HEADING_TOKENS, feedback.splitter_max_new_tokens)
        candidates = self.parameters.data_generation.candidates
        batches = batches_of(self.answers, feedback.chunk_size * candidates, feedback.splitter_batch_size)
        longest = min(assumed.longest * reply, feedback.splitter_max_new_tokens)
        roles = ("splitter", "question_writer" if self.parameters.models.question_writer else "splitter")
        asked = (
            self._words(feedback.divide_prompt or DIVIDE) + QUESTION_TOKENS / 2 + self.answer_tokens,
            self._words(feedback.question_prompt or TO_QUESTIONS) + listed,
        )
        works = [
            sampled(
                role,
                self.answers,
                tokens + TEMPLATE_TOKENS,
                1,
                reply,
                batches=batches,
                longest=longest,
                images=False,
            )
            for role, tokens in zip(roles, asked)
        ]
        loaded = [
            self._loading(work) if k == 0 or roles[0] != roles[1] else work for k, work in enumerate(works)
        ]
        return self._stage("divide", {"replies": 2 * self.answers}, loaded, set())

    def _verify_claims(self) -> Stage:
        role = self._labeler()
        questions = self.parameters.data_generation.candidates * self.assumed.claims
        prefix = self.sizes[role].prefix() if role in self.sizes else QUESTION_TOKENS
        work = packed(role, self.prompts, prefix, questions, self.assumed.question_tokens, all_logits=False)
        calls = {"images": self.prompts, "yes/no questions": round(self.prompts * questions)}
        return self._stage("verify_claims", calls, [self._loading(work)], {"verify_claims", "build_pairs"})

    def _score_answers(self) -> Stage:
        role = self._labeler()
        prefix = self.sizes[role].prefix() if role in self.sizes else QUESTION_TOKENS
        work = packed(
            role, self.prompts, prefix, self.parameters.data_generation.candidates, self.answer_tokens
        )
        return self._stage(
            "score_candidates",
            {"prompts": self.prompts, "answers": self.answers},
            [self._loading(work)],
            set(),
        )

    def _compute_rewards(self) -> Stage:
        """By the aligned policy, and by its reference."""
        work = self._loading(
            packed(
                "policy",
                self.prompts,
                self.prefix,
                self.parameters.data_generation.candidates,
                self.answer_tokens,
            )
        )
        return self._stage(
            "compute_rewards",
            {"prompts": self.prompts, "answers": self.answers},
            [work, work],
            {"build_pairs"},
        )

    def _compute_reference(self) -> Stage:
        prompts, answers = self._distinct()
        work = packed("policy", prompts, self.prefix, answers / prompts, self.answer_tokens)
        # Its files are read to load it, and once more for their fingerprint.
        return self._stage(
            "compute_reference",
            {"pairs": self.pairs, "answers": answers},
            [self._loading(work, times=2)],
            {"gather_pairs"},
        )

    def _train_policy(self) -> Stage:
        training = self.parameters.training
        seen = training.epochs * self.pairs
        prompts, answers = self._distinct()
        packs, branches = (
            (seen, 2.0) if training.pack == "pair" else (training.epochs * prompts, answers / prompts)
        )
        work = packed("policy", packs, self.prefix, branches, self.answer_tokens)
        apart = 2 * seen * (self.prefix + self.answer_tokens)
        saved = self.schedule.checkpoints * (self.checkpoint + self.optimizer)
        trained = replace(work, apart=apart, trained=True, moved=2 * self._weights("policy") + saved)
        calls = {"pairs": self.pairs, "steps": self.schedule.steps, "checkpoints": self.schedule.checkpoints}
        kept = staying(self.schedule.checkpoints, self.parameters, self.there)
        written = self.disk({"train_policy", "select_checkpoint"} & self.there, 1)
        return Stage(
            "train_policy",
            calls,
            (trained,),
            {"checkpoints": kept * self.checkpoint, "policies": written.get("merged policies", 0)},
        )

    def _measure_checkpoints(self, others: int) -> Stage:
        """Every checkpoint, and the policies that they are compared with."""
        policies = self.schedule.checkpoints + others
        prompts = (
            self.tables.selection if self.parameters.evaluation.select_on == "selection" else self.tables.test
        )
        work = self._answered(prompts, policies)
        calls = {"policies": policies, "answers": policies * prompts}
        return self._stage("measure_checkpoints", calls, [work], set())

    def _answer_test(self) -> Stage:
        samples = self.parameters.evaluation.best_of
        works, calls = (
            [self._answered(self.tables.test, 1, samples)],
            {"test answers": self.tables.test * samples},
        )
        if samples > 1:  # their rewards, by the policy and its reference
            rewarded = packed("policy", self.tables.test, self.prefix, samples, self.answer_tokens)
            works += [self._loading(rewarded)] * 2
        if "answer_probes" in self.there:
            probes = self.tables.probes
            work = packed(
                "policy",
                self.tables.test,
                self.prefix,
                probes / self.tables.test,
                self.assumed.question_tokens,
                all_logits=False,
            )
            works.append(self._loading(work))
            calls["probes"] = probes
        return self._stage("answer_test_prompts", calls, works, set())

    def _answered(self, prompts: int, policies: int, samples: int = 1) -> Work:
        """Answers of some policies; a batch counts sequences."""
        params, assumed = self.parameters.evaluation, self.assumed
        tokens = min(assumed.answer_tokens, params.max_new_tokens)
        longest = min(assumed.longest * tokens, params.max_new_tokens)
        batches = policies * math.ceil(prompts * samples / params.batch_size)
        work = sampled(
            "policy", policies * prompts, self.prefix, samples, tokens, batches=batches, longest=longest
        )
        return self._loading(work, times=policies)

    def _distinct(self) -> tuple[int, int]:
        """Prompts with pairs, and distinct answers in these: at most two a pair, and not more than there
        are candidates.
        """
        prompts = min(self.prompts, self.pairs)
        return prompts, min(2 * self.pairs, prompts * self.parameters.data_generation.candidates)

    def _labeler(self) -> str:
        return "policy" if self.parameters.feedback.labeler == "self" else "labeler"

    def _words(self, prompt: str | Path) -> float:
        return self.assumed.tokens_per_word * len(Path(prompt).read_text(encoding="utf-8").split())

    def _loading(self, work: Work, times: int = 1) -> Work:
        return replace(work, moved=work.moved + times * self._weights(work.role))

    def _weights(self, role: str) -> int:
        """Bytes of a model's files: 2 a parameter. A policy that has learnt is in float32
        (``checkpoint_disk``), with adapters merged too.
        """
        size = self.sizes.get(role)
        if size is None:
            return 0
        return (
            self.checkpoint
            if role == "policy" and self.parameters.training.lora is None
            else 2 * size.parameters
        )

    def _stage(self, name: str, calls: dict[str, float], works: list[Work], kinds: set[str]) -> Stage:
        return Stage(name, calls, tuple(works), self.disk(kinds & self.there, 1))

    def disk(self, functions: set[str], iterations: int) -> dict[str, float]:
        """What these of the run's nodes write, by kind."""
        sizes = run_disk(
            self.parameters, self.sizes.get("policy"), self.tables.image_bytes, iterations, functions
        )
        return {kind: size for kind, size in sizes.items() if size}


def batches_of(items: int, chunk: int, batch: int) -> int:
    """Forward passes for so many items in chunks: the last batch of a chunk may be smaller."""
    whole, rest = divmod(items, chunk)
    return whole * math.ceil(chunk / batch) + math.ceil(rest / batch)
