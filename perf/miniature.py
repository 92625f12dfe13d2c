"""The figures of docs/miniature.md and docs/reward.md: ``python perf/miniature.py seeds``,
``... ablations``, ``... best_of`` and ``... reward_pairs``.

Runs ``kedro run`` as a person would, and reads the runs' artifacts. A run that has finished is taken up by
its id, which computes nothing again and refuses other parameters than it was made with.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

PROJECT = Path(__file__).parents[1]
SHOWN = {
    "response_hallucination": "response hallucination",
    "mention_hallucination": "mention hallucination",
    "object_recall": "object recall",
    "mean_words": "words",
    "repeat_rate": "answers with a repeat",
}
# Each changes one thing of the default. Same prompts, same number of pairs and steps, but for what the pairs'
# construction itself changes.
ABLATIONS = {
    "default: DPO alone": "",
    "SFT alone on the chosen answers": "training.dpo_weight=0,training.sft_weight=1",
    "DPO and SFT": "training.sft_weight=1",
    "repeats not claims of their own": "feedback.count_repeats=false,"
    "evaluation.criterion=response_hallucination",
    "one round with all prompts": "loop.iterations=1,data_generation.prompts=3200",
    "whole answers scored, not claims": "feedback.scoring=answer,feedback.min_score_gap=0.05",
    "self-feedback": "feedback.labeler=self",
    "learning rate 5e-5": "training.learning_rate=0.00005",
    "beta 0.1": "training.beta=0.1",
}
# Whose answers best_of ranks: pipeline, what stands before its nodes' names, iteration, the policy's entry,
# and the run that made it. The reward is always that of seed 0's last policy, the images are seed 0's.
RANKED = {
    "its own policy: seed 0, iteration 4": ("evaluation", 4, "seed0"),
    "seed 0, iteration 1": ("evaluation", 1, "seed0"),
    "seed 0, base policy": ("rlaif_loop", 0, ""),
    "another training: seed 1, iteration 1": ("evaluation", 1, "seed1"),
    "another training: seed 1, iteration 4": ("evaluation", 4, "seed1"),
}
SAMPLES = 32
# Metric -> numerator, denominator (both summed over answers), scale.
RATES = {
    "response hallucination": ("hallucinates", "speaks", 100),
    "mention hallucination": ("hallucinated_count", "mention_count", 100),
    "object recall": ("correct_count", "truth_count", 100),
    "answers with a repeat": ("repeats", "answers", 100),
    "words": ("word_count", "answers", 1),
}


def run(run_id: str, params: str, *options: str) -> None:
    """One ``kedro run``, or what is missing of it."""
    given = ",".join(p for p in (f"run_id={run_id}", params) if p)
    subprocess.run(
        [sys.executable, "-m", "kedro", "run", *options, "--params", given], cwd=PROJECT, check=True
    )


def test_metrics(run_id: str, benchmark: str = "chair") -> pd.DataFrame:
    """On the test split: iterations as rows, metrics as columns."""
    table = pd.read_parquet(PROJECT / f"data/08_reporting/loop_metrics.parquet/{run_id}/loop_metrics.parquet")
    return table[table["benchmark"] == benchmark].pivot(index="iteration", columns="metric", values="value")


def selection_metrics(run_id: str) -> tuple[pd.Series, pd.Series]:
    """CHAIR on the selection split: of the base policy, and of the checkpoint that the last iteration
    selected; NaN if the first one's training was stopped.
    """
    reporting = PROJECT / "data/08_reporting"
    last = max(
        (p.name for p in reporting.glob("iteration_*") if (p / f"selection.json/{run_id}").is_dir()),
        key=lambda n: int(n.rpartition("_")[2]),
        default=None,
    )
    if last is None:  # the first iteration's training was stopped
        return pd.Series(float("nan"), SHOWN), pd.Series(float("nan"), SHOWN)
    measured = [
        pd.read_parquet(reporting / name / f"checkpoint_metrics/{run_id}/checkpoint_metrics").pivot(
            index="checkpoint", columns="metric", values="value"
        )
        for name in ("iteration_1", last)
    ]
    selected = json.loads((reporting / last / f"selection.json/{run_id}/selection.json").read_text())[
        "selected"
    ]
    return measured[0].loc["start"], measured[1].loc[selected]


def shown(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "mean_words" else f"{100 * value:.1f}"


def seeds(numbers: list[int]) -> None:
    """Table over independent seeds, each with its own world, foundation, policy and labeler; the test
    split.
    """
    for seed in numbers:
        if not list((PROJECT / f"data/06_models/miniature/seed_{seed}").glob("labeler/*")):
            run(f"made{seed}", f"seed={seed}", "--pipelines", "miniature")
        run(f"seed{seed}", f"seed={seed}")
    tables = {seed: test_metrics(f"seed{seed}") for seed in numbers}
    stacked = pd.concat(tables)
    print("| policy | " + " | ".join(SHOWN.values()) + " |\n|" + " --- |" * (len(SHOWN) + 1))
    for k, group in stacked.groupby(level=1):
        cells = [f"{shown(n, group[n].mean())} ± {shown(n, group[n].std(ddof=1))}" for n in SHOWN]
        print(f"| {'base' if k == 0 else f'iteration {k}'} | " + " | ".join(cells) + " |")
    print(
        "\n| seed | response: base -> last | relative | mention: base -> last | relative | recall | words | "
        "repeats |\n|" + " --- |" * 8
    )
    for seed, table in tables.items():
        base, last = table.iloc[0], table.iloc[-1]
        cells = []
        for name in ("response_hallucination", "mention_hallucination"):
            cells += [
                f"{shown(name, base[name])} -> {shown(name, last[name])}",
                f"{100 * (last[name] / base[name] - 1):+.0f} %",
            ]
        cells += [f"{100 * (last[n] - base[n]):+.1f}" for n in ("object_recall",)]
        cells += [
            f"{100 * (last['mean_words'] / base['mean_words'] - 1):+.1f} %",
            f"{100 * (last['repeat_rate'] - base['repeat_rate']):+.1f}",
        ]
        print(f"| {seed} | " + " | ".join(cells) + " |")
    seen = pd.concat(
        {seed: test_metrics(f"seed{seed}", "yes_no").iloc[[0, -1]].reset_index(drop=True) for seed in numbers}
    )
    before, after = (100 * seen.xs(k, level=1).mean() for k in (0, 1))
    print("\n| the policy's own yes/no accuracy | base | last |\n| --- | --- | --- |")
    for name in seen.columns:
        print(
            f"| {name.removeprefix('accuracy_').replace('_', ' ')} | {before[name]:.1f} | {after[name]:.1f} |"
        )


def ablations(seed: int, only: list[str]) -> None:
    """Table of what does the work; the selection split, so that no choice is made on the test split."""
    print("| | " + " | ".join(SHOWN.values()) + " |\n|" + " --- |" * (len(SHOWN) + 1))
    for i, (name, params) in enumerate(ABLATIONS.items()):
        if only and str(i) not in only:
            continue
        run_id = f"ablation{i}-seed{seed}" if params else f"seed{seed}"
        try:
            run(run_id, ",".join(p for p in (f"seed={seed}", params) if p))
        except (
            subprocess.CalledProcessError
        ):  # its training collapsed: what the iterations before it selected
            name += ": stopped"
        base, last = selection_metrics(run_id)
        if i == 0:
            print("| base policy | " + " | ".join(shown(n, base[n]) for n in SHOWN) + " |")
        print(f"| {name} | " + " | ".join(shown(n, last[n]) for n in SHOWN) + " |", flush=True)


def best_of(temperature: str) -> None:
    """Hallucination of the best of N = 1 .. 32 answers, by the reward of seed 0's last policy; the test
    split of seed 0.
    """
    for seed in (0, 1):
        if not manifest(f"seed{seed}"):
            run(f"seed{seed}", f"seed={seed}")
    base = manifest("seed0")["read"]["base_policy"]["version"]
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for i, (title, (pipeline, iteration, made_by)) in enumerate(RANKED.items()):
        namespace = f"iteration_{iteration}" if iteration else "base"
        box = f"{namespace}.evaluation." if iteration else "base."
        entry = f"{namespace}.trained_policy" if iteration else "base_policy"
        versions = {entry: made_by or base, "test_prompts": "seed0"}
        models = {"reward_policy": "seed0", "reward_reference": base}
        params, name = f"seed=0,iteration={iteration or 1}", f"best_of{i}"
        sampling = (
            f"evaluation.best_of={SAMPLES},evaluation.best_of_reward=catalog,"
            f"evaluation.best_of_temperature={temperature}"
        )
        run(
            f"{name}-t{temperature}",
            f"{params},{sampling}",
            *nodes(pipeline, [f"{box}sample_answers", f"{box}reward_answers"], versions | models),
        )
        run(f"{name}-greedy", params, *nodes(pipeline, [f"{box}answer_test_prompts"], versions))
        folder = PROJECT / "data/07_model_output" / namespace
        for metric, cells in best_of_rates(folder, f"{name}-t{temperature}", f"{name}-greedy").items():
            tables.setdefault(metric, {})[title] = cells
    for metric, rows in tables.items():
        columns = list(next(iter(rows.values())))
        print(f"\n| {metric} | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
        for title, cells in rows.items():
            print(f"| {title} | " + " | ".join(cells[c] for c in columns) + " |")


def reward_pairs() -> None:
    """A loop of seed 0 that learns from the reward of seed 0's last policy and asks no labeler; the test
    split.
    """
    base, run_id = manifest("seed0")["read"]["base_policy"]["version"], "reward_pairs-seed0"
    versions = f"reward_policy:seed0,reward_reference:{base}"
    try:
        run(run_id, "seed=0,feedback.scoring=reward", "--load-versions", versions)
    except subprocess.CalledProcessError:
        print("Stopped; the iterations before:")
    print("| policy | " + " | ".join(SHOWN.values()) + " |\n|" + " --- |" * (len(SHOWN) + 1))
    rows = {"base": test_metrics("seed0").loc[0]}
    for path in sorted((PROJECT / "data/08_reporting").glob(f"iteration_*/metrics.parquet/{run_id}/*")):
        table = pd.read_parquet(path)
        chair = table[table["benchmark"] == "chair"].set_index("metric")["value"]
        rows[table["policy"].iloc[0].replace("_", " ")] = chair
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(shown(metric, row[metric]) for metric in SHOWN) + " |")


def manifest(run_id: str) -> dict[str, Any] | None:
    """Of a run that has finished; else None."""
    path = PROJECT / f"data/runs/{run_id}/manifest.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if found.get("status") == "finished" else None


def nodes(pipeline: str, names: list[str], versions: dict[str, str]) -> list[str]:
    """Options of ``kedro run`` for some nodes of a pipeline, and the versions they read."""
    chosen = ",".join(f"{entry}:{version}" for entry, version in versions.items())
    return ["--pipelines", pipeline, "--nodes", ",".join(names), "--load-versions", chosen]


def best_of_rates(folder: Path, run_id: str, greedy_id: str) -> dict[str, dict[str, str]]:
    """Metric -> N -> cell. Each rate is over all disjoint groups of N of an image's 32 samples, its
    standard error over images.
    """
    prompts = pd.read_parquet(
        PROJECT / "data/01_raw/miniature/test_prompts.parquet/seed0/test_prompts.parquet",
        columns=["prompt_id", "image_id"],
    )
    samples = pd.read_parquet(folder / f"answer_candidates/{run_id}/answer_candidates").merge(
        prompts, on="prompt_id"
    )
    rewards = pd.read_parquet(folder / f"answer_rewards/{run_id}/answer_rewards")
    answers = pd.read_parquet(folder / f"answers/{greedy_id}/answers")
    greedy = judged(answers.merge(prompts.rename(columns={"prompt_id": "item_id"}), on="item_id"))
    items = judged(samples.assign(item_id=samples["prompt_id"] + "/" + samples["candidate"].astype(str)))
    items = items.assign(prompt_id=samples["prompt_id"].to_numpy(), candidate=samples["candidate"].to_numpy())
    items = items.merge(rewards, on=["prompt_id", "candidate"], validate="one_to_one")
    columns = items[["reward", "hallucinated_count", "repeats"]].astype(float)
    within = (columns - columns.groupby(items["prompt_id"]).transform("mean")).corr()["reward"]
    named = {"hallucinated objects": within["hallucinated_count"], "a repeat": within["repeats"]}
    result = {
        "correlation of the reward within a prompt with": {
            name: f"{value:+.2f}" for name, value in named.items()
        }
    }
    for n in [2**k for k in range(SAMPLES.bit_length())]:
        best = {
            column: items.sort_values([column, "candidate"], ascending=[False, True])
            .assign(group=lambda ranked: ranked["candidate"] // n)  # noqa: B023 (called at once)
            .drop_duplicates(["prompt_id", "group"])
            for column in ("reward", "reward_sum")
        }
        for metric, (part, whole, scale) in RATES.items():
            result.setdefault(metric, {"greedy": shown_ratio(ratio(greedy, part, whole), scale)})
            result[metric][f"N = {n}"] = shown_ratio(ratio(best["reward"], part, whole), scale)
        for metric in ("response hallucination", "words"):
            part, whole, scale = RATES[metric]
            result.setdefault(f"{metric}, by the sum", {})[f"N = {n}"] = shown_ratio(
                ratio(best["reward_sum"], part, whole), scale
            )
        if n > 1:
            after, before = (ratio(group, "hallucinates", "speaks") for group in (best["reward"], items))
            change = after[2] - before[2]
            error = change.std(ddof=1) / len(change) ** 0.5
            result.setdefault("change of response hallucination", {})[f"N = {n}"] = (
                f"{100 * (after[0] - before[0]):+.1f} ± {100 * error:.1f}"
            )
    return result


def judged(answers: pd.DataFrame) -> pd.DataFrame:
    """CHAIR of each answer about seed 0's test images."""
    from rlaifv_kedro.benchmarks.chair import chair_items
    from rlaifv_kedro.benchmarks.coco.truth import truth_of, truth_of_split
    from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary

    folder, vocabulary = PROJECT / "data/01_raw/miniature/annotations", Vocabulary.own()
    files = [
        json.loads((folder / f"{kind}_test.json/seed0/{kind}_test.json").read_text())
        for kind in ("instances", "captions")
    ]
    items = chair_items(answers, truth_of(truth_of_split("test", *files), vocabulary), vocabulary)
    return items.assign(
        hallucinates=items["hallucinated_count"] > 0, speaks=items["mention_count"] > 0, answers=1
    )


def ratio(items: pd.DataFrame, part: str, whole: str) -> tuple[float, float, pd.Series]:
    """R = sum(part) / sum(whole); its standard error with images as clusters, linearised (Cochran 1977,
    section 6.3); each image's influence on R.
    """
    sums = items.groupby("image_id")[[part, whole]].sum()
    value = sums[part].sum() / sums[whole].sum()
    influence = (sums[part] - value * sums[whole]) / sums[whole].mean()
    return value, influence.std(ddof=1) / len(sums) ** 0.5, influence


def shown_ratio(found: tuple[float, float, pd.Series], scale: int) -> str:
    value, error, _ = found
    return f"{scale * value:.1f} ± {scale * error:.1f}" if scale > 1 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("seeds").add_argument("seed", type=int, nargs="*", default=[0, 1, 2])
    ablation = commands.add_parser("ablations")
    ablation.add_argument("--seed", type=int, default=0)
    ablation.add_argument("--only", nargs="*", default=[], help="numbers of the ablations, from 0")
    commands.add_parser("best_of").add_argument("--temperature", default="0.7", help="of the samples")
    commands.add_parser("reward_pairs")
    given = parser.parse_args()
    if given.command == "best_of":
        best_of(given.temperature)
    elif given.command == "reward_pairs":
        reward_pairs()
    elif given.command == "seeds":
        seeds(given.seed)
    else:
        ablations(given.seed, given.only)


if __name__ == "__main__":
    main()
