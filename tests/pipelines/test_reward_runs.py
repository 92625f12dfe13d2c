"""The reward in whole runs: its pipeline, pairs without a labeler, and the best of N answers."""

import json

import pandas as pd
import pytest


def read(project, run_id: str) -> dict[str, str]:
    """Entry -> version of everything that the run read."""
    entries = json.loads((project.path / f"data/runs/{run_id}/manifest.json").read_text())["read"]
    return {name: entry["version"] for name, entry in entries.items()}


def table(project, path: str, run_id: str) -> pd.DataFrame:
    return pd.read_parquet(project.path / "data" / path / run_id / path.rpartition("/")[2])


def test_pipeline_rewards_every_candidate_by_the_loops_last_policy(finished):
    project, _ = finished
    project.kedro(
        "--pipelines",
        "reward",
        "--params",
        "run_id=rewarded",
        "--load-versions",
        "iteration_1.prompts:first,iteration_1.candidates:first,reward_policy:first",
    )
    versions = read(project, "rewarded")
    assert (versions["reward_policy"], versions["reward_reference"]) == ("first", "shipped")
    manifest = json.loads((project.path / "data/runs/rewarded/manifest.json").read_text())
    assert (
        "iteration_2/trained_policy" in manifest["read"]["reward_policy"]["path"]
    )  # loop.iterations is 2 here
    rewards = table(project, "03_primary/iteration_1/candidate_rewards", "rewarded")
    candidates = table(project, "02_intermediate/iteration_1/candidates", "first")
    both = rewards.merge(candidates, on=["prompt_id", "candidate"], suffixes=("", "_sampled"))
    assert len(both) == len(rewards) == len(candidates)
    assert (
        both["token_count"] == both["token_count_sampled"]
    ).all()  # the end-of-sequence token is counted both times
    beta = manifest["parameters"]["training"]["beta"]
    assert (rewards["reward"] * rewards["token_count"]).to_numpy() == pytest.approx(
        (beta * (rewards["policy_log_prob"] - rewards["reference_log_prob"])).to_numpy()
    )


def test_pairs_without_a_labeler(finished):
    project, _ = finished
    project.kedro(
        "--pipelines",
        "feedback",
        "--params",
        "run_id=unlabeled,feedback.scoring=reward",
        "--load-versions",
        "iteration_1.prompts:first,iteration_1.candidates:first,reward_policy:first",
    )
    assert {"labeler", "policy"} & set(read(project, "unlabeled")) == set()
    written = {name.split("/")[3] for name in project.files("unlabeled")}
    assert written == {
        "candidate_rewards",
        "scores.parquet",
        "preference_pairs.parquet",
        "pair_statistics.json",
    }
    pairs = table(project, "05_model_input/iteration_1/preference_pairs.parquet", "unlabeled")
    assert {json.loads(origin)["labeler"] for origin in pairs["origin_split"]} == {"reward"}
    assert (pairs["chosen_score"] - pairs["rejected_score"] >= 1).all()
    rewards = table(project, "03_primary/iteration_1/candidate_rewards", "unlabeled").set_index(
        ["prompt_id", "candidate"]
    )["reward"]
    gaps = [
        rewards[p.prompt_id, p.chosen_candidate] - rewards[p.prompt_id, p.rejected_candidate]
        for p in pairs.itertuples()
    ]
    unit = {round(gap / (p.chosen_score - p.rejected_score), 9) for gap, p in zip(gaps, pairs.itertuples())}
    assert len(unit) == 1 and unit.pop() > 0  # one standard deviation, the same for all


def test_loop_by_the_reward_of_an_older_loop_goes_on_where_it_stopped(finished):
    """It reads an older version of what it writes itself."""
    project, _ = finished
    params = "run_id=halved,feedback.scoring=reward,evaluation.best_of=3,data_generation.prompts=12"
    project.kedro(
        "--params",
        params,
        "--to-nodes",
        "iteration_1.feedback.build_pairs",
        "--load-versions",
        "reward_policy:first",
    )
    assert "Going on with run halved" in project.kedro("--params", params)
    versions = read(project, "halved")
    assert versions["reward_policy"] == "first" and "labeler" not in versions
    written = json.loads((project.path / "data/runs/halved/manifest.json").read_text())["written"]
    assert "iteration_2/trained_policy/halved" in written["iteration_2.trained_policy"]["path"]
    assert "iteration_2.candidate_rewards" in written
    metrics = table(project, "08_reporting/loop_metrics.parquet", "halved").query("benchmark == 'chair'")
    assert metrics["iteration"].unique().tolist() == [0, 1, 2]
    assert metrics["protocol"].str.contains("best of 3").all()


def test_best_of_takes_the_answer_with_the_highest_reward(finished):
    project, _ = finished
    steps = ("sample_answers", "reward_answers", "choose_answers", "score_answers")
    names = ",".join(f"iteration_2.evaluation.{step}" for step in steps)
    project.kedro(
        "--pipelines",
        "evaluation",
        "--nodes",
        names,
        "--params",
        "run_id=best,iteration=2,evaluation.best_of=4",
        "--load-versions",
        "iteration_2.trained_policy:first,test_prompts:first,test_truth:first",
    )
    folder = "07_model_output/iteration_2"
    samples, rewards = (
        table(project, f"{folder}/{name}", "best") for name in ("answer_candidates", "answer_rewards")
    )
    answers = table(project, f"{folder}/answers", "best")
    assert len(answers) == 24 and len(samples) == 24 * 4
    joined = samples.merge(rewards, on=["prompt_id", "candidate"])
    best = joined.loc[joined.groupby("prompt_id")["reward"].idxmax()].set_index("prompt_id")["answer"]
    assert answers.set_index("item_id")["answer"].to_dict() == best.to_dict()
    protocol = (
        table(project, "08_reporting/iteration_2/metrics.parquet", "best")["protocol"].unique().tolist()
    )
    assert (
        len(protocol) == 1
        and "best of 4 at temperature 0.7, by the normalised reward of the policy itself" in protocol[0]
    )
    assert "greedy" in table(project, "08_reporting/iteration_2/metrics.parquet", "first")["protocol"].iloc[0]


def test_another_policys_answers_by_the_catalogs_reward(finished):
    """Of iteration 1's policy, by the reward of the last one: the same samples as by its own reward, other
    log-probs.
    """
    project, _ = finished
    for run_id, reward in (("own", "own"), ("foreign", "catalog")):
        versions = "iteration_1.trained_policy:first,test_prompts:first" + (
            ",reward_policy:first" if reward == "catalog" else ""
        )
        project.kedro(
            "--pipelines",
            "evaluation",
            "--nodes",
            "iteration_1.evaluation.sample_answers,iteration_1.evaluation.reward_answers",
            "--params",
            f"run_id={run_id},iteration=1,evaluation.best_of=2,evaluation.best_of_reward={reward}",
            "--load-versions",
            versions,
        )
    own, foreign = (project.files(run_id) for run_id in ("own", "foreign"))
    sampled = [name for name in own if "answer_candidates" in name]
    assert sampled and all(own[name] == foreign[name] for name in sampled)
    assert "reward_policy" in read(project, "foreign") and "reward_policy" not in read(project, "own")
    rows = [
        table(project, "07_model_output/iteration_1/answer_rewards", run_id) for run_id in ("own", "foreign")
    ]
    assert (rows[0]["reference_log_prob"] == rows[1]["reference_log_prob"]).all()


def test_a_missing_reward_says_how_to_make_it(project):
    output = project.kedro("--params", "feedback.scoring=reward", expect=1)
    assert "`reward_policy` is not there" in output and "Make it with: kedro run" in output
