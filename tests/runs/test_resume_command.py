"""The command that goes on with a run."""

import shlex

import pytest

from rlaifv_kedro.params.command_line import read
from rlaifv_kedro.runs.resume_command import resume_command


def test_resume_command_has_all_that_was_given():
    given = {
        "env": "llava15_7b",
        "pipeline_names": ["b", "a"],
        "from_nodes": ["x"],
        "runtime_params": {"run_id": "old", "loop": {"k": 2}},
    }
    assert (
        resume_command(given, "r")
        == "kedro run --env llava15_7b --pipelines a,b --from-nodes x --params run_id=r,loop.k=2"
    )
    assert resume_command({"pipeline_names": []}, None) == "kedro run"


@pytest.mark.parametrize(
    "value",
    [
        "{question}",
        "{question} Yes, or no?",
        "0123",
        "yes",
        "",
        " x ",
        "null",
        "it's",
        "a: b",
        "a=b",
        "# no",
        '$x `y` "z" \\',
        "- x",
        "1e-5",
        None,
        True,
        12,
        5e-7,
        -1.0,
        [],
        {},
        ["yes"],
        ["yes", "No", "a, b"],
        [1, 2],
    ],
)
def test_resume_command_gives_back_every_value(value):
    """Read as a shell, then Kedro and YAML, read it."""
    command = shlex.split(resume_command({"runtime_params": {"a": {"b": value}, "c": 1}}, "0123"))
    assert command[:3] == ["kedro", "run", "--params"]
    assert read([command[3]]) == {"run_id": "0123", "a": {"b": value}, "c": 1}
