"""The dry run against what a run really did."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from whole_project import Project


def told(project: Project, **assumed: float) -> dict[str, dict[str, Any]]:
    """The plan of the small loop, by stage."""
    given = ("--assume", ",".join(f"{name}={value}" for name, value in assumed.items())) if assumed else ()
    output = project.rlaifv("plan", "--env", "test", "--json", *given)
    plan, _ = json.JSONDecoder().raw_decode(output[output.index("{\n") :])
    return {stage["stage"]: stage for stage in plan["stages"]}


def written(project: Project, entry: str) -> pd.DataFrame:
    """A table that iteration 2 of the run ``first`` wrote: the last one, which the plan shows."""
    (folder,) = project.path.glob(f"data/*/iteration_2/{entry}/first/{entry}")
    return pd.concat(
        pd.read_parquet(file) for file in ([folder] if folder.is_file() else sorted(folder.glob("*.parquet")))
    )


def test_the_most_there_can_be_is_not_exceeded(finished: tuple[Project, str]) -> None:
    """24 prompts x 6 candidates, at most 48 tokens each, at most 2 pairs a prompt."""
    project, _ = finished
    plan = told(project, answer_tokens=48)
    assert plan["sample_candidates"]["calls"] == {"prompts": 24, "candidates": 144}
    assert len(written(project, "prompts.parquet")) == 24
    candidates, rejects = written(project, "candidates"), written(project, "data_generation_rejects")
    assert len(candidates) + len(rejects) == 144
    assert plan["sample_candidates"]["generated"] == 144 * 48 >= candidates["token_count"].sum()
    assert (
        plan["compute_reference"]["calls"]["pairs"] == 48 >= len(written(project, "preference_pairs.parquet"))
    )


def test_with_what_was_found_the_plan_is_what_was_done(finished: tuple[Project, str]) -> None:
    project, _ = finished
    candidates, claims, pairs = (
        written(project, name) for name in ("candidates", "claims", "preference_pairs.parquet")
    )
    plan = told(
        project,
        answer_tokens=candidates["token_count"].mean(),
        claims=len(claims) / len(candidates),
        pairs_per_prompt=len(pairs) / 24,
    )
    assert round(plan["sample_candidates"]["generated"]) == candidates["token_count"].sum() * 144 / len(
        candidates
    )
    asked = plan["verify_claims"]["calls"]["yes/no questions"]
    assert (
        asked
        == round(len(claims) * 144 / len(candidates))
        >= len(claims.drop_duplicates(["prompt_id", "question"]))
    )
    log, measured = written(project, "training_log.parquet"), written(project, "checkpoint_metrics")
    calls = plan["train_policy"]["calls"]
    assert (calls["pairs"], calls["steps"]) == (len(pairs), log["step"].max())
    names = set(measured["checkpoint"])
    assert plan["answer_with_checkpoints"]["calls"]["policies"] == len(names)
    assert calls["checkpoints"] == len(names - {"base", "start"})
    texts = pairs.melt("prompt_id", ["chosen", "rejected"])[["prompt_id", "value"]]
    assert len(texts.drop_duplicates()) <= plan["compute_reference"]["calls"]["answers"]
    answers = written(project, "answers")
    probes = pd.read_parquet(
        next(Path(project.path).glob("data/01_raw/**/test_probes.parquet/first/*.parquet"))
    )
    assert plan["answer_test_prompts"]["calls"] == {"test answers": len(answers), "probes": len(probes)}


def test_a_world_with_too_few_prompts_is_refused_before_it_is_drawn(project: Project) -> None:
    """2 iterations of 24 prompts need 48."""
    output = project.kedro("--params", "miniature.pool_scenes=47", expect=1)
    assert "need 48 prompts, but prompt_pool has 47" in output
    assert not any((project.path / "data/runs").iterdir()) and not (project.path / "data/01_raw").exists()
