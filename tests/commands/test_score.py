"""The score command: files in, JSON out; and what it says of files that are no good. Files are made here,
in the published formats.
"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from judge_server import judge_server
from rlaifv_kedro.benchmarks.answers_elsewhere import score_file
from rlaifv_kedro.benchmarks.benchmark import AnswerFiles
from rlaifv_kedro.benchmarks.judgement import Judgement
from rlaifv_kedro.benchmarks.refomb import REFOMB
from rlaifv_kedro.commands import cli
from tiny_spacy import tiny_pipeline


def lines(path: Path, *records: dict | str) -> Path:
    path.write_text(
        "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    )
    return path


def run(benchmark: str, *options: str | Path) -> Result:
    return CliRunner().invoke(cli, ["score", benchmark, *map(str, options)])


def scores(benchmark: str, *options: str | Path) -> dict[str, dict]:
    result = run(benchmark, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["metrics"]


def complaint(benchmark: str, *options: str | Path) -> str:
    result = run(benchmark, *options)
    assert result.exit_code == 1 and result.stdout == "", result.output
    return result.stderr


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Image 7 has a cat, and by a caption a bus; image 8, of the other split, has nothing."""
    folder = tmp_path / "coco"
    folder.mkdir()
    for split, image_id, objects, captions in (("train2014", 7, [17], ["A bus."]), ("val2014", 8, [], [])):
        images = [{"id": image_id, "file_name": f"{image_id}.jpg"}]
        found = [
            {"id": i, "image_id": image_id, "category_id": category} for i, category in enumerate(objects)
        ]
        texts = [{"id": i, "image_id": image_id, "caption": caption} for i, caption in enumerate(captions)]
        categories = [{"id": 17, "name": "cat"}, {"id": 6, "name": "bus"}]
        (folder / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": found, "categories": categories})
        )
        (folder / f"captions_{split}.json").write_text(json.dumps({"images": images, "annotations": texts}))
    return folder


@pytest.fixture
def described(tmp_path: Path) -> Path:
    return lines(
        tmp_path / "answers.jsonl",
        {"image_id": 7, "question": "?", "answer": "Two cats, a bus and a dog."},
        {"image_id": 7, "question": "?", "answer": "A kitten, a cat and a bus there."},
        {"image_id": 8, "question": "?", "answer": "There is nothing at all."},
    )


def test_chair(coco: Path, described: Path):
    """Mentions 3 + 3, of them the dog is not there; recall 2 + 2 of 2 + 2 + 0."""
    found = scores("chair", "--answers", described, "--annotations", coco)
    assert (
        found["mention_hallucination"]["value"] == 1 / 6 and found["response_hallucination"]["value"] == 1 / 2
    )
    assert (found["object_recall"]["value"], found["object_recall"]["n"], found["mean_words"]["n"]) == (
        1,
        4,
        3,
    )
    assert (
        found["chair_s"]["protocol"] == "CHAIR by rule, vocabulary own-80-v1; standard errors by image"
    )  # image 7 has two answers
    assert (
        scores("object_halbench", "--answers", described, "--annotations", coco)["mention_hallucination"][
            "value"
        ]
        == 1 / 6
    )


def test_a_published_vocabulary(coco: Path, described: Path, tmp_path: Path):
    vocabulary = lines(tmp_path / "words.txt", "cat", "bus")
    found = scores("chair", "--answers", described, "--annotations", coco, "--vocabulary", vocabulary)
    assert (
        found["mention_hallucination"]["n"] == 4 and "vocabulary file:" in found["chair_s"]["protocol"]
    )  # no kitten, no dog


def test_extracted_objects(coco: Path, described: Path, tmp_path: Path):
    """The second answer about an image is IMAGE/2. The third extraction failed."""
    extracted = lines(
        tmp_path / "objects.jsonl",
        {"item_id": "7/2", "objects": ["bus"]},
        {"item_id": 7, "objects": ["cat", "cat", "dog"]},
        {"item_id": 8, "objects": None},
    )
    found = scores("object_halbench", "--answers", described, "--annotations", coco, "--extracted", extracted)
    assert (found["mention_hallucination"]["value"], found["mention_hallucination"]["n"]) == (1 / 3, 3)
    assert (found["chair_s"]["n"], found["chair_s"]["failed"], found["object_recall"]["value"]) == (
        2,
        1,
        2 / 4,
    )


def test_extracted_objects_of_an_image_with_several_answers(coco: Path, described: Path, tmp_path: Path):
    """Their order in the file doesn't say which answer they are of."""
    extracted = lines(
        tmp_path / "objects.jsonl", {"image_id": 8, "objects": []}, {"image_id": 7, "objects": []}
    )
    said = complaint(
        "object_halbench", "--answers", described, "--annotations", coco, "--extracted", extracted
    )
    assert "line 2: there are several answers about image 7. Add the 'item_id'" in said


def test_replies_of_an_extractor(coco: Path, described: Path, tmp_path: Path):
    tiny_pipeline().to_disk(tmp_path / "tiny")
    replies = lines(
        tmp_path / "replies.jsonl",
        {"item_id": "7", "step": "extract", "reply": '["cat", "dogs"]'},
        {"item_id": "7/2", "step": "extract", "reply": '["cat", "bu'},
        {"item_id": 8, "step": "extract", "reply": "[]"},
    )
    options = ("--answers", described, "--annotations", coco, "--judgements", replies)
    found = scores("object_halbench", *options, "--spacy", tmp_path / "tiny")
    assert (found["mention_hallucination"]["value"], found["chair_s"]["failed"]) == (1 / 2, 1)
    assert "analysed by en_tiny 1.2.3" in found["chair_s"]["protocol"]
    assert "pip install https://github.com/explosion/spacy-models/" in complaint("object_halbench", *options)


MMHAL = [
    {
        "question_type": kind,
        "question_topic": "x",
        "image_id": f"i{n}",
        "image_content": ["Cat"],
        "question": "What?",
        "gt_answer": "A cat.",
    }
    for n, kind in enumerate(["attribute", "adversarial", "comparison"])
]


def test_mmhal(tmp_path: Path):
    """With the published file, filled in, or answers by index; and with items to put them to."""
    filled = tmp_path / "mmhal_answers.json"
    filled.write_text(json.dumps([item | {"model_answer": "A dog."} for item in MMHAL]))
    ratings = [
        {"item_id": n, "step": "rating", "reply": f"Rating: {rating}"} for n, rating in enumerate([6, 1, 9])
    ]
    replies = lines(tmp_path / "replies.jsonl", *ratings)
    found = scores("mmhal", "--answers", filled, "--judgements", replies)
    assert (found["score"]["value"], found["score"]["failed"], found["score_unparsed_as_0"]["value"]) == (
        3.5,
        1,
        7 / 3,
    )
    assert (found["score_attribute"]["value"], found["score_comparison"]["value"]) == (6, None)
    indexed = lines(tmp_path / "indexed.jsonl", *({"item_id": n, "answer": "A dog."} for n in range(3)))
    assert scores("mmhal", "--answers", indexed, "--judgements", replies) == found
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "mmhal.json").write_text(json.dumps(MMHAL))
    some = lines(tmp_path / "some.jsonl", {"image_id": "i1", "question": "What?", "answer": "A dog."})
    part = scores(
        "mmhal",
        "--answers",
        some,
        "--annotations",
        tmp_path / "items",
        "--judgements",
        lines(tmp_path / "one.jsonl", ratings[1]),
    )
    assert part["score_adversarial"]["value"] == 1 and part["score"]["protocol"].endswith(
        "; answers to 1 of 3 items"
    )


@pytest.fixture
def refomb(tmp_path: Path) -> Path:
    folder = tmp_path / "refomb"
    folder.mkdir()
    items = [
        {
            "id": n,
            "image_url": f"u{n}",
            "question": "What?",
            "description": "A cat.",
            "type": "OCR",
            "answer": "",
        }
        for n in (0, 1)
    ]
    lines(folder / "RefoMB_dev.jsonl", *items)
    lines(folder / "gpt4v_RefoMB_dev_0521.jsonl", *(item | {"answer": "Some cat."} for item in items))
    return folder


def test_refomb(refomb: Path, tmp_path: Path):
    answers = lines(
        tmp_path / "answers.jsonl",
        *({"image_id": f"u{n}", "question": "What?", "answer": "A cat."} for n in (0, 1)),
    )
    said = [
        (0, "overall/run 1", "B"),
        (1, "overall/run 1", "C"),
        (0, "trustworthiness/run 1", "A"),
        (1, "trustworthiness/run 1", "A"),
    ]
    replies = lines(
        tmp_path / "replies.jsonl",
        *({"item_id": n, "step": step, "reply": f"[[{verdict}]]"} for n, step, verdict in said),
    )
    found = scores("refomb", "--answers", answers, "--annotations", refomb, "--judgements", replies)
    assert (
        found["overall_score"]["value"],
        found["overall_score_ocr"]["n"],
        found["trustworthiness_score"]["value"],
    ) == (0.75, 2, 0)


class FairJudge:
    def ask(self, requests, read):
        assert all("Some cat." in request.prompt or "trustworthiness" in request.step for request in requests)
        return [Judgement(request, "[[C]]", read("[[C]]"), None) for request in requests]


def test_a_judge_is_asked_where_there_are_no_judgements(refomb: Path, tmp_path: Path):
    answers = lines(tmp_path / "answers.jsonl", *({"id": n, "answer": "A cat."} for n in (0, 1)))
    found = score_file(
        REFOMB, AnswerFiles(answers, refomb, judge=FairJudge(), judge_label="a fair judge")
    ).metrics.set_index("metric")
    assert (
        found.loc["overall_score", "value"] == 0.5
        and found.loc["trustworthiness_position_bias", "value"] == 0
    )
    assert found.loc["overall_score", "protocol"] == "RefoMB, compared by a fair judge, mean of 3 runs"


@pytest.fixture
def amber(tmp_path: Path) -> Path:
    folder = tmp_path / "amber"
    folder.mkdir()
    annotations = [
        {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["fox"]},
        {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
        {"id": 3, "type": "relation", "truth": "yes"},
    ]
    (folder / "annotations.json").write_text(json.dumps(annotations, indent=1))
    (folder / "relation.json").write_text(json.dumps({"dog": ["puppy"], "fox": []}, indent=1))
    (folder / "safe_words.txt").write_text("light\nshoe")
    return folder


def test_amber(amber: Path, tmp_path: Path):
    """As AMBER's own answers are written."""
    answers = tmp_path / "answers.json"
    answers.write_text(
        json.dumps(
            [
                {"id": 1, "response": "a puppy and a fox"},
                {"id": 2, "response": "No"},
                {"id": 3, "response": "Yes"},
            ]
        )
    )
    found = scores("amber", "--answers", answers, "--annotations", amber, "--spacy", "exact")
    assert [found[name]["value"] for name in ("chair", "cover", "hal", "cog", "accuracy", "f1")] == [
        0.5,
        1,
        1,
        1,
        1,
        1,
    ]
    message = complaint("amber", "--answers", answers, "--annotations", amber)
    assert "en_core_web_lg-3.8.0-py3-none-any.whl" in message and "--spacy exact" in message
    questions = lines(tmp_path / "questions.jsonl", {"item_id": 2, "answer": "Yes"})
    part = scores("amber", "--answers", questions, "--annotations", amber)  # no description, so no pipeline
    assert part["recall"]["value"] == 0 and "chair" not in part and "1 of 3" in part["recall"]["protocol"]


def test_amber_by_image(amber: Path, tmp_path: Path):
    """The published queries, where the release has them, say which questions share an image."""
    (amber / "query").mkdir()
    queries = [{"id": n, "image": f"AMBER_{max(1, n - 2)}.jpg", "query": f"Is it {n}?"} for n in (1, 2, 3)]
    (amber / "query" / "query_all.json").write_text(json.dumps(queries))
    answers = lines(tmp_path / "answers.jsonl", {"id": 2, "response": "No"}, {"id": 3, "response": "Yes"})
    found = scores("amber", "--answers", answers, "--annotations", amber)["accuracy"]
    assert found["value"] == 1 and "standard errors by image" in found["protocol"]
    answers = lines(
        tmp_path / "answers.jsonl", {"image": "AMBER_1.jpg", "query": "Is it 3?", "response": "No"}
    )
    found = scores("amber", "--answers", answers, "--annotations", amber)["accuracy"]
    assert found["value"] == 0 and "1 of 3 items" in found["protocol"]


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    folder = tmp_path / "pope"
    folder.mkdir()
    for split, other in (("random", "fox"), ("popular", "cat")):
        questions = [("Is there a dog?", "yes"), (f"Is there a {other}?", "no")]
        image = "COCO_val2014_000000000042.jpg"
        rows = [
            {"question_id": n, "image": image, "text": text, "label": label}
            for n, (text, label) in enumerate(questions, 1)
        ]
        lines(folder / f"coco_pope_{split}.json", *rows)
    return folder


def test_pope_by_question(pope: Path, tmp_path: Path):
    """An answer is put to the question in every split that has it."""
    said = [("Is there a dog?", "Yes"), ("Is there a fox?", "Yes"), ("Is there a cat?", "No.")]
    answers = lines(
        tmp_path / "answers.jsonl",
        *({"image_id": 42, "question": question, "answer": answer} for question, answer in said),
    )
    found = scores("pope", "--answers", answers, "--annotations", pope)
    assert [
        found[name]["value"]
        for name in ("accuracy_random", "accuracy_popular", "f1_popular", "yes_ratio_random")
    ] == [0.5, 1, 1, 1]


def test_pope_by_one_split_alone(pope: Path, tmp_path: Path):
    """Numbers alone will do, if it is said which split's they are."""
    answers = lines(tmp_path / "answers.jsonl", *({"question_id": n, "text": "No"} for n in (1, 2)))
    found = scores("pope", "--answers", answers, "--annotations", pope / "coco_pope_popular.json")
    assert found["accuracy_popular"]["value"] == 0.5 and "accuracy_random" not in found
    assert found["accuracy_popular"]["protocol"].endswith("; standard errors by image")
    message = complaint("pope", "--answers", answers, "--annotations", pope)
    assert "2 items have question_id '2', such as 'random/2' and 'popular/2'. Add 'image_id' or" in message
    other = lines(tmp_path / "other.json", {})
    assert "is no folder. Give the folder with" in complaint(
        "pope", "--answers", answers, "--annotations", other
    )


def test_pope_with_labels_of_its_own(tmp_path: Path):
    answers = lines(
        tmp_path / "answers.jsonl", {"label": "yes", "answer": "Yes"}, {"label": "no", "answer": "Yes"}
    )
    assert scores("pope", "--answers", answers)["accuracy"]["value"] == 0.5
    answers = lines(
        tmp_path / "answers.jsonl",
        {"label": "yes", "answer": "Yes", "split": "random"},
        {"label": "no", "answer": "Yes"},
    )
    assert "line 2: some records have a 'split', others don't" in complaint("pope", "--answers", answers)
    questions = lines(tmp_path / "questions.jsonl", {"question_id": 1, "text": "A dog?", "label": "yes"})
    assert "line 1: its text is a question" in complaint("pope", "--answers", questions)
    numbered = [
        {
            "question_id": 1,
            "image": 42,
            "text": "A dog?",
            "label": "yes",
            "category": split,
            "response": "Yes",
        }
        for split in ("random", "popular")
    ]
    answers = lines(tmp_path / "answers.jsonl", *numbered, numbered[0] | {"question_id": 2, "label": "no"})
    found = scores("pope", "--answers", answers)
    assert [found[f"accuracy_{split}"]["value"] for split in ("random", "popular")] == [0.5, 1]
    assert found["accuracy_random"]["protocol"].endswith("; standard errors by image")


def test_table_for_people(coco: Path, described: Path):
    result = run("chair", "--answers", described, "--annotations", coco)
    assert (
        result.exit_code == 0 and "object_recall" in result.stdout and "vocabulary own-80-v1" in result.stdout
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: [1] is no JSON object"),
        ({"image_id": 7}, "line 2: 'answer' or 'text' should be a text, but is missing"),
        ({"image_id": 7, "answer": 5}, "line 2: 'answer' should be a text, but is 5"),
        ({"image_id": 7, "answer": None}, "line 2: 'answer' or 'text' should be a text, but is missing"),
        ({"image_id": 7, "answer": float("nan")}, "line 2: 'answer' should be a text, but is nan"),
        ({"image_id": 7, "answer": ["A cat."]}, "line 2: 'answer' should be a text, but is ['A cat.']"),
        (
            {"image_id": True, "answer": ""},
            "line 2: 'image_id' should be a text or a whole number, but is True",
        ),
        (
            {"image_id": 7.5, "answer": ""},
            "line 2: 'image_id' should be a text or a whole number, but is 7.5",
        ),
        ({"image_id": "x", "answer": ""}, "line 2: 'image_id' should be COCO's number"),
        ({"answer": ""}, "line 2: 'image_id' should be COCO's number"),
        ({"image_id": 9, "answer": ""}, "image 9 has no annotations"),
        ({"item_id": "7", "image_id": 7, "answer": ""}, "line 2: item '7' was there before"),
    ],
)
def test_damaged_answers_are_named(coco: Path, tmp_path: Path, record: dict | str, message: str):
    answers = lines(tmp_path / "answers.jsonl", {"image_id": 7, "answer": "A cat."}, record)
    assert message in complaint("chair", "--answers", answers, "--annotations", coco)


def test_damaged_judgements_are_named(tmp_path: Path):
    answers = lines(tmp_path / "answers.jsonl", {"item_id": 0, "answer": "A cat."})
    fine = {"item_id": 0, "step": "rating", "reply": "Rating: 1"}
    for record, message in (
        ({"item_id": 1, "step": "rating", "reply": ""}, "line 2: there is no answer with the item_id '1'"),
        (
            {"item_id": 0, "step": "rates", "reply": ""},
            "line 2: 'rates' is no step of this benchmark. A step of it is 'rating'",
        ),
        (fine, "line 2: item '0' has a reply of step 'rating' before"),
        ({"item_id": 0, "step": 3, "reply": ""}, "line 2: 'step' should be a text, but is 3"),
    ):
        replies = lines(tmp_path / "replies.jsonl", fine, record)
        assert message in complaint("mmhal", "--answers", answers, "--judgements", replies)
    assert "--judgements is missing" in complaint("mmhal", "--answers", answers)


def test_a_judge_is_asked_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By --params alone; its replies are kept beside the answers, so that none is asked for twice."""
    monkeypatch.chdir(tmp_path)
    Path("answers.json").write_text(json.dumps([item | {"model_answer": "A dog."} for item in MMHAL]))
    Path("items").mkdir()
    Path("items/mmhal.json").write_text(json.dumps(MMHAL))
    files = ("--answers", "answers.json", "--annotations", "items")
    with judge_server(lambda prompt: "Rating: 4") as server:
        named = f"models.judge.backend=openai,models.judge.model=judge,models.judge.url={server.url}"
        asked = scores("mmhal", *files, "--params", named)
        assert len(server.bodies) == 1  # the three prompts are one text
        assert asked["score"]["value"] == 4
    assert list(Path("judge_store").iterdir()) != []
    assert scores("mmhal", *files, "--params", named) == asked
    assert "judge" in complaint("mmhal", *files, "--params", "judge=3")
    assert "is not inside a Kedro project" in complaint("mmhal", *files, "--env", "qwen")


def test_answers_that_fit_no_item_or_contradict_each_other_are_named(pope: Path, tmp_path: Path):
    known = {"image_id": 42, "question": "Is there a dog?", "answer": "Yes"}
    for record, message in (
        (
            known | {"question": "Is there a cow?"},
            "line 2: there is no item with image_id '42' and the question 'Is there a cow?'",
        ),
        (known | {"answer": "No"}, "line 2: there is another answer to the same question"),
        ({"answer": "No"}, "line 2: it has neither item_id nor image_id"),
    ):
        answers = lines(tmp_path / "answers.jsonl", known, record)
        assert message in complaint("pope", "--answers", answers, "--annotations", pope)


def test_an_empty_cell_of_a_table_is_no_answer(tmp_path: Path):
    """It may be one that is lost; JSON tells it from an empty answer, which POPE takes for a yes."""
    table = lines(tmp_path / "answers.csv", "item_id,label,answer", "1,yes,Yes", "2,no,")
    assert "line 3: 'answer' or 'text' should be a text, but is missing" in complaint(
        "pope", "--answers", table
    )
    answers = lines(
        tmp_path / "answers.jsonl",
        {"item_id": 1, "label": "yes", "answer": "Yes"},
        {"item_id": 2, "label": "no", "answer": ""},
    )
    assert scores("pope", "--answers", answers)["accuracy"]["value"] == 0.5


def test_missing_and_useless_options_are_named(coco: Path, described: Path, tmp_path: Path):
    assert "absent.jsonl" in complaint("chair", "--answers", tmp_path / "absent.jsonl", "--annotations", coco)
    assert "--annotations is missing" in complaint("chair", "--answers", described)
    assert "--extracted: chair has no use for it" in complaint(
        "chair", "--answers", described, "--extracted", described
    )
    assert "holds no instances_*.json" in complaint(
        "chair", "--answers", described, "--annotations", tmp_path
    )
    assert "holds no record" in complaint(
        "chair", "--answers", lines(tmp_path / "empty.jsonl", ""), "--annotations", coco
    )
    both = ("--extracted", described, "--judgements", described)
    assert "Give one of the two" in complaint(
        "object_halbench", "--answers", described, "--annotations", coco, *both
    )
