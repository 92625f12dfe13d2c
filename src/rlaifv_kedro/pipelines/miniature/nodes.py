"""The miniature world and its two models."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.loop import (
    answer_probes,
    answer_prompts,
    load_policy,
    probes_by_image,
    score_answers,
    score_probes,
)
from rlaifv_kedro.engine.outputs import work_folder
from rlaifv_kedro.miniature.benchmarks import benchmark_files
from rlaifv_kedro.miniature.world import draw_split, probe_questions, prompt_table, truth
from rlaifv_kedro.params import ComputeParams, EvaluationParams, FeedbackParams, MiniatureParams, ModelsParams


def draw_pool(seed: int, params: MiniatureParams) -> pd.DataFrame:
    """The prompts that all iterations draw from, each with a picture of its own."""
    return prompt_table(
        draw_split(seed, "pool", params.pool_scenes, double_share=params.double_share),
        "pool",
        seed,
        all_prompts=True,
    )


def draw_selection(seed: int, params: MiniatureParams) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """The split on which checkpoints are compared: prompts, instances, captions."""
    scenes = draw_split(seed, "selection", params.selection_scenes, double_share=params.double_share)
    return prompt_table(scenes, "selection", seed, all_prompts=False), *truth(scenes, "selection", seed)


def draw_test(
    seed: int, params: MiniatureParams
) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any], pd.DataFrame]:
    """The split on which the result is measured.

    Returns:
        Prompts, instances, captions, and yes/no questions with known answers.
    """
    scenes = draw_split(seed, "test", params.test_scenes, double_share=params.double_share)
    return (
        prompt_table(scenes, "test", seed, all_prompts=False),
        *truth(scenes, "test", seed),
        probe_questions(scenes, "test", seed),
    )


def draw_benchmarks(seed: int, params: MiniatureParams) -> dict[str, bytes]:
    """The six benchmarks on scenes of their own, as files in the published formats."""
    return benchmark_files(seed, params.benchmark_scenes, params.double_share)


def make_models(seed: int, params: MiniatureParams) -> tuple[Path, Path]:
    """Train the base policy and the labeler from nothing but the seed.

    Returns:
        base_policy, labeler.
    """
    from rlaifv_kedro.miniature.checkpoints import make_checkpoints

    made = make_checkpoints(seed, params, work_folder("base_policy", "stages"))
    return made["base_policy"], made["labeler"]


def measure_models(
    base_policy: Path,
    labeler: Path,
    prompts: pd.DataFrame,
    truth: pd.DataFrame,
    probes: pd.DataFrame,
    seed: int,
    params: MiniatureParams,
    feedback: FeedbackParams,
    evaluate: EvaluationParams,
    compute: ComputeParams,
) -> str:
    """Measure both models on the test split: the README that lies beside them."""
    policy, judge = (
        load_policy(path, evaluate.batch_size, ModelsParams(), compute) for path in (base_policy, labeler)
    )
    rates = score_answers(
        answer_prompts(policy, "base", list(prompts.itertuples(index=False)), evaluate), prompts, truth
    )[1]
    asked = list(probes_by_image(prompts, probes))
    seeing = {
        name: score_probes(answer_probes(model, asked, feedback, evaluate), probes, name, feedback)
        for name, model in (("labeler", judge), ("base policy", policy))
    }
    lines = [
        f"# The miniature's base policy and labeler, seed {seed}",
        "",
        "Two LLaVA checkpoints (float16) of half a million parameters each, made from the seed alone by",
        "",
        f"    kedro run --pipelines miniature --params seed={seed}",
        "",
        f"with the parameters `{json.dumps(params.model_dump())}`. Measured on {len(prompts)} test scenes "
        "(share +- standard error):",
        "",
        '| base policy, greedy, "describe the image in detail." | |',
        "| --- | --- |",
        *(
            f"| {r.metric.replace('_', ' ')} | {r.value:.3f} +- {r.standard_error:.3f} |"
            for r in rates.itertuples()
        ),
        "",
        "| accuracy on yes/no questions | labeler | base policy | questions |",
        "| --- | --- | --- | --- |",
        *(
            _probe_row(a, b)
            for a, b in zip(seeing["labeler"].itertuples(), seeing["base policy"].itertuples())
        ),
        "",
        "Licence: Apache-2.0, as the code. They describe drawn scenes of 24 categories and are of no use "
        "for anything else.",
        "",
    ]
    return "\n".join(lines)


def _probe_row(labeler: Any, policy: Any) -> str:
    kind = labeler.metric.removeprefix("accuracy_").replace("_", " ")
    accuracies = (f"{row.value:.3f} +- {row.standard_error:.3f}" for row in (labeler, policy))
    return f"| {kind} | {' | '.join(accuracies)} | {labeler.n} |"
