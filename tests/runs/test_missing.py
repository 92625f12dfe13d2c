"""What is said of missing inputs: the commands make just them, and lead on to an end."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project

from rlaifv_kedro.commands.run import kedro_run
from rlaifv_kedro.params.current import Session, set_current
from rlaifv_kedro.preflight.run import configured
from rlaifv_kedro.runs.missing import Missing, listed
from whole_project import ROOT, Project, make_project


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone in which nothing has been run."""
    yield make_project(tmp_path_factory.mktemp("fresh") / "project")
    set_current(Session())
    bootstrap_project(ROOT)


def command_of(remedy: str) -> dict | None:
    """The options of the command that makes something, as `kedro run` reads them."""
    if not remedy.startswith("Make it with: kedro run"):
        return None
    words = shlex.split(remedy.removeprefix("Make it with: ").partition(". ")[0])
    assert words[:2] == ["kedro", "run"]
    return kedro_run().make_context("run", words[2:]).params


def test_commands_make_what_is_missing_and_lead_to_an_end(fresh: Project) -> None:
    """Whoever follows each command's own advice comes to what is there, or to the user's own files."""
    waiting, done = [("evaluation", (), 1), ("reward", (), 1)], set()
    while waiting:
        name, outputs, iteration = waiting.pop()
        missing = configured(fresh.path, "test", {"iteration": iteration}, [name]).missing
        part = pipelines[name].to_outputs(*outputs) if outputs else pipelines[name]
        assert set(outputs) <= part.all_outputs()
        assert "make_models" not in {node.short_name for node in part.nodes}  # ten minutes, not asked for
        for one in (found for key, found in missing.items() if key in part.inputs()):
            given = command_of(one.remedy)
            if given is None:
                assert "docs/recipes.md" in one.remedy or "hf download" in one.remedy
                continue
            (maker,) = given["pipelines"]
            step = (maker, tuple(given["to_outputs"]), given["params"]["iteration"])
            assert one.output in (step[1] or pipelines[maker].all_outputs())
            if step not in done:
                done.add(step)
                waiting.append(step)
    assert done


def test_entries_that_one_command_makes_have_it_once() -> None:
    made = [Missing(name, "is not there", "there", "Make it with: kedro run") for name in "ab"]
    other = Missing("c", "is not there", "there", "Get it with: hf download x")
    assert listed([made[0], other, made[1], "`d` is damaged. Mend it."]).splitlines() == [
        "`a` is not there: there.",
        "`b` is not there: there.",
        "Make them with: kedro run",
        "`c` is not there: there. Get it with: hf download x",
        "`d` is damaged. Mend it.",
    ]


@pytest.mark.parametrize(("env", "drawn"), [("test", True), ("qwen", False)])
def test_without_a_name_a_recipe_runs_the_loop_and_draws_no_prompts(
    fresh: Project, env: str | None, drawn: bool
) -> None:
    configured(Path(fresh.path), env, {}, ["rlaif_loop"])
    nodes = {node.name for node in pipelines["__default__"].nodes}
    loop = {node.name for node in pipelines["rlaif_loop"].nodes}
    assert loop <= nodes
    assert ("miniature.draw_pool" in nodes) is drawn
    assert nodes - loop == (
        {"miniature.draw_pool", "miniature.draw_selection", "miniature.draw_test"} if drawn else set()
    )
