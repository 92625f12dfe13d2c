"""All six benchmarks in whole runs on the miniature world: policies answer, a rule-based judge behind a
server judges, and every figure is worked out again from the answers and the published files.

Three policies: the shipped base policy; another one, made of it with some noise in its weights, which says
Yes and No in capitals as AMBER wants it; and the labeler, which answers questions and can't describe: nothing
is hallucinated, and some metrics have no denominator.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import spacy
import torch
from safetensors.torch import load_file, save_file

import rule_judge
from whole_project import SHIPPED, Project, make_project

sys.path.append(str(Path(__file__).parents[1] / "hallucination"))

from judge_server import ChatServer, judge_server
from rlaifv_kedro.benchmarks.amber import yes_or_no
from rlaifv_kedro.benchmarks.answers_elsewhere import score_file
from rlaifv_kedro.benchmarks.benchmark import AnswerFiles
from rlaifv_kedro.benchmarks.coco.truth import truth_of_split
from rlaifv_kedro.benchmarks.loop import score_answers
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.benchmarks.scoring import answered_items
from rlaifv_kedro.datasets import ChunkedTableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256
from rlaifv_kedro.miniature.language import CATEGORY_OF, mentions
from rlaifv_kedro.params import JudgeParams

BASE, NOISY, LABELER = (
    f"{SHIPPED}/base_policy/shipped/base_policy",
    "policies/noisy",
    f"{SHIPPED}/labeler/shipped/labeler",
)
POLICIES = [BASE, NOISY, LABELER]
SIX = ["chair", "object_halbench", "mmhal", "refomb", "amber", "pope"]
FILES = Path("data/01_raw/miniature/benchmarks/seed_0")
SMALL = "miniature.benchmark_scenes=8,benchmark_data.chair_images=8"
STUBBORN = "0"  # MMHal-Bench's item that the judge never rates


@dataclass(frozen=True)
class Bench:
    """A project with the miniature's benchmarks, and a judge."""

    project: Project
    server: ChatServer

    def run(self, params: str, *arguments: str, expect: int = 0) -> str:
        """``kedro run --env miniature_benchmarks --pipelines evaluation`` with the judge."""
        judge = f"models.judge.backend=openai,models.judge.url={self.server.url},models.judge.model=judge,benchmarks.refomb_runs=2"
        return self.bare(f"{judge},{params}", *arguments, expect=expect)

    def bare(self, params: str, *arguments: str, pipeline: str = "evaluation", expect: int = 0) -> str:
        return self.project.kedro(
            "--pipelines",
            pipeline,
            *arguments,
            "--params",
            f"{SMALL},{params}",
            expect=expect,
            env="miniature_benchmarks",
        )

    def table(self, name: str, run_id: str = "all") -> pd.DataFrame:
        """A table of a run, by its path under data without suffix."""
        [found] = (self.project.path / "data").glob(f"{name}*/{run_id}/*")
        return (
            pd.concat(map(pd.read_parquet, sorted(found.glob("*.parquet"))), ignore_index=True)
            if found.is_dir()
            else pd.read_parquet(found)
        )

    def answers(self, benchmark: str, policy: str) -> pd.DataFrame:
        table = self.table(f"07_model_output/benchmarks/{benchmark}/answers")
        return table[table["policy"] == policy].drop(columns="policy")

    def metrics(self, benchmark: str, policy: str, run_id: str = "all") -> pd.DataFrame:
        table = self.table("08_reporting/benchmarks/benchmark_metrics", run_id)
        return table[(table["benchmark"] == benchmark) & (table["policy"] == policy)].set_index("metric")

    def published(self, name: str) -> Any:
        text = (self.project.path / FILES / name).read_text()
        return json.loads(text) if text.count("\n") == 1 else [json.loads(line) for line in text.splitlines()]

    def truth(self) -> dict[int, set[str]]:
        """image_id -> categories, of the annotation files."""
        instances, captions = (
            self.published(f"coco2014/annotations/{kind}_benchmarks.json")
            for kind in ("instances", "captions")
        )
        names = {category["id"]: category["name"] for category in instances["categories"]}
        found: dict[int, set[str]] = {image["id"]: set() for image in instances["images"]}
        for annotation in instances["annotations"]:
            found[annotation["image_id"]].add(names[annotation["category_id"]])
        for annotation in captions["annotations"]:
            found[annotation["image_id"]] |= rule_judge.categories(annotation["caption"])
        return found


def judged(prompt: str) -> str:
    return (
        "I had rather not."
        if stubborn and "<reference>" in prompt and stubborn[0] in prompt
        else rule_judge.reply(prompt)
    )


stubborn: list[str] = []  # the reference of the item that is never rated


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    project = make_project(tmp_path_factory.mktemp("bench") / "project")
    noisy_policy(project.path / BASE, project.path / NOISY)
    spacy_pipeline().to_disk(project.path / "nouns")
    with judge_server(judged) as server:
        made = Bench(project, server)
        made.bare("run_id=drawn", pipeline="miniature_benchmarks")
        made.bare("run_id=items", pipeline="benchmark_data")
        stubborn.append(made.published("mmhal/mmhal-bench_answer_template.json")[int(STUBBORN)]["gt_answer"])
        yield made
    stubborn.clear()


@pytest.fixture(scope="module")
def finished(bench: Bench) -> str:
    """What the terminal shows of run ``all``: six benchmarks, three policies, LLM mode."""
    return bench.run(f"run_id=all,{ALL}")


ALL = (
    f"evaluation.policy=[{','.join(POLICIES)}],evaluation.benchmarks=[{','.join(SIX)}],benchmarks.extraction=llm,"
    "benchmarks.object_halbench_pipeline=nouns"
)


def noisy_policy(source: Path, target: Path) -> None:
    """A copy with other answers, and with Yes and No for yes and no."""
    shutil.copytree(source, target)
    weights, generator = load_file(source / "model.safetensors"), torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "language_model" in name and "layers" in name and weight.dim() == 2:
            weight += (0.4 * weight.float().std() * torch.randn(weight.shape, generator=generator)).to(
                weight.dtype
            )
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {
        {"yes": "Yes", "no": "No"}.get(word, word): number for word, number in words.items()
    }
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))


def spacy_pipeline() -> spacy.Language:
    """Tags and lemmas of the miniature's nouns, by rules that spaCy has on board."""
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for word in {part for name in CATEGORY_OF for part in name.split()}:
        ruler.add([[{"LOWER": word}]], {"TAG": "NN", "LEMMA": word})
    ruler.add([[{"LOWER": "a"}]], {"TAG": "DT", "LEMMA": "a"})
    return pipeline


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits) if hits else float("nan")


def same(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_benchmark_has_its_metrics(bench: Bench, finished: str, policy: str) -> None:
    for benchmark in SIX:
        found = bench.metrics(benchmark, policy)
        assert set(BENCHMARKS[benchmark].headline) <= set(found.index)
        beams = "by 3 beams" if benchmark in ("object_halbench", "mmhal", "refomb") else "greedy"
        assert all(protocol.endswith(f"answers {beams}") for protocol in found["protocol"])


def test_the_policies_differ(bench: Bench, finished: str) -> None:
    """Else the comparisons below would compare nothing."""
    base, noisy = (bench.answers("chair", policy)["answer"] for policy in (BASE, NOISY))
    assert (base.to_numpy() != noisy.to_numpy()).sum() > len(base) / 4


def test_answers_say_which_weights_gave_them(bench: Bench, finished: str) -> None:
    folder = bench.project.path / "data/07_model_output/benchmarks/pope/answers/all/answers"
    found = ChunkedTableDataset(str(folder), "answers").load().attrs["fingerprint"]
    assert (
        found == {policy: content_sha256(bench.project.path / policy) for policy in POLICIES}
        and len(set(found.values())) == 3
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_chair_is_the_selection_s(bench: Bench, finished: str, policy: str) -> None:
    """The same answers by the code that selects checkpoints, which reads the annotation files itself."""
    items = bench.table("02_intermediate/miniature_benchmarks/chair_items", "items")
    prompts = items.rename(columns={"item_id": "prompt_id"})
    answers = bench.answers("chair", policy).assign(policy=policy)
    files = (
        bench.published(f"coco2014/annotations/{kind}_benchmarks.json") for kind in ("instances", "captions")
    )
    truth = truth_of_split("benchmarks", *files)
    expected = score_answers(answers, prompts, truth)[1].set_index("metric")
    found = bench.metrics("chair", policy)
    for metric in found.index:
        for column in ("value", "n", "standard_error"):
            assert same(found.at[metric, column], expected.at[metric, column]), (metric, column)
    assert np.isnan(found.at["response_hallucination", "value"]) == (policy == LABELER)


@pytest.mark.parametrize("policy", POLICIES)
def test_object_halbench_by_llm(bench: Bench, finished: str, policy: str) -> None:
    """Objects that the judge listed, each once, against the annotation files; repeats of a word are one
    object.
    """
    truth, questions = bench.truth(), bench.published("object_halbench/obj_halbench_with_image.jsonl")
    objects, wrong, right = [], [], []
    for row in bench.answers("object_halbench", policy).itertuples():
        there = truth[questions[int(row.item_id)]["image_id"]]
        found = [CATEGORY_OF[word] for word in dict.fromkeys(mentions(row.answer))]
        objects.append(len(found))
        wrong.append(sum(category not in there for category in found))
        right.append(len(set(found) & there))
    values = bench.metrics("object_halbench", policy)["value"]
    assert same(values["response_hallucination"], share([w > 0 for w, n in zip(wrong, objects) if n]))
    assert same(values["mention_hallucination"], sum(wrong) / sum(objects) if sum(objects) else float("nan"))
    assert same(values["object_recall"], sum(right) / sum(len(truth[q["image_id"]]) for q in questions))


@pytest.mark.parametrize("policy", POLICIES)
def test_mmhal_with_one_item_that_is_never_rated(bench: Bench, finished: str, policy: str) -> None:
    entries = bench.published("mmhal/mmhal-bench_answer_template.json")
    answers = bench.answers("mmhal", policy).set_index("item_id")["answer"]
    ratings = {
        str(i): rule_judge.rating(answers[str(i)], e["gt_answer"], ", ".join(e["image_content"]))
        for i, e in enumerate(entries)
        if str(i) != STUBBORN
    }
    found = bench.metrics("mmhal", policy)
    assert (found.at["score", "n"], found.at["score", "failed"]) == (len(entries) - 1, 1)
    assert same(found.at["score", "value"], sum(ratings.values()) / len(ratings))
    assert same(found.at["hallucination_rate", "value"], share([rating < 3 for rating in ratings.values()]))
    assert same(found.at["score_unparsed_as_0", "value"], sum(ratings.values()) / len(entries))
    assert same(found.at["score_environment", "value"], ratings["5"])
    judgements = bench.table("07_model_output/benchmarks/mmhal/judgements")
    [failed] = judgements[(judgements["policy"] == policy) & judgements["error"].notna()].itertuples()
    assert (failed.item_id, failed.replies, failed.returned_model) == (STUBBORN, JudgeParams().tries, "judge")


@pytest.mark.parametrize("policy", POLICIES)
def test_refomb_in_both_orders(bench: Bench, finished: str, policy: str) -> None:
    """A judge of rules has no bias of position, and says the same in each run."""
    questions, reference = (
        bench.published("refomb/RefoMB_dev.jsonl"),
        bench.published("refomb/gpt4v_RefoMB_dev.jsonl"),
    )
    answers = bench.answers("refomb", policy).set_index("item_id")["answer"]
    scores = []
    for asked, known in zip(questions, reference):
        a, b = (
            rule_judge.hallucinations(text, asked["description"])
            for text in (known["answer"], answers[str(asked["id"])])
        )
        scores.append(1 if b < a else 0 if a < b else 0.5)
    values = bench.metrics("refomb", policy)["value"]
    for aspect in ("overall", "trustworthiness"):
        assert same(values[f"{aspect}_score"], sum(scores) / len(scores)) and same(
            values[f"{aspect}_score_swapped"], sum(scores) / len(scores)
        )
        assert values[f"{aspect}_position_bias"] == 0
    steps = (
        bench.table("07_model_output/benchmarks/refomb/judgements")
        .query("policy == @policy")["step"]
        .value_counts()
    )
    assert len(steps) == 8 and set(steps) == {len(questions)}  # two calls, two orders, two runs


@pytest.mark.parametrize("policy", POLICIES)
def test_amber(bench: Bench, finished: str, policy: str) -> None:
    annotations = {str(a["id"]): a for a in bench.published("amber/annotations.json")}
    answers = bench.answers("amber", policy).set_index("item_id")["answer"]
    values = bench.metrics("amber", policy)["value"]
    asked = [i for i, a in annotations.items() if a["type"] != "generative"]
    said = [answers[i] for i in asked]
    first = [answer.split()[0].lower() for answer in said]  # the shipped policies know no capitals
    assert same(values["accuracy"], share([word == annotations[i]["truth"] for i, word in zip(asked, first)]))
    assert same(values["other_answer_rate"], share([word not in ("yes", "no") for word in first]))
    described = [(answers[i], a) for i, a in annotations.items() if a["type"] == "generative"]
    named = [{category.split()[-1] for category in rule_judge.categories(answer)} for answer, _ in described]
    assert same(
        values["hal"], share([bool(names - set(a["truth"])) for names, (_, a) in zip(named, described)])
    )
    covered = sum(
        len((names | set(answer.replace(".", "").split())) & set(a["truth"]))
        for names, (answer, a) in zip(named, described)
    )
    assert same(values["cover"], covered / sum(len(a["truth"]) for _, a in described))
    cog = sum(len(names & set(a["hallu"])) for names, (_, a) in zip(named, described))
    assert same(values["cog"], cog / sum(len(a["hallu"]) for _, a in described))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_pope(bench: Bench, finished: str, policy: str, split: str) -> None:
    answers = bench.answers("pope", policy).set_index("item_id")["answer"]
    entries = bench.published(f"pope/coco_pope_{split}.json")
    said = [answers[f"{split}/{entry['question_id']}"].lower() for entry in entries]
    assert set(said) == {"yes", "no"}
    values = bench.metrics("pope", policy)["value"]
    assert same(
        values[f"accuracy_{split}"], share([answer == entry["label"] for answer, entry in zip(said, entries)])
    )
    assert same(values[f"yes_ratio_{split}"], said.count("yes") / len(said))
    assert values[f"accuracy_{split}"] > 0.7  # the questions are true of the pictures


@pytest.mark.parametrize("benchmark", SIX)
def test_answers_made_here_score_the_same_elsewhere(
    bench: Bench, finished: str, benchmark: str, tmp_path: Path
) -> None:
    """The command that scores files reads the published files by itself."""
    folder = {"chair": "coco2014", "object_halbench": "coco2014"}.get(benchmark, benchmark)
    inputs: dict[str, Any] = {
        "answers": tmp_path / "answers.jsonl",
        "annotations": bench.project.path / FILES / folder,
    }
    for policy in POLICIES:
        answers = bench.answers(benchmark, policy)
        if folder == "coco2014":
            items = bench.table(f"02_intermediate/miniature_benchmarks/{benchmark}_items", "items").set_index(
                "item_id"
            )
            answers["image_id"] = [int(items.at[item_id, "image_id"]) for item_id in answers["item_id"]]
        if benchmark == "amber":  # whose evaluator wants the bare word of answers made elsewhere
            answers["answer"] = answers["answer"].map(yes_or_no)
        answers.to_json(inputs["answers"], orient="records", lines=True)
        if benchmark in ("object_halbench", "mmhal", "refomb"):
            judgements = bench.table(f"07_model_output/benchmarks/{benchmark}/judgements")
            inputs["judgements"] = tmp_path / "judgements.jsonl"
            judgements[judgements["policy"] == policy][["item_id", "step", "reply", "error"]].to_json(
                inputs["judgements"], orient="records", lines=True
            )
        inputs |= {
            "spacy": {"object_halbench": str(bench.project.path / "nouns"), "amber": "exact"}.get(benchmark)
        }
        elsewhere = score_file(BENCHMARKS[benchmark], AnswerFiles(**inputs)).metrics.set_index("metric")
        here = bench.metrics(benchmark, policy)
        assert list(here.index) == list(elsewhere.index)
        for column in ("value", "n", "failed", "standard_error"):
            pd.testing.assert_series_equal(here[column], elsewhere[column], check_dtype=False)


def test_every_two_policies_are_compared(bench: Bench, finished: str) -> None:
    table = bench.table("08_reporting/benchmarks/policy_comparisons")
    metrics = bench.table("08_reporting/benchmarks/benchmark_metrics").set_index(
        ["benchmark", "metric", "policy"]
    )["value"]
    assert set(table["benchmark"]) == set(SIX)
    for (benchmark, metric), rows in table.groupby(["benchmark", "metric"]):
        assert list(zip(rows["policy"], rows["other"])) == list(combinations(POLICIES, 2)), (
            benchmark,
            metric,
        )
        for row in rows.itertuples():
            difference = metrics[benchmark, metric, row.policy] - metrics[benchmark, metric, row.other]
            assert same(row.difference, difference), (benchmark, metric)
            assert np.isnan(row.low) or row.low <= row.difference <= row.high
    assert "accuracy" not in set(
        table.loc[table["benchmark"] == "pope", "metric"]
    )  # splits share questions: never pooled
    assert {"accuracy_random", "f1_adversarial"} <= set(table.loc[table["benchmark"] == "pope", "metric"])


def test_the_terminal_shows_what_is_published(bench: Bench, finished: str) -> None:
    shown = [" ".join(line.split()) for line in finished.splitlines()]
    [heading] = [line for line in shown if line.startswith("benchmark metric")]
    assert heading == "benchmark metric base_policy noisy labeler"
    recall = bench.metrics("chair", BASE).loc["object_recall"]
    value = f"object recall % {100 * recall['value']:.1f} ± {100 * recall['standard_error']:.1f} "
    assert any(line.startswith(value) for line in shown), value
    assert any(line.startswith("mmhal score, 0 to 6") and line.count("(1 failed)") == 3 for line in shown)
    assert any(line.startswith("chair response hallucination %") and line.endswith(" -") for line in shown)
    assert "data/08_reporting/benchmarks/benchmark_metrics.parquet/all/benchmark_metrics.parquet" in finished


def test_nothing_is_asked_twice(bench: Bench, finished: str) -> None:
    """Nor by a run that makes answers, judgements and scores anew, which are the same."""
    assert set(bench.server.answered.values()) == {1}
    asked, judged = len(bench.server.bodies), ("object_halbench", "mmhal", "refomb")
    options = "benchmarks.extraction=llm,benchmarks.object_halbench_pipeline=nouns"
    bench.run(
        f"run_id=anew,evaluation.policy=[{BASE},{NOISY}],evaluation.benchmarks=[{','.join(judged)}],{options}"
    )
    assert (
        len(bench.server.bodies) == asked
    )  # also what was never rated: as often as judge.tries says is enough
    for benchmark in judged:
        for policy in (BASE, NOISY):
            pd.testing.assert_frame_equal(
                bench.metrics(benchmark, policy, "anew"), bench.metrics(benchmark, policy)
            )


def test_killed_while_answering_it_goes_on(bench: Bench, finished: str) -> None:
    """kill -9 after some chunks: these stay as they are, and the tables are those of the run that nobody
    killed.
    """
    params = f"{SMALL},run_id=killed,benchmarks.chunk_size=1,evaluation.policy=[{BASE},{NOISY}],evaluation.benchmarks=[chair,pope]"
    command = bench.project.command(
        "kedro", "run", "--env", "miniature_benchmarks", "--pipelines", "evaluation", "--params", params
    )
    process = subprocess.Popen(
        command, cwd=bench.project.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(chunks(bench.project.path)) < 5 and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, "the run was over before it could be killed"
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in chunks(bench.project.path)}
    output = bench.project.kedro("--pipelines", "evaluation", "--params", params, env="miniature_benchmarks")
    assert "Going on with run killed" in output
    after = chunks(bench.project.path)
    assert len(after) == 4 * 8 > len(before) >= 5 and all(
        path.stat().st_mtime_ns == written for path, written in before.items()
    )
    for benchmark in ("chair", "pope"):
        for policy in (BASE, NOISY):
            pd.testing.assert_frame_equal(
                bench.metrics(benchmark, policy, "killed"), bench.metrics(benchmark, policy)
            )


def chunks(project: Path) -> list[Path]:
    return sorted(
        path for path in (project / "data/07_model_output/benchmarks").rglob("killed/answers/[0-9]*.parquet")
    )


def test_the_cost_is_told_before(bench: Bench, finished: str) -> None:
    """Answers first, then what judging them would take, then the same run goes on. Another judge has
    stored nothing.
    """
    params = f"run_id=before,evaluation.policy=[{BASE},{NOISY}],evaluation.benchmarks=[mmhal]"
    bench.run(params, "--to-outputs", "benchmark.mmhal.answers")
    [mmhal] = json.loads(
        bench.project.rlaifv(
            "judge-cost", "--run", "before", "--json", "--params", "models.judge.model=gpt-4o-mini"
        )
    )
    answers = bench.table("07_model_output/benchmarks/mmhal/answers", "before")
    assert mmhal["calls"] == len(answers.drop_duplicates(["item_id", "answer"])) and mmhal["stored"] == 0
    prompts, replies = 0.15 * mmhal["prompt_tokens"] / 1e6, 0.60 * 1024 * mmhal["calls"] / 1e6
    assert mmhal["cost"] == pytest.approx(prompts + replies)
    assert mmhal["most_cost"] == pytest.approx(3 * prompts + (1 + 2 + 2) * replies)
    shown = bench.project.rlaifv("judge-cost", "--run", "before").splitlines()
    unknown = rf"mmhal +0 +{mmhal['calls']} +0 +0( +price unknown){{2}} *"
    assert any(re.fullmatch(unknown, line) for line in shown), shown  # run "all" has stored it
    assert "answering" not in bench.run(params)
    pd.testing.assert_frame_equal(bench.metrics("mmhal", NOISY, "before"), bench.metrics("mmhal", NOISY))
    assert "no complete answers" in bench.project.rlaifv("judge-cost", "--run", "items", expect=1)


LLM = "evaluation.benchmarks=[object_halbench],benchmarks.extraction=llm"
JUDGE = "models.judge.backend=openai,models.judge.url=http://127.0.0.1:9/v1,models.judge.model=judge"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            f"evaluation.policy={BASE},evaluation.benchmarks=[chair,mmhal]",
            "mmhal: No judge is named. Set models.judge",
        ),
        (f"evaluation.policy={BASE},{LLM}", "Or take benchmarks.extraction=rules."),
        (f"evaluation.policy={BASE},{LLM},{JUDGE}", "'en_core_web_trf' can't be loaded"),
        (
            f"evaluation.policy={BASE},evaluation.benchmarks=[amber],benchmarks.amber_pipeline=nouns",
            "has no word vectors",
        ),
        (
            f"evaluation.policy=[{BASE},policies/nowhere/at_all],evaluation.benchmarks=[chair]",
            "policy: the folder is not there (policies/nowhere/at_all)",
        ),
        (
            f"evaluation.policy={BASE}",
            "evaluation.policy is what answers evaluation.benchmarks, and these name none",
        ),
    ],
)
def test_what_is_missing_is_said_before_anything_is_computed(bench: Bench, params: str, message: str) -> None:
    output = bench.bare(f"run_id=refused,{params}", expect=1)
    assert message in " ".join(output.split()) and "answer" not in output.partition("Error")[0]
    assert not (bench.project.path / "data/runs/refused").exists()


def test_check_looks_for_spacy_pipelines(bench: Bench) -> None:
    params = (
        f"evaluation.policy={BASE},evaluation.benchmarks=[amber],benchmarks.amber_pipeline=en_core_web_lg"
    )
    found = bench.project.rlaifv(
        "check",
        "--env",
        "miniature_benchmarks",
        "--pipelines",
        "evaluation",
        "--params",
        params,
        "--json",
        expect=1,
    )
    [missing] = [finding for finding in json.loads(found)["findings"] if not finding["ok"]]
    assert missing["what"] == "a benchmark can't be scored" and "pip install https://" in missing["remedy"]


@pytest.mark.parametrize("item_ids", [["4000000"], ["4000000", "4000001", "4000002"]])
def test_answers_to_other_items_are_refused(item_ids: list[str]) -> None:
    """Items that were made anew, fewer or more, after a policy had answered."""
    items = pd.DataFrame(
        {"benchmark": "chair", "item_id": item_ids, "kind": None, "image": None, "reference": "{}"}
    )
    answers = pd.DataFrame({"item_id": ["4000000", "4000001"], "answer": ["a dog", "a cat"]})
    with pytest.raises(
        UserError,
        match="chair: the answers are to other items than these, e.g. "
        f"'{'4000001' if len(item_ids) == 1 else '4000002'}'",
    ):
        answered_items(items, answers)


@pytest.fixture(scope="module")
def looped(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A loop of one iteration that ends with benchmarks, and what the terminal showed."""
    project = make_project(tmp_path_factory.mktemp("looped") / "project")
    for name in ("catalog", "parameters"):
        shutil.copy(
            project.path / f"conf/miniature_benchmarks/{name}.yml",
            project.path / f"conf/test/{name}_benchmarks.yml",
        )
    for drawn in (FILES, "data/02_intermediate/miniature_benchmarks"):
        shutil.copytree(bench.project.path / drawn, project.path / drawn)
    return project, project.kedro(
        "--params", f"{SMALL},run_id=loop,loop.iterations=1,evaluation.benchmarks=[chair,pope]"
    )


def test_the_loop_ends_with_benchmarks_of_its_first_and_last_policy(looped: tuple[Project, str]) -> None:
    project, shown = looped
    metrics = Bench(project, None).table("08_reporting/benchmarks/benchmark_metrics", "loop")
    assert dict(metrics.groupby("policy")["benchmark"].unique().map(set)) == {
        name: {"chair", "pope"} for name in ("base_policy", "last_policy")
    }
    assert shown.count("Hallucination (CHAIR)") == 1 and "last_policy" in shown


def test_the_stage_answers_benchmarks_after_the_selection(looped: tuple[Project, str]) -> None:
    """With the policy that it selects; from the loop's checkpoints that is the loop's."""
    project, _ = looped
    project.kedro(
        "--pipelines", "evaluation", "--params", f"{SMALL},run_id=stage,evaluation.benchmarks=[chair]"
    )
    bench = Bench(project, None)
    stage, loop = (
        bench.metrics("chair", "trained_policy", "stage"),
        bench.metrics("chair", "last_policy", "loop"),
    )
    pd.testing.assert_frame_equal(stage.drop(columns="policy"), loop.drop(columns="policy"))
    assert bench.table("08_reporting/benchmarks/policy_comparisons", "stage").empty
    nodes = json.loads((project.path / "data/runs/stage/manifest.json").read_text())["nodes"]
    assert {"select_checkpoint", "answer_chair", "score_chair", "collect_benchmarks"} <= {
        name.split(".")[-1] for name in nodes
    }
