"""The figures of docs/miniature.md: ``python benchmarks/miniature.py seeds`` and ``... ablations``.

Runs ``kedro run`` as a person would, and reads the runs' artifacts. A run that has finished is taken up by its id, which computes nothing again and
refuses other parameters than it was made with.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).parents[1]
SHOWN = {
    "response_hallucination": "response hallucination", "mention_hallucination": "mention hallucination", "object_recall": "object recall",
    "mean_words": "words", "repeat_rate": "answers with a repeat",
}  # fmt: skip
# Each changes one thing of the default. Same prompts, same number of pairs and steps, but for what the pairs' construction itself changes.
ABLATIONS = {
    "default: DPO alone": "",
    "SFT alone on the chosen answers": "training.dpo_weight=0,training.sft_weight=1",
    "DPO and SFT": "training.sft_weight=1",
    "repeats not claims of their own": "feedback.count_repeats=false,evaluation.criterion=response_hallucination",
    "one round with all prompts": "loop.iterations=1,data_generation.prompts=3200",
    "whole answers scored, not claims": "feedback.scoring=answer,feedback.min_score_gap=0.05",
    "self-feedback": "feedback.labeler=self",
    "learning rate 1e-4": "training.learning_rate=0.0001",
    "beta 0.1": "training.beta=0.1",
}


def run(run_id: str, params: str, *options: str) -> None:
    """One ``kedro run``, or what is missing of it."""
    given = ",".join(p for p in (f"run_id={run_id}", params) if p)
    subprocess.run([sys.executable, "-m", "kedro", "run", *options, "--params", given], cwd=PROJECT, check=True)


def test_metrics(run_id: str, benchmark: str = "chair") -> pd.DataFrame:
    """On the test split: iterations as rows, metrics as columns."""
    table = pd.read_parquet(PROJECT / f"data/08_reporting/loop_metrics.parquet/{run_id}/loop_metrics.parquet")
    return table[table["benchmark"] == benchmark].pivot(index="iteration", columns="metric", values="value")


def selection_metrics(run_id: str) -> tuple[pd.Series, pd.Series]:
    """CHAIR on the selection split: of the base policy, and of the checkpoint that the last iteration selected."""
    reporting = PROJECT / "data/08_reporting"
    last = max((p.name for p in reporting.glob("iteration_*") if (p / f"selection.json/{run_id}").is_dir()), key=lambda n: int(n.rpartition("_")[2]))
    measured = [
        pd.read_parquet(reporting / name / f"checkpoint_metrics.parquet/{run_id}/checkpoint_metrics.parquet").pivot(
            index="checkpoint", columns="metric", values="value"
        )
        for name in ("iteration_1", last)
    ]
    selected = json.loads((reporting / last / f"selection.json/{run_id}/selection.json").read_text())["selected"]
    return measured[0].loc["start"], measured[1].loc[selected]


def shown(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "mean_words" else f"{100 * value:.1f}"


def seeds(numbers: list[int]) -> None:
    """Table over independent seeds, each with its own world, foundation, policy and labeler; the test split."""
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
    print("\n| seed | response: base -> last | relative | mention: base -> last | relative | recall | words | repeats |\n|" + " --- |" * 8)
    for seed, table in tables.items():
        base, last = table.iloc[0], table.iloc[-1]
        cells = []
        for name in ("response_hallucination", "mention_hallucination"):
            cells += [f"{shown(name, base[name])} -> {shown(name, last[name])}", f"{100 * (last[name] / base[name] - 1):+.0f} %"]
        cells += [f"{100 * (last[n] - base[n]):+.1f}" for n in ("object_recall",)]
        cells += [f"{100 * (last['mean_words'] / base['mean_words'] - 1):+.1f} %", f"{100 * (last['repeat_rate'] - base['repeat_rate']):+.1f}"]
        print(f"| {seed} | " + " | ".join(cells) + " |")
    seen = pd.concat({seed: test_metrics(f"seed{seed}", "yes_no").iloc[[0, -1]].reset_index(drop=True) for seed in numbers})
    before, after = (100 * seen.xs(k, level=1).mean() for k in (0, 1))
    print("\n| the policy's own yes/no accuracy | base | last |\n| --- | --- | --- |")
    for name in seen.columns:
        print(f"| {name.removeprefix('accuracy_').replace('_', ' ')} | {before[name]:.1f} | {after[name]:.1f} |")


def ablations(seed: int, only: list[str]) -> None:
    """Table of what does the work; the selection split, so that no choice is made on the test split."""
    print("| | " + " | ".join(SHOWN.values()) + " |\n|" + " --- |" * (len(SHOWN) + 1))
    for i, (name, params) in enumerate(ABLATIONS.items()):
        if only and str(i) not in only:
            continue
        run_id = f"ablation{i}-seed{seed}" if params else f"seed{seed}"
        run(run_id, ",".join(p for p in (f"seed={seed}", params) if p))
        base, last = selection_metrics(run_id)
        if i == 0:
            print("| base policy | " + " | ".join(shown(n, base[n]) for n in SHOWN) + " |")
        print(f"| {name} | " + " | ".join(shown(n, last[n]) for n in SHOWN) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("seeds").add_argument("seed", type=int, nargs="*", default=[0, 1, 2])
    ablation = commands.add_parser("ablations")
    ablation.add_argument("--seed", type=int, default=0)
    ablation.add_argument("--only", nargs="*", default=[], help="numbers of the ablations, from 0")
    given = parser.parse_args()
    if given.command == "seeds":
        seeds(given.seed)
    else:
        ablations(given.seed, given.only)


if __name__ == "__main__":
    main()
