"""Nodes are known by their tags: no other module writes down what a node is called."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.pipeline import Pipeline

from rlaifv_kedro import pipeline_registry
from rlaifv_kedro.params import EvaluationParams, FeedbackParams, Parameters
from rlaifv_kedro.params.current import Session
from rlaifv_kedro.pipelines import evaluation, feedback
from rlaifv_kedro.tags import Role, Task

SOURCE = Path(pipeline_registry.__file__).parent
OTHERS = {("claims/llm_splitter.py", "divide")}
"""Equal words that mean no node: a step of the splitter, by which its seeds are drawn."""
BENCHMARKS = ["chair", "object_halbench", "mmhal", "refomb", "amber", "pope"]


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Pipeline]:
    """All pipelines, with all benchmarks in them."""
    parameters = Parameters(evaluation=EvaluationParams(benchmarks=BENCHMARKS))
    monkeypatch.setattr(pipeline_registry, "current", lambda: Session(parameters))
    return pipeline_registry.register_pipelines()


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and value of the module's string literals, without the names that it exports."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    exported = {
        id(part)
        for statement in module.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        for part in ast.walk(statement)
    }
    for part in ast.walk(module):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in exported:
            yield part.lineno, part.value


def test_no_node_is_known_by_its_name(pipelines: dict[str, Pipeline]) -> None:
    names = {node.short_name for made in pipelines.values() for node in made.nodes}
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {text}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "pipeline.py"
        for line, text in texts(path)
        if text in names and (str(path.relative_to(SOURCE)), text) not in OTHERS
    ]
    assert found == []


def test_every_node_that_is_given_models_says_which_it_asks(pipelines: dict[str, Pipeline]) -> None:
    """But two that ask none: the rule that splits the miniature's answers, and pairs, which are looked at in
    the policy's tokens without its weights.
    """
    whole = feedback.create_pipeline(Parameters(feedback=FeedbackParams(scoring="answer")))
    best = evaluation.create_pipeline(Parameters(evaluation=EvaluationParams(best_of=4)))
    made = pipelines["__default__"] + pipelines["reward"] + whole + best
    asking = [node for node in made.nodes if "params:models" in node.inputs]
    silent = {node.short_name for node in asking if node.tags.isdisjoint(Role)}
    assert silent == {"gather_pairs"}
    tags = {tag for node in made.nodes for tag in node.tags}
    assert set(Role) | set(Task) <= tags


def test_the_labeler_s_tag_is_the_parameters() -> None:
    def roles(**params: str) -> dict[str, set[str]]:
        made = feedback.create_pipeline(Parameters(feedback=FeedbackParams(**params)))
        return {node.short_name: node.tags & set(Role) for node in made.nodes if node.tags & set(Role)}

    assert roles() == {"divide": {Role.SPLITTER}, "verify_claims": {Role.LABELER}}
    assert roles(labeler="self", splitter="miniature") == {"verify_claims": {Role.POLICY}}
    assert roles(scoring="answer")["score_whole_answers"] == {Role.LABELER}
    assert roles(scoring="reward") == {"compute_rewards": {Role.POLICY}}
