"""``--params`` as typed: read by the types of the parameters, and written to be read again."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import validate_parameters
from rlaifv_kedro.params.command_line import read, split_items, write


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", []),
        ("a=1", ["a=1"]),
        ("a=1, b.c=2", ["a=1", "b.c=2"]),
        ("p=PATH,b=[chair,pope],c=1", ["p=PATH", "b=[chair,pope]", "c=1"]),
        ("m={a: 1, b: [2, 3]},c=1", ["m={a: 1, b: [2, 3]}", "c=1"]),
        ("q='a, b',c=1", ["q='a, b'", "c=1"]),
        ("q=it's,c=1", ["q=it's", "c=1"]),
        ("q='it''s, so',c=1", ["q='it''s, so'", "c=1"]),
        ('q="a \\" b, c",c=1', ['q="a \\" b, c"', "c=1"]),
        ("l=[\"it's\", 'a,b'],c=1", ["l=[\"it's\", 'a,b']", "c=1"]),
        ("q=:-),m={a: 1, b: 2}", ["q=:-)", "m={a: 1, b: 2}"]),
    ],
)
def test_commas_within_brackets_and_quotes_separate_nothing(text: str, items: list[str]) -> None:
    assert split_items(text) == items


@pytest.mark.parametrize("text", ["q='tis,c=1", 'q="a,c=1', "l=[a,c=1", "q=(,c=1"])
def test_what_is_not_closed_swallows_no_parameter(text: str) -> None:
    with pytest.raises(UserError, match="isn't closed"):
        read([text])


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("run_id", "0123", "0123"),
        ("run_id", "83", "83"),
        ("run_id", "1e5", "1e5"),
        ("run_id", "no", "no"),
        ("run_id", "12:30:45", "12:30:45"),
        ("run_id", "2026-01-31", "2026-01-31"),
        ("run_id", "'20260131'", "20260131"),
        ("run_id", "run#1", "run#1"),
        ("run_id", "null", None),
        ("run_id", '"null"', "null"),
        ("run_id", "tab\tx", "tab\tx"),
        ("models.labeler.model", "on", "on"),
        ("models.labeler.model", "4.1", "4.1"),
        ("models.labeler.api_key_variable", "#3", "#3"),
        ("models.labeler.url", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("models.judge.model", "007", "007"),
        ("training.launch.address", "[::1]:29500", "[::1]:29500"),
        ("feedback.question_template", "{question} Yes?", "{question} Yes?"),
        ("feedback.question_template", "Is it true: {question}", "Is it true: {question}"),
        (
            "benchmark_data.chair_prompt",
            '"Describe: everything, in detail."',
            "Describe: everything, in detail.",
        ),
        ("benchmark_data.chair_prompt", "'it''s, so'", "it's, so"),
        ("benchmark_data.chair_prompt", '"one" and "two"', '"one" and "two"'),
        ("benchmark_data.chair_prompt", r'"C:\models"', r"C:\models"),
        ("evaluation.policy", "/models/run #3", "/models/run #3"),
        ("evaluation.policy", "/models/my model (v2)", "/models/my model (v2)"),
        ("evaluation.policy", r"C:\models\llava", r"C:\models\llava"),
        ("evaluation.policy", "/models/a=b", "/models/a=b"),
        ("evaluation.policy", "[/models/a, 4.1]", ["/models/a", "4.1"]),
        ("feedback.yes_words", "[yes, Yes]", ["yes", "Yes"]),
        ("feedback.no_words", "[no,'no, thanks',#3]", ["no", "no, thanks", "#3"]),
        ("compute.dtype", "float32", "float32"),
        ("training.mix.ours.where.checked", "no", "no"),
        ("training.mix.ours.where.checked", "false", False),
        ("training.mix.ours.where.iteration", "[1, 2, '3', x]", [1, 2, "3", "x"]),
        ("training.learning_rate", "5e-7", 5e-7),
        ("training.beta", ".1", 0.1),
        ("training.epochs", "2", 2),
        ("training.gradient_checkpointing", "off", False),
        ("training.max_length", "null", None),
        ("training.lora", "{}", {}),
        ("training.lora", "{rank: 64}", {"rank": 64}),
        ("loop.iterations", "2", 2),
        ("not.known", "on", True),
    ],
)
def test_a_value_is_read_by_the_type_of_its_parameter(name: str, typed: str, value: Any) -> None:
    found: Any = read([f"{name}={typed}"])
    for part in name.split("."):
        found = found[part]
    assert (found, type(found)) == (value, type(value))


def test_an_address_may_be_one_of_ipv6() -> None:
    launch = validate_parameters(read(["training.launch.address=[::1]:29500"])).training.launch
    assert launch.address == "[::1]:29500"


@pytest.mark.parametrize("kind", ["", "training.mix.", "training.mix.ours."])
def test_a_dict_may_be_given_in_one_or_in_parts(kind: str) -> None:
    whole = {"training": {"mix": {"ours": {"weight": 0.5}}}}
    text = {
        "": "training={mix: {ours: {weight: 0.5}}}",
        "training.mix.": "training.mix={ours: {weight: 0.5}}",
        "training.mix.ours.": "training.mix.ours.weight=0.5",
    }[kind]
    assert read([text]) == whole
    assert read([text, "training.mix.ours.where.a=b,training.beta=1"])["training"] == {
        "mix": {"ours": {"weight": 0.5, "where": {"a": "b"}}},
        "beta": 1,
    }


def test_the_option_may_be_given_twice_and_the_last_value_counts() -> None:
    assert read(["seed=1,loop.iterations=2", "seed=3", ""]) == {"seed": 3, "loop": {"iterations": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=1,chair", "--params chair: this is not NAME=VALUE"),
        ("iteration:2", "--params iteration:2: this is not NAME=VALUE"),
        ("=2", "--params =2: this is not NAME=VALUE"),
        ("training..beta=2", "--params training..beta=2: this is not NAME=VALUE"),
        ("run_id=", "--params run_id=: there is no value. Write run_id=null to unset it"),
        ("training.lora={rank: [}", "--params training.lora={rank: [}: the value cannot be read as YAML"),
        (
            "training.beta=!!python/name:os.system",
            "--params training.beta=!!python/name:os.system: the value",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_as_typed(text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        read([text])
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models.judge={backend: openai, url: 'http://h/v1', model: m},models.judge.requests_per_minute=1e3",
            "models.judge.requests_per_minute='1e3': ",
        ),
        ("data_generation.prompts=0o17", "data_generation.prompts='0o17': "),
        ("iteration=2.0", "iteration='2.0': "),
        ("training.epochs=1/2", "training.epochs='1/2': "),
        ("training.lora=true", "training.lora='true': "),
        ("training=3", "training='3': "),
        ("training.beta=-1", "training.beta=-1: "),
        ("evaluation.benchmarks=chair", "evaluation.benchmarks='chair': "),
        ("compute.dtype=bf16", "compute.dtype='bf16': "),
        ("traning.beta=0.5", "traning: unknown parameter; did you mean training?"),
    ],
)
def test_an_error_shows_what_was_typed(text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        validate_parameters(read([text]))
    assert message in refused.value.message


ODD_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    st.sampled_from("ab01 ,='\"[]{}()#:$\\\n\t/-.!&*~nulytrefaso")
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ODD_TEXT
)


@given(
    text=ODD_TEXT,
    words=st.lists(ODD_TEXT),
    scalar=SCALARS,
    scalars=st.lists(SCALARS),
    key=ODD_TEXT.filter(bool),
)
def test_what_is_written_is_read_again(
    text: str, words: list[str], scalar: Any, scalars: list[Any], key: str
) -> None:
    parameters = {
        "run_id": text,
        "evaluation": {"policy": words},
        "feedback": {"yes_words": words, "question_template": text},
        "models": {"labeler": {"path": text}},
        "training": {"mix": {key: {"where": {key: scalar, "b": scalars}}}, "beta": 0.5, "lora": {}},
        "not_known": {"scalar": scalar, "list": scalars, "nested": {key: text}},
        "seed": 1,
    }
    assert json.dumps(read([write(parameters)])) == json.dumps(parameters)


def test_plain_text_is_written_without_quotes() -> None:
    parameters = {
        "run_id": "0123",
        "feedback": {"yes_words": ["yes", "4.1", "a, b"], "question_template": "{question} Yes, or no?"},
        "models": {"judge": {"model": "4.1", "path": None}},
    }
    assert write(parameters) == (
        'run_id=0123,feedback.yes_words=[yes,4.1,"a, b"],'
        'feedback.question_template="{question} Yes, or no?",models.judge.model=4.1,models.judge.path=null'
    )
