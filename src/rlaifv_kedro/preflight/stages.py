"""The stages of an iteration in numbers: calls of which model, their tokens, and what stays on the disk."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rlaifv_kedro.claims.llm_splitter import DIVIDE, TO_QUESTIONS
from rlaifv_kedro.preflight.counts import Counts, batches_of
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.preflight.sizes import QUESTION_TOKENS
from rlaifv_kedro.preflight.work import Work, packed, sampled
from rlaifv_kedro.tags import Task

HEADING_TOKENS = 8
"""Of a splitter's reply: its heading and the end of the turn."""

TEMPLATE_TOKENS = 15
"""That a chat template adds to a splitter's prompt."""

NOT_COUNTED = frozenset({Task.BENCHMARK_ANSWERS, Task.BENCHMARK_JUDGING})
"""Tasks of models that are not in the plan."""


@dataclass(frozen=True)
class Stage:
    """One stage once.

    Attributes:
        calls: What it counts, and how many.
        works: What its models compute.
        disk: Bytes that stay until the end of the run, by kind.
        name: Of its node.
        together: Whether all GPUs of the training work on it.
        chunks: That workers share; 0 for the training, and where no model computes.
        divided_by: The parameter that says how large they are.
        served: Whether servers may be asked; else its models are loaded.
    """

    calls: dict[str, float]
    works: tuple[Work, ...] = ()
    disk: dict[str, float] = field(default_factory=dict)
    name: str = ""
    together: bool = False
    chunks: int = 0
    divided_by: str = ""
    served: bool = False


def stages_of_iteration(setup: RunSetup, counts: Counts, first: bool) -> list[Stage]:
    """The stages of an iteration, in their order.

    Args:
        first: Whether the policy it starts from is the base policy, which is measured once.
    """
    makers: dict[Task, Callable[[], Stage]] = {
        Task.SAMPLING: lambda: _sampling(counts),
        Task.DIVIDING: lambda: _dividing(counts),
        Task.LABELING: lambda: _labeling(counts),
        Task.SCORING: lambda: _scoring(counts),
        Task.REWARDING: lambda: _rewarding(counts),
        Task.REFERENCE: lambda: _reference(counts),
        Task.TRAINING: lambda: _training(counts),
        Task.SELECTING: lambda: _selecting(counts, others=1 if first else 2),
        Task.ANSWERING: lambda: answering(counts, probing=setup.does(Task.PROBING)),
    }
    return [
        replace(make(), name=setup.node_of(task), together=task is Task.TRAINING)
        for task, make in makers.items()
        if setup.does(task)
    ]


def _sampling(counts: Counts) -> Stage:
    generation = counts.parameters.data_generation
    work = sampled(
        "policy",
        counts.prompts,
        counts.prefix("policy"),
        counts.candidates,
        counts.answer_tokens,
        batches=batches_of(counts.prompts, generation.chunk_size, generation.batch_size),
        longest=min(counts.assumed.longest * counts.answer_tokens, generation.max_new_tokens),
    )
    # Answers and verdicts are one kind, which counts where the verdicts come.
    kinds = {"prompts"} if "verdicts" in counts.written else {"prompts", "candidates"}
    calls = {"prompts": counts.prompts, "candidates": counts.answers}
    chunks = math.ceil(counts.prompts / generation.chunk_size)
    by = "data_generation.chunk_size"
    return Stage(
        calls, (counts.loading(work),), counts.disk(kinds), chunks=chunks, divided_by=by, served=True
    )


def _dividing(counts: Counts) -> Stage:
    """Both replies to each answer. What is asked for again isn't counted, nor that equal answers are asked
    for once.
    """
    feedback, assumed = counts.parameters.feedback, counts.assumed
    if feedback.splitter != "llm":
        return Stage({"answers by rule": counts.answers})
    listed = assumed.claims * assumed.claim_tokens
    reply = min(listed + HEADING_TOKENS, feedback.splitter_max_new_tokens)
    chunk = feedback.chunk_size * counts.candidates
    asked = {
        "splitter": counts.words(feedback.divide_prompt or DIVIDE)
        + QUESTION_TOKENS / 2
        + counts.answer_tokens,
        "question_writer": counts.words(feedback.question_prompt or TO_QUESTIONS) + listed,
    }
    writes_questions = counts.parameters.models.question_writer is not None
    works = []
    for step, tokens in asked.items():
        role = step if writes_questions else "splitter"
        work = sampled(
            role,
            counts.answers,
            tokens + TEMPLATE_TOKENS,
            1,
            reply,
            batches=batches_of(counts.answers, chunk, feedback.splitter_batch_size),
            longest=min(assumed.longest * reply, feedback.splitter_max_new_tokens),
        )
        known = any(work.role == role for work in works)
        without_images = replace(work, images=0)
        works.append(without_images if known else counts.loading(without_images))
    return _in_feedback_chunks(counts, Stage({"replies": 2 * counts.answers}, tuple(works)))


def _in_feedback_chunks(counts: Counts, stage: Stage, served: bool = True) -> Stage:
    chunks = math.ceil(counts.prompts / counts.parameters.feedback.chunk_size)
    return replace(stage, chunks=chunks, divided_by="feedback.chunk_size", served=served)


def _labeling(counts: Counts) -> Stage:
    role, questions = counts.labeler(), counts.candidates * counts.assumed.claims
    tokens = counts.assumed.question_tokens
    work = packed(role, counts.prompts, counts.prefix(role), questions, tokens, all_logits=False)
    calls = {"images": counts.prompts, "yes/no questions": round(counts.prompts * questions)}
    disk = counts.disk({"verdicts", "preference_pairs"})
    return _in_feedback_chunks(counts, Stage(calls, (counts.loading(work),), disk))


def _scoring(counts: Counts) -> Stage:
    """The labeler's log-probs of all answers."""
    work = _all_answers(counts, counts.labeler())
    calls = {"prompts": counts.prompts, "answers": counts.answers}
    return _in_feedback_chunks(counts, Stage(calls, (counts.loading(work),)), served=False)


def _rewarding(counts: Counts) -> Stage:
    """By the aligned policy, and by its reference."""
    work = counts.loading(_all_answers(counts, "policy"))
    calls = {"prompts": counts.prompts, "answers": counts.answers}
    chunks = math.ceil(counts.prompts / counts.parameters.reward.chunk_size)
    disk = counts.disk({"preference_pairs"})
    return Stage(calls, (work, work), disk, chunks=chunks, divided_by="reward.chunk_size")


def _all_answers(counts: Counts, role: str) -> Work:
    return packed(role, counts.prompts, counts.prefix(role), counts.candidates, counts.answer_tokens)


def _reference(counts: Counts) -> Stage:
    prompts, answers = counts.distinct()
    work = packed("policy", prompts, counts.prefix("policy"), answers / prompts, counts.answer_tokens)
    calls = {"pairs": counts.pairs, "answers": answers}
    # Its files are read to load it, and once more for their fingerprint.
    chunks = math.ceil(prompts / counts.parameters.training.chunk_size)
    disk, by = counts.disk({"training_pairs"}), "training.chunk_size"
    return Stage(calls, (counts.loading(work, times=2),), disk, chunks=chunks, divided_by=by)


def _training(counts: Counts) -> Stage:
    training = counts.parameters.training
    seen = training.epochs * counts.pairs
    prompts, answers = counts.distinct()
    packs, branches = (
        (seen, 2.0) if training.pack == "pair" else (training.epochs * prompts, answers / prompts)
    )
    prefix = counts.prefix("policy")
    work = packed("policy", packs, prefix, branches, counts.answer_tokens)
    checkpoint, beside = counts.checkpoint_bytes
    trained = replace(
        work,
        apart=2 * seen * (prefix + counts.answer_tokens),
        passes=seen / training.micro_batch(),
        moved=2 * counts.weights("policy") + counts.checkpoints * (checkpoint + beside),
    )
    calls = {"pairs": counts.pairs, "steps": counts.steps, "checkpoints": counts.checkpoints}
    merged = counts.disk({"checkpoints", "trained_policy"}).get("merged policies", 0)
    disk = {"checkpoints": counts.staying() * checkpoint, "policies": merged}
    return Stage(calls, (trained,), disk)


def _selecting(counts: Counts, others: int) -> Stage:
    """Every checkpoint, and the policies that they are compared with."""
    policies = counts.checkpoints + others
    on_selection = counts.parameters.evaluation.select_on == "selection"
    prompts = counts.tables.selection if on_selection else counts.tables.test
    work = _answered(counts, prompts, policies=policies)
    chunks = policies * math.ceil(prompts / counts.parameters.evaluation.chunk_size)
    calls = {"policies": policies, "answers": policies * prompts}
    return Stage(calls, (work,), chunks=chunks, divided_by="evaluation.chunk_size")


def answering(counts: Counts, probing: bool) -> Stage:
    """The answers of one policy to the test prompts.

    Args:
        probing: Whether it answers yes/no questions about the test images too.
    """
    samples, tested = counts.parameters.evaluation.best_of, counts.tables.test
    prefix = counts.prefix("policy")
    works, calls = [_answered(counts, tested, samples=samples)], {"test answers": tested * samples}
    if samples > 1:  # their rewards, by the policy and its reference
        rewarded = packed("policy", tested, prefix, samples, counts.answer_tokens)
        works += [counts.loading(rewarded)] * 2
    if probing:
        probes, tokens = counts.tables.probes, counts.assumed.question_tokens
        work = packed("policy", tested, prefix, probes / tested, tokens, all_logits=False)
        works.append(counts.loading(work))
        calls["probes"] = probes
    size, by = _answers_of_a_chunk(counts, samples)
    return Stage(calls, tuple(works), chunks=math.ceil(tested / size), divided_by=by)


def _answers_of_a_chunk(counts: Counts, samples: int) -> tuple[int, str]:
    """Prompts a chunk of answers, and the parameter that says so."""
    if samples == 1:
        return counts.parameters.evaluation.chunk_size, "evaluation.chunk_size"
    return counts.parameters.reward.chunk_size, "reward.chunk_size"


def _answered(counts: Counts, prompts: int, policies: int = 1, samples: int = 1) -> Work:
    """Answers of some policies; a batch counts sequences."""
    params, assumed = counts.parameters.evaluation, counts.assumed
    chunk = samples * _answers_of_a_chunk(counts, samples)[0]
    tokens = min(assumed.answer_tokens, params.max_new_tokens)
    work = sampled(
        "policy",
        policies * prompts,
        counts.prefix("policy"),
        samples,
        tokens,
        batches=policies * batches_of(prompts * samples, chunk, params.batch_size),
        longest=min(assumed.longest * tokens, params.max_new_tokens),
    )
    return replace(counts.loading(work, times=policies), loads=policies)
