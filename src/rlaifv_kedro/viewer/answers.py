"""Answers to benchmarks and to the loop's test split: policies side by side, with scores and judgements."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.judging.prices import price_and_currency
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import cell, in_words, shortened, with_unit
from rlaifv_kedro.params.run import validate_parameters
from rlaifv_kedro.reporting.terminal import short_names
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.data import rounded, write_data
from rlaifv_kedro.viewer.items import BRIEF, CHUNK
from rlaifv_kedro.viewer.thumbnails import Thumbnails

TEST = "test"
"""How the loop's own measurement is called beside the benchmarks."""


def write_answers(artifacts: Artifacts, data: Path, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    """Writes ``answers/NAME/index`` and ``answers/NAME/N`` of each benchmark and of the test split.

    Returns:
        What the first page says of each.

    Raises:
        UserError: A table is damaged, or the folder can't be written.
    """
    named = [found[1] for found in artifacts.names(r"benchmark\.(\w+)\.answers")]
    of_loop = [TEST] if artifacts.names(rf"{_owner(TEST)}\.answers") else []
    return [_write(artifacts, name, data, thumbnails) for name in (*of_loop, *named)]


def _owner(name: str) -> str:
    """A regular expression of the part before the dot in the entries of a benchmark, or of the test split."""
    return r"(base|iteration_\d+)" if name == TEST else rf"benchmark\.{name}"


def _write(artifacts: Artifacts, name: str, data: Path, thumbnails: Thumbnails) -> dict[str, Any]:
    """Writes the files of a benchmark, or of the test split."""
    answers, scores, judgements, metrics = (
        _joined(artifacts, rf"{_owner(name)}\.{table}")
        for table in ("answers", "item_scores", "judgements", "metrics")
    )
    policies = list(dict.fromkeys(answers["policy"]))
    verdict = _verdict(name, scores)
    by_item = _by_item(answers, scores, judgements)
    index: dict[str, list[Any]] = {"id": [], "kind": [], "question": [], "picture": [], "values": []}
    for number, items in enumerate(_items(artifacts, name, answers)):
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
        write_data(data, f"answers/{name}/{number}", chunk)
    benchmark = BENCHMARKS.get(name)
    found = {
        "name": name,
        "title": benchmark.title if benchmark else "test split of the loop",
        "items": len(index["id"]),
        "titles": [in_words(policy) for policy in short_names(policies)],
    }
    cells = _cells(metrics, policies)
    shown = {
        "policies": policies,
        "verdict": verdict,
        "metrics": [[metric, *row] for metric, row in cells.items()],
    }
    write_data(data, f"answers/{name}/index", {**found, **index, **shown, "chunk": CHUNK})
    published = [with_unit(metric) for metric in (benchmark.headline if benchmark else ())]
    headline = [[metric, *cells[metric]] for metric in published if metric in cells]
    return {**found, "headline": headline, "judged": _judged(artifacts, judgements)}


def _joined(artifacts: Artifacts, pattern: str) -> pd.DataFrame:
    """The tables of all entries that are called so in one."""
    tables = [artifacts.table(found[0]) for found in artifacts.names(pattern)]
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


def _items(artifacts: Artifacts, name: str, answers: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """id, question, kind, reference and image of the items, some at a time."""
    entry = "test_prompts" if name == TEST else f"{name}_items"
    if artifacts.path(entry) is None:
        rows = answers.drop_duplicates("item_id")
        made = [_item(i, q) for i, q in zip(rows["item_id"], rows["question"])]
        yield from (made[start : start + CHUNK] for start in range(0, len(made), CHUNK))
        return
    there = _in_pictures(artifacts) if name == TEST else {}
    columns = ("prompt_id", "item_id", "question", "kind", "reference", "image_id", "image")
    for rows in artifacts.rows(entry, columns, CHUNK):
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


def _in_pictures(artifacts: Artifacts) -> dict[int, dict[str, str]]:
    """Which objects are in the pictures of the test split, by image."""
    truth = artifacts.table("test_truth")
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


def _cells(metrics: pd.DataFrame, policies: list[str]) -> dict[str, list[str]]:
    """Metric with its unit -> a cell a policy, of what is measured over all items."""
    known = {(row["metric"], row["policy"]): cell(row["metric"], row) for row in metrics.to_dict("records")}
    names = dict.fromkeys(metric for metric, _ in known)
    return {with_unit(name): [known.get((name, policy), "-") for policy in policies] for name in names}
