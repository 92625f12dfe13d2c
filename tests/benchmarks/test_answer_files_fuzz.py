"""Files of answers, judgements and verdicts made at random: a result or the project's own error, nothing else.

For every benchmark: valid files with bytes changed, cut and put in; and JSON of any structure with the names
that readers look for.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damaged_bytes import damaged
from rlaifv_kedro.benchmarks.answers_elsewhere import score_file
from rlaifv_kedro.benchmarks.benchmark import AnswerFiles
from rlaifv_kedro.benchmarks.coco.words import COCO_CATEGORIES
from rlaifv_kedro.benchmarks.judging.calibration import calibrate, read_verdicts
from rlaifv_kedro.benchmarks.mmhal import type_of
from rlaifv_kedro.benchmarks.records import ANSWER_NAMES, IMAGE_NAMES, ITEM_NAMES, KIND_NAMES, QUESTION_NAMES
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.errors import UserError

EXAMPLES = 60
IMAGE = "COCO_val2014_000000000042.jpg"
NAMES = [*ANSWER_NAMES, *IMAGE_NAMES, *ITEM_NAMES, *KIND_NAMES, *QUESTION_NAMES]
NAMES += ["text", "label", "step", "reply", "error", "objects", "verdict", ""]


def lines(path: Path, *records: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a benchmark, with a few items in the published formats."""
    folder = tmp_path_factory.mktemp("published")
    coco = folder / "coco"
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (7, 42)]
    categories = [{"id": n, "name": name} for n, name in COCO_CATEGORIES.items()]
    lines(
        coco / "instances_val2014.json",
        {
            "images": images,
            "categories": categories,
            "annotations": [{"id": 1, "image_id": 42, "category_id": 18}],
        },
    )
    lines(
        coco / "captions_val2014.json",
        {"images": images, "annotations": [{"id": 1, "image_id": 7, "caption": "A car."}]},
    )
    mmhal = [
        {
            "question_type": type_of(n),
            "image_id": f"i{n}",
            "image_src": f"https://x/{n}_o.jpg",
            "image_content": ["Cat"],
            "question": f"What {n}?",
            "gt_answer": "A cat.",
        }
        for n in range(3)
    ]
    lines(folder / "mmhal" / "mmhal.jsonl", *mmhal)
    refomb = [
        {"id": n, "image_url": "https://x/a.jpg", "question": f"Q{n}?", "description": "d", "type": "OCR"}
        for n in range(3)
    ]
    lines(folder / "refomb" / "RefoMB_dev.jsonl", *refomb)
    lines(folder / "refomb" / "gpt4v_RefoMB_dev.jsonl", *(item | {"answer": "A."} for item in refomb))
    amber = folder / "amber"
    lines(
        amber / "annotations.json",
        {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["fox"]},
        {"id": 2, "type": "relation", "truth": "yes"},
    )
    lines(amber / "relation.json", {"dog": ["puppy"], "fox": []})
    (amber / "safe_words.txt").write_text("light\n")
    for split, thing in (("random", "fox"), ("popular", "car")):
        rows = [
            {"question_id": n, "image": IMAGE, "text": f"Is there a {what}?", "label": label}
            for n, (what, label) in enumerate([("dog", "yes"), (thing, "no")], start=1)
        ]
        lines(folder / "pope" / f"coco_pope_{split}.json", *rows)
    return folder


SCORED: dict[str, tuple[str, dict[str, Any]]] = {
    "chair": ("coco", {"image_id": 42, "answer": "A dog."}),
    "object_halbench": ("coco", {"image_id": 42, "question": "?", "answer": "A dog and a fox."}),
    "mmhal": ("mmhal", {"item_id": 1, "question": "What 1?", "model_answer": "A dog."}),
    "refomb": ("refomb", {"id": "1", "question": "Q1?", "answer": "A dog."}),
    "amber": ("amber", {"id": 2, "response": "Yes"}),
    "pope": ("pope", {"question_id": 2, "image": IMAGE, "prompt": "Is there a fox?\nSay it.", "text": "No"}),
}
JUDGED = {
    "object_halbench": {"item_id": "42", "step": "extract", "reply": '["dog"]'},
    "mmhal": {"item_id": 1, "step": "rating", "reply": "Rating: 4"},
    "refomb": {"item_id": 1, "step": "overall/run 1", "reply": "[[B]]"},
}


def attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except UserError as error:
        assert error.message.strip() and "\n" not in error.message
        error.message.encode()  # a terminal can show it
        return None


def attempt_score(benchmark: str, answers: Path, folder: Path, judgements: Path | None) -> None:
    files = AnswerFiles(
        answers, folder, judgements=judgements, spacy="exact" if benchmark == "amber" else None
    )
    if benchmark == "object_halbench" and judgements is not None:
        files = AnswerFiles(answers, folder, extracted=judgements)  # no spaCy pipeline is here
    scored = attempt(lambda: score_file(BENCHMARKS[benchmark], files))
    if scored is not None:
        defined = scored.metrics["value"].dropna()
        assert len(scored.items) and all(map(math.isfinite, defined))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([42, "42", 42.0, "042", IMAGE, 1, 2, "Yes", "No", "A dog.", "Is there a fox?", "yes"])
    | st.sampled_from(["random", "relation", "rating", "overall/run 1", "Rating: 4", "[[B]]", "extract"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5) | VALUES, max_size=4)


def written(draw: st.DrawFn, valid: dict[str, Any]) -> bytes:
    """A file of any of these kinds: a damaged one, any JSON as lines or list, or bytes alone."""
    kind = draw(st.sampled_from(["changed", "records", "merged", "bytes"]))
    if kind == "changed":
        return draw(damaged(st.just(2 * (json.dumps(valid).encode() + b"\n"))))
    if kind == "bytes":
        start = draw(st.sampled_from([b"", b"[", b"PAR1", b"\xef\xbb\xbf", b"<", b"{", b"PK\x03\x04"]))
        return start + draw(st.binary(max_size=60))
    records = draw(RECORDS)
    if kind == "merged":  # all is right but for some fields
        records = [valid | record if isinstance(record, dict) else record for record in records]
    if draw(st.booleans()):
        return json.dumps(records).encode()
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize("benchmark", SCORED)
@given(data=st.data())
@settings(max_examples=EXAMPLES)
def test_answers(
    benchmark: str, published: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder, valid = SCORED[benchmark]
    suffix = data.draw(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ""]))
    answers = tmp_path_factory.getbasetemp() / f"answers{suffix}"
    answers.write_bytes(written(data.draw, valid))
    judgements = None
    if benchmark in ("mmhal", "refomb"):
        judgements = lines(tmp_path_factory.getbasetemp() / "replies.jsonl", JUDGED[benchmark])
    with_items = data.draw(st.booleans()) or benchmark not in ("mmhal", "refomb", "pope")
    attempt_score(benchmark, answers, published / folder if with_items else None, judgements)


@pytest.mark.parametrize("benchmark", JUDGED)
@given(data=st.data())
@settings(max_examples=EXAMPLES)
def test_judgements(
    benchmark: str, published: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder, valid = SCORED[benchmark]
    answers = lines(tmp_path_factory.getbasetemp() / "answers.jsonl", valid)
    replies = tmp_path_factory.getbasetemp() / "replies.jsonl"
    replies.write_bytes(written(data.draw, JUDGED[benchmark]))
    attempt_score(benchmark, answers, published / folder, replies)


@given(data=st.data())
@settings(max_examples=EXAMPLES)
def test_verdicts(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    valid = {"item_id": 1, "verdict": "yes", "step": "rating"}
    path = tmp_path_factory.getbasetemp() / data.draw(st.sampled_from(["v.jsonl", "v.csv", "v.parquet"]))
    path.write_bytes(written(data.draw, valid))
    step = data.draw(st.sampled_from([None, "rating"]))
    verdicts = attempt(lambda: read_verdicts(path, step=step))
    if verdicts is not None:
        found = attempt(lambda: calibrate(verdicts, verdicts))
        assert found is None or (found.agreement == 1 and str(found))


@pytest.mark.parametrize("benchmark", SCORED)
@given(data=st.data())
@settings(max_examples=EXAMPLES // 2)
def test_published_files(
    benchmark: str, published: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """One of the benchmark's own files is damaged, or is something else."""
    name, valid = SCORED[benchmark]
    folder = tmp_path_factory.mktemp("damaged")
    files = sorted((published / name).iterdir())
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    broken = folder / data.draw(st.sampled_from(files)).name
    broken.write_bytes(data.draw(damaged(st.just(broken.read_bytes())) | st.binary(max_size=40)))
    answers = lines(folder / "answers.txt", valid)
    judgements = (
        lines(folder / "replies.txt", JUDGED[benchmark]) if benchmark in ("mmhal", "refomb") else None
    )
    attempt_score(benchmark, answers, folder, judgements)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"item_id": ' + "9" * 5000 + "}", '{"item_id": "' + "9" * 5000 + '", "answer": "x"}']
    + ['{"item_id": 1, "answer": "\\ud83d"}', '{"item_id": 1, "answer": 1e999}', "\x00\x00", "null", '""']
    + ['{"item_id": 1e300, "answer": "x"}'],
)
def test_what_pythons_json_stumbles_over(published: Path, tmp_path: Path, content: str) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(content)
    judgements = lines(tmp_path / "replies.jsonl", JUDGED["mmhal"])
    for folder in (published / "mmhal", None):
        with pytest.raises(UserError, match=r"answers\.jsonl|replies\.jsonl"):
            score_file(BENCHMARKS["mmhal"], AnswerFiles(answers, folder, judgements=judgements))
