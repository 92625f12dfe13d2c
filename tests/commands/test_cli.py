"""``--params`` of ``kedro run``."""

import subprocess
import sys

import click
import pytest

from rlaifv_kedro.cli import split_items, split_params


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
        ("l=[\"it's\", 'a,b'],c=1", ["l=[\"it's\", 'a,b']", "c=1"]),
    ],
)
def test_commas_within_brackets_and_quotes_separate_nothing(text: str, items: list[str]) -> None:
    assert split_items(text) == items


def split(text: str) -> dict:
    return split_params(click.Context(click.Command("run")), click.Option(["--params"]), text)


def test_values_are_yaml_and_names_are_nested() -> None:
    found = split(
        "evaluation.policy=PATH,evaluation.benchmarks=[object_halbench,mmhal],training.lora.rank=64,run_id=a-1"
    )
    assert found == {
        "evaluation": {"policy": "PATH", "benchmarks": ["object_halbench", "mmhal"]},
        "training": {"lora": {"rank": 64}},
        "run_id": "a-1",
    }
    assert split("") == {}


def test_an_item_without_a_value_is_refused() -> None:
    with pytest.raises(click.UsageError, match="Item `chair` must contain a key and a value"):
        split("seed=1,chair")


def test_the_list_of_pipelines_needs_no_heavy_package() -> None:
    """``kedro registry list`` answers at once: torch and the like are imported where they are used."""
    heavy = ("torch", "transformers", "spacy", "deepspeed", "inflect", "matplotlib", "openai")
    code = (
        "import sys, rlaifv_kedro.pipeline_registry as r; r.register_pipelines(); print([name for name "
        f"in {heavy} if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
