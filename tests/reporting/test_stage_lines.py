"""What a stage says when it has ended."""

import pandas as pd
from kedro.io import DataCatalog, MemoryDataset

from begun_runs import begin
from rlaifv_kedro.reporting.stages import stage_lines
from rlaifv_kedro.runs.manifest import Entry

MADE = {
    "candidates": pd.DataFrame({"prompt_id": ["a", "a", "b"]}),
    "data_generation_rejects": pd.DataFrame({"why": ["empty"]}),
    "preference_pairs": None,
    "pair_statistics": {"kept_pairs": 3, "drawn_pairs": 5, "prompts_with_pairs": 2, "prompts": 1200},
    "verdicts": pd.DataFrame(
        {"accepted": [True, None], "p_yes": [1.0, 0.1], "first_token": ["yes", "maybe"]}
    ),
    "feedback_rejects": pd.DataFrame({"why": ["x"]}),
    "verdict_rejects": pd.DataFrame({"why": ["y"]}),
    "checkpoints": [{}, {}],
    "training_log": pd.DataFrame({"step": [1, 1200], "loss": [0.693, 0.25]}),
    "training_rejects": pd.DataFrame({"why": []}),
    "trained_policy": None,
    "selection": {"selected": "checkpoint-3"},
    "metrics": pd.DataFrame(
        {
            "metric": ["response_hallucination", "mention_hallucination"],
            "value": [0.5, 0.25],
            "standard_error": [0.1, 0.05],
        }
    ),
}


def lines(project, stage, pipelines=("__default__",), without=(), command="kedro run --params run_id=r"):
    run = begin(project, pipelines=list(pipelines), command=command)
    run.written = {
        f"iteration_2.{name}": Entry(
            path=f"data/{name}", version="r", sha256=None if name in without else "s"
        )
        for name in MADE
    }
    catalog = DataCatalog({f"iteration_2.{n}": MemoryDataset(made) for n, made in MADE.items()})
    return stage_lines(stage, run, catalog)


def test_each_stage_says_what_it_made_and_where_it_lies(tmp_path):
    assert lines(tmp_path, "iteration_2.data_generation") == [
        "iteration 2 · data generation has made 3 candidates of 2 prompts, 1 rejects: data/candidates"
    ]
    assert lines(tmp_path, "iteration_2.feedback") == [
        "iteration 2 · feedback has made 3 pairs kept of 5 drawn, from 2 of 1,200 prompts, by 2 claims, 2 rejects, "
        "1 of 2 replies of the labeler (50.0%) are neither yes nor no; they begin with 'maybe' (1): "
        "data/preference_pairs"
    ]
    assert lines(tmp_path, "iteration_2.training") == [
        "iteration 2 · training has made 2 checkpoints in 1,200 steps, loss 0.69 to 0.25, 0 rejects: "
        "data/checkpoints"
    ]
    assert lines(tmp_path, "iteration_2.evaluation") == [
        "iteration 2 · evaluation has made a policy of checkpoint-3, whose rates on the test split are response "
        "hallucination 50.0 ± 10.0 %, mention hallucination 25.0 ± 5.0 %: data/trained_policy"
    ]
    assert lines(tmp_path, "base") == lines(tmp_path, "reporting") == []


def test_what_is_not_whole_is_not_told_of(tmp_path):
    assert lines(tmp_path, "iteration_2.feedback", without=("pair_statistics",)) == []


def test_a_run_of_a_stage_names_the_next_command(tmp_path):
    command = "kedro run --env test --pipelines feedback --params run_id=r,iteration=2,training.beta=0.3"
    assert lines(tmp_path, "iteration_2.feedback", ["feedback"], command=command)[1] == (
        "Next: kedro run --env test --pipelines training --params iteration=2,training.beta=0.3"
    )
    assert lines(tmp_path / "other", "iteration_2.evaluation", ["evaluation"])[1] == (
        "Next: kedro run --pipelines data_generation --params iteration=3"
    )
