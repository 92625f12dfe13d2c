"""Which item an answer is to, by whatever the record says; and what is refused, rather than guessed."""

from typing import Any

import pytest

from rlaifv_kedro.benchmarks.benchmark import Item
from rlaifv_kedro.benchmarks.matching import match_answers
from rlaifv_kedro.benchmarks.pope import read_items
from rlaifv_kedro.benchmarks.records import Record, image_name, image_number
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.errors import UserError

SUFFIX = "\nAnswer the question using a single word or phrase."


def pope_items() -> list[Item]:
    """Two pictures and two splits; in each, of each picture, a dog that is there and something that isn't."""
    rows = {
        split: [
            {
                "question_id": 2 * picture + there + 1,
                "image": f"COCO_val2014_{101 + picture:012d}.jpg",
                "text": f"Is there a {'dog' if there else other} in the image?",
                "label": "yes" if there else "no",
            }
            for picture in (0, 1)
            for there in (0, 1)
        ]
        for split, other in (("random", "fox"), ("popular", "chair"))
    }
    return read_items(**rows)


def found(*fields: dict[str, Any], items: list[Item] | None = None, **kwargs: Any) -> dict[str, str]:
    """item_id -> answer."""
    records = [Record(own, f"line {number}") for number, own in enumerate(fields, start=1)]
    table = match_answers(pope_items() if items is None else items, records, image_number, **kwargs)
    return dict(zip(table["item_id"], table["answer"], strict=True))


def said(picture: int, thing: str, answer: str = "No", **fields: Any) -> dict[str, Any]:
    return {"image_id": picture, "question": f"Is there a {thing} in the image?", "answer": answer, **fields}


@pytest.mark.parametrize(
    "picture",
    [101, 101.0, "101", "0101", " 101 ", "000000000101.jpg", "COCO_val2014_000000000101.jpg"]
    + ["https://images.cocodataset.org/val2014/COCO_val2014_000000000101.jpg?size=large", "C:\\val\\101.png"],
)
def test_a_picture_by_any_of_its_names(picture: Any) -> None:
    for name in ("image_id", "image", "image_path"):
        record = said(0, "fox", "Yes.") | {"image_id": None, name: picture}
        assert found(record) == {"random/1": "Yes."}


@pytest.mark.parametrize(
    "question",
    [
        "Is there a fox in the image?",
        "is there a fox  in the image? ",
        "<image>\nIs there a fox in the image?",
    ]
    + ["Is there a fox in the image?" + SUFFIX, "Is there a fox in the image? Please answer yes or no."],
)
def test_a_question_with_what_a_program_puts_around_it(question: str) -> None:
    for name in ("question", "prompt", "query", "text"):
        assert found({"image": "x_101.jpg", name: question, "answer": "No"}) == {"random/1": "No"}


def test_the_longest_question_counts_and_words_are_whole() -> None:
    items = [
        Item("short", "Is it a cat", "", picture="1"),
        Item("long", "Is it a cat in a hat", "", picture="1"),
    ]
    for question, item_id in (("Is it a cat in a hat?", "long"), ("Is it a cat? Say yes.", "short")):
        assert found({"image": 1, "question": question, "answer": "x"}, items=items) == {item_id: "x"}
    with pytest.raises(UserError, match="no item with image '1' and the question 'Is it a caterpillar"):
        found({"image": 1, "question": "Is it a caterpillar", "answer": "x"}, items=items)


def test_llava_and_pope_answers_by_number_and_question() -> None:
    """{question_id, prompt, text}: POPE numbers each split anew, and the question says which split it is."""
    asked = {1: "fox", 2: "dog", 3: "fox", 4: "dog"}
    rows = [
        {"question_id": n, "prompt": f"Is there a {thing} in the image?" + SUFFIX, "text": f"a{n}"}
        for n, thing in asked.items()
    ]
    assert found(*rows) == {f"random/{n}": f"a{n}" for n in asked}  # not popular's dogs: it isn't that split
    assert found(*rows[1::2]) == {f"{s}/{n}": f"a{n}" for s in ("random", "popular") for n in (2, 4)}


def test_numbers_alone_need_the_split() -> None:
    rows = [{"question_id": n, "text": f"a{n}"} for n in (1, 2)]
    with pytest.raises(UserError, match=r"line 1: 2 items have question_id '1', such as 'random/1' and 'po"):
        found(*rows)
    expected = {"popular/1": "a1", "popular/2": "a2"}
    assert found(*(row | {"category": "Popular"} for row in rows)) == expected
    assert found(rows[0], file_name="coco_pope_popular_answers.json") == {"popular/1": "a1"}
    with pytest.raises(UserError, match="2 items have question_id '1'"):
        found(*rows, file_name="random_and_popular.jsonl")
    only = [item for item in pope_items() if item.kind == "popular"]
    assert found(*rows, items=only) == expected


def test_one_answer_is_never_spread_over_the_questions_of_a_picture() -> None:
    with pytest.raises(
        UserError, match="4 items have image '101', such as .* Add 'item_id' or 'question' or"
    ):
        found({"image": 101, "answer": "Yes"})
    with pytest.raises(
        UserError, match="2 items have the question 'Is there a fox .* Add 'item_id' or 'image"
    ):
        found({"question": "Is there a fox in the image?", "answer": "Yes"})
    one = [Item("a", "Describe it.", "", picture="x/1.jpg"), Item("b", "Describe it.", "", picture="x/2.jpg")]
    assert found({"image": "1.jpg", "answer": "A cat."}, items=one) == {"a": "A cat."}


def test_all_that_a_record_says_has_to_hold() -> None:
    """A number that counts otherwise, as VLMEvalKit's index does, is refused and not passed over."""
    for fields in (said(101, "fox", index=3), said(101, "fox", split="popular"), said(102, "dog", id="1")):
        with pytest.raises(UserError, match="line 1: there is no item with .* and .*take out what numbers"):
            found(fields)
    with pytest.raises(UserError, match="line 1: it has neither item_id nor image_id nor question"):
        found({"answer": "Yes"})
    with pytest.raises(
        UserError, match="line 1: 'image' should be a text or a whole number, but is {'bytes'"
    ):
        found({"image": {"bytes": None}, "answer": "Yes"})


def test_a_file_of_questions_is_no_file_of_answers() -> None:
    row = {"question_id": 1, "image": 101, "text": "Is there a fox in the image?", "label": "no"}
    with pytest.raises(UserError, match="line 1: its text is a question"):
        found(row)
    assert found(row | {"answer": "No"}) == {"random/1": "No"}
    asked = Item("1", "Describe it.", "", picture="1")
    with pytest.raises(UserError, match="line 1: its text is a question"):
        found({"image": 1, "text": "Describe it."}, items=[asked])
    assert found({"image": 1, "prompt": "Describe it.", "text": "Why?"}, items=[asked]) == {"1": "Why?"}


def test_the_right_answer_beside_the_models_is_not_taken_for_it() -> None:
    """VLMEvalKit's tables have the label as `answer`, and the model's as `prediction`."""
    with pytest.raises(UserError, match="line 2: 'answer' and 'prediction' differ"):
        found(said(101, "fox", "No", prediction="No"), said(102, "fox", "No", prediction="Yes"))


def test_each_benchmark_knows_its_pictures_and_questions() -> None:
    """MMHal-Bench by id, address or file name of the picture; RefoMB's pictures have several questions."""
    mmhal = [
        Item("0", "What?", "", kind="attribute", picture="https://a/b/7_x_o.jpg", image_key="df62"),
        Item("1", "Who?", "", kind="adversarial", picture="https://a/b/8_y_o.jpg", image_key="ab12"),
    ]
    key = BENCHMARKS["mmhal"].image_key
    for name in ("df62", "https://a/b/7_x_o.jpg", "images/7_x_o.jpg", "7_x_o.png"):
        table = match_answers(mmhal, [Record({"image_id": name, "model_answer": "x"}, "")], key)
        assert table["item_id"].tolist() == ["0"]
    refomb = [Item(n, f"Q{n}?", "", kind="OCR", picture="https://a/20240319__20.jpg") for n in ("0", "1")]
    for fields in ({"id": 1}, {"image_url": "https://a/20240319__20.jpg", "question": "Q1?"}):
        table = match_answers(refomb, [Record(fields | {"answer": "x"}, "")])
        assert table["item_id"].tolist() == ["1"]
    with pytest.raises(UserError, match="2 items have image_url"):
        match_answers(refomb, [Record({"image_url": "20240319__20.jpg", "answer": "x"}, "")])


def test_without_the_questions_a_kind_is_no_question() -> None:
    """AMBER's annotations alone have no questions; a record's own question is then not looked at."""
    items = [Item("1", "generative", "", kind="generative"), Item("2", "relation", "", kind="relation")]
    assert found({"id": 2, "query": "Is it?", "response": "Yes"}, items=items) == {"2": "Yes"}


def test_names_of_pictures() -> None:
    assert [image_number(name) for name in ("9" * 30, "a.jpg", "v1.2_7.webp")] == ["9" * 30, "a", "7"]
    assert image_name("https://x/y/abc.jpg?z=1#f") == "abc" and image_name("AMBER_1.jpg") == "AMBER_1"
