"""``rlaifv compare``: what people and programs see."""

import json

from click.testing import CliRunner

from measured_runs import measure
from rlaifv_kedro.commands import cli

CAT, DOG = "There is a cat.", "There is a dog."


def compare(*arguments):
    return CliRunner().invoke(cli, ["compare", *arguments])


def test_for_people_and_for_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure(tmp_path, "first", {"t0": CAT, "t1": DOG})
    measure(tmp_path, "second", {"t0": CAT, "t1": CAT}, parameters={"a": {"b": 2}, "path": "[bold]/x"})
    lines = [" ".join(line.split()) for line in compare("first", "second").stdout.splitlines()]
    assert "a.b 1 2" in lines and "path null [bold]/x" in lines
    assert "response hallucination % 50.0 ± 35.4 0.0 ± 0.0 -50.0 [-100.0, +0.0]" in lines
    assert "chair (iteration_1), chair_s: 1 verdicts flipped, 1 better, 0 worse with B" in lines
    assert "t1 better not there: dog nothing" in lines
    assert max(map(len, compare("first", "second").stdout.splitlines())) <= 80
    document = json.loads(compare("first", "second", "--json").stdout)
    assert document["flips"][0]["answer_a"] == DOG
    assert document["parameters"][0] == {"parameter": "a.b", "a": 1, "b": 2}


def test_a_name_that_is_none_is_answered_with_one_that_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure(tmp_path, "first", {"t0": CAT})
    done = compare("first", "fist")
    assert done.exit_code == 1
    assert "There is no run `fist`. Did you mean first?" in done.stderr
