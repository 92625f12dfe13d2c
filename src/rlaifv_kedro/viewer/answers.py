"""Answers to benchmarks and to the loop's test split: policies side by side, with scores and judgements."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.judging.prices import price_and_currency
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import cell, in_words, shortened, with_unit
from rlaifv_kedro.params.run import validate_parameters
from rlaifv_kedro.reporting.terminal import short_names
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.data import DataFolder, rounded
from rlaifv_kedro.viewer.items import BRIEF
from rlaifv_kedro.viewer.thumbnails import Thumbnails

CHUNK = 64
"""Items in a file."""
TEST = "test"
"""How the loop's own measurement is called beside the benchmarks."""


class _Source:
    """Where the tables of one set of items are.

    Attributes:
        name: Of the set, a benchmark or the loop's test split.
        items: The entry with questions and pictures.
        answers, scores, judgements, metrics: Entries of these tables, a policy or all policies each.
    """

    def __init__(self, artifacts: Artifacts, name: str):
        def entries(table: str) -> list[str]:
            of = r"(base|iteration_\d+)" if name == TEST else rf"benchmark\.{name}"
            return [found[0] for found in artifacts.names(rf"{of}\.{table}")]

        self.name, self.items = name, "test_prompts" if name == TEST else f"{name}_items"
        self.answers, self.scores = entries("answers"), entries("item_scores")
        self.judgements, self.metrics = entries("judgements"), entries("metrics")


def write_answers(artifacts: Artifacts, data: DataFolder, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Writes ``answers/NAME/index`` and ``answers/NAME/N`` of each benchmark and of the test split.

    Returns:
        What the first page says of each.

    Raises:
        UserError: A table is damaged, or the folder can't be written.
    """
    named = [found[1] for found in artifacts.names(r"benchmark\.(\w+)\.answers")]
    sources = [_Source(artifacts, name) for name in (TEST, *named)]
    return [_write(artifacts, source, data, thumbnails) for source in sources if source.answers]


def _write(artifacts: Artifacts, source: _Source, data: DataFolder, thumbnails: Thumbnails) -> dict[str, Any]:
    answers = _joined(artifacts, source.answers)
    policies = list(dict.fromkeys(answers["policy"]))
    scores, judgements = _joined(artifacts, source.scores), _joined(artifacts, source.judgements)
    verdict = _verdict(source.name, scores)
    by_item = _by_item(answers, scores, judgements)
    index: dict[str, list[Any]] = {"id": [], "kind": [], "question": [], "picture": [], "values": []}
    for number, items in enumerate(_items(artifacts, source, answers)):
        pictures = thumbnails.of([item.pop("image", None) for item in items])
        chunk = []
        for item, picture in zip(items, pictures):
            own = by_item.get(item["id"], {})
            chunk.append({**item, "picture": picture, "policies": own})
            index["id"].append(item["id"])
            index["kind"].append(item["kind"])
            index["question"].append(shortened(item["question"], BRIEF))
            index["picture"].append(picture)
            index["values"].append([own.get(p, {}).get("scores", {}).get(verdict) for p in policies])
        data.add(f"answers/{source.name}/{number}", chunk)
    benchmark = BENCHMARKS.get(source.name)
    metrics = _metrics(artifacts, source, policies)
    found = {
        "name": source.name,
        "title": benchmark.title if benchmark else "test split of the loop",
        "items": len(index["id"]),
        "titles": [in_words(name) for name in short_names(policies)],
    }
    cells = {with_unit(name): row for name, row in metrics.items()}
    shown = {
        "policies": policies,
        "verdict": verdict,
        "metrics": [[name, *row] for name, row in cells.items()],
    }
    data.add(f"answers/{source.name}/index", {**found, **index, **shown, "chunk": CHUNK})
    published = [with_unit(name) for name in (benchmark.headline if benchmark else ())]
    headline = [[name, *cells[name]] for name in published if name in cells]
    return {**found, "headline": headline, "judged": _judged(artifacts, judgements)}


def _joined(artifacts: Artifacts, names: list[str]) -> pd.DataFrame:
    tables = [artifacts.table(name) for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"policy": [], "item_id": []})


def _verdict(name: str, scores: pd.DataFrame) -> str | None:
    """The metric that is an item's verdict, or else the first of which items have values."""
    there = list(dict.fromkeys(scores.get("metric", ())))
    verdicts = BENCHMARKS["chair" if name == TEST else name].verdicts
    return next((metric for metric in (*verdicts, *there) if metric in there), None)


def _by_item(
    answers: pd.DataFrame, scores: pd.DataFrame, judgements: pd.DataFrame
) -> dict[str, dict[str, dict[str, Any]]]:
    """Item -> policy -> answer, scores, note and judgements."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in answers.itertuples(index=False):
        found[row.item_id][row.policy] = {
            "text": row.answer,
            "tokens": row.token_count,
            "cut": row.finish_reason == "length",
            "scores": {},
        }
    for row in scores.itertuples(index=False):
        own = found[row.item_id].get(row.policy)
        if own is not None:
            [own["scores"][row.metric]] = rounded([row.value])
            if isinstance(row.note, str) and row.note:
                own["note"] = row.note
    for row in judgements.itertuples(index=False):
        own = found[row.item_id].get(row.policy)
        if own is not None:
            texts = [
                value if isinstance(value, str) else None for value in (row.reply, row.verdict, row.error)
            ]
            own.setdefault("judgements", []).append([row.step, *texts])
    return found


def _items(artifacts: Artifacts, source: _Source, answers: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """id, question, kind, reference and image of the items, some at a time."""
    if artifacts.path(source.items) is None:
        rows = answers.drop_duplicates("item_id")
        made = [_item(i, q) for i, q in zip(rows["item_id"], rows["question"])]
        yield from (made[start : start + CHUNK] for start in range(0, len(made), CHUNK))
        return
    there = _in_pictures(artifacts, source)
    columns = ("prompt_id", "item_id", "question", "kind", "reference", "image_id", "image")
    for rows in artifacts.rows(source.items, columns, CHUNK):
        yield [
            _item(
                row.get("item_id") or row["prompt_id"],
                row["question"],
                row.get("kind"),
                json.loads(row.get("reference") or "{}") | there.get(row.get("image_id"), {}),
                row["image"],
            )
            for row in rows
        ]


def _in_pictures(artifacts: Artifacts, source: _Source) -> dict[int, dict[str, str]]:
    """Which objects are in the pictures of the test split, by image."""
    truth = artifacts.table("test_truth") if source.name == TEST else None
    if truth is None:
        return {}
    return {
        i: {"in the picture": ", ".join(names)} for i, names in zip(truth["image_id"], truth["categories"])
    }


def _item(
    item_id: str,
    question: str,
    kind: str | None = None,
    reference: dict[str, Any] | None = None,
    image: Any = None,
) -> dict[str, Any]:
    return {"id": item_id, "question": question, "kind": kind, "reference": reference, "image": image}


def _judged(artifacts: Artifacts, judgements: pd.DataFrame) -> dict[str, Any] | None:
    """What the judge was asked and has replied, in tokens, and what that costs by the prices now."""
    if judgements.empty:
        return None
    tokens = {name: int(judgements[name].fillna(0).sum()) for name in ("prompt_tokens", "reply_tokens")}
    found = {"replies": int(judgements["replies"].sum()), **tokens, "cost": None, "currency": ""}
    try:
        parameters = validate_parameters(artifacts.run.parameters)
        prices = parameters.judge.prices and artifacts.project / parameters.judge.prices
        price, currency = price_and_currency(parameters.models.judge, prices)
    except UserError:  # an earlier version's parameters, or no file of prices here
        return found
    if price:
        found |= {"cost": price.cost(**tokens), "currency": currency}
    return found


def _metrics(artifacts: Artifacts, source: _Source, policies: list[str]) -> dict[str, list[str]]:
    """Metric -> a cell a policy, of what is measured over all items."""
    metrics = _joined(artifacts, source.metrics)
    if metrics.empty:
        return {}
    rows = {}
    for name, own in metrics.groupby("metric", sort=False):
        cells = {row["policy"]: cell(name, row) for row in own.to_dict("records")}
        rows[name] = [cells.get(policy, "-") for policy in policies]
    return rows
