"""The miniature's labeler on a real server of vLLM, against the same weights in this process."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from real_vllm import vllm_serving
from rlaifv_kedro import run_folder
from rlaifv_kedro.leftovers import FOLDER, Record, marked
from rlaifv_kedro.miniature.world import draw_split, probe_questions
from rlaifv_kedro.models import Decoding, Question, close_model, load_model, open_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.models.backends.vllm_model import VLLMModel
from rlaifv_kedro.models.serving.command import MODULE
from rlaifv_kedro.params import ComputeParams, VLLMParams
from whole_project import ROOT, SHIPPED

pytestmark = pytest.mark.vllm

LABELER = ROOT / SHIPPED / "labeler/shipped/labeler"
YES_NO = [["yes"], ["no"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "now"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "_current", [folder])
        yield folder


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[VLLMModel]:
    """On one server, which has passed the probe."""
    compute = ComputeParams(device="cpu", dtype="float32")
    model = open_model(VLLMParams(serving=vllm_serving()), LABELER, compute, 8, "labeler")
    yield model
    close_model(model)
    assert not _server_of(run)


@pytest.fixture(scope="module")
def here() -> TransformersModel:
    return load_model(LABELER, device="cpu")


@pytest.fixture(scope="module")
def asked() -> tuple[list[Image.Image], list[list[str]]]:
    """Scenes, and all yes/no questions about each: several hundred."""
    scenes = draw_split(3, "tests of vllm", 24)
    questions = probe_questions(scenes, "test", 3).groupby("image_id")["question"].apply(list)
    return [Image.fromarray(scene.pixels) for scene in scenes], list(questions)


def _server_of(run: Path) -> set[int]:
    """The processes of the servers that are recorded."""
    records = (run / FOLDER).glob("*.running.json")
    return {pid for path in records for pid in marked(Record.model_validate_json(path.read_bytes()).mark)}


def _probabilities(model: TransformersModel | VLLMModel, asked: tuple) -> np.ndarray:
    """(questions, 2)"""
    replies = model.first_tokens(*asked, YES_NO)
    return np.array([reply.probs for row in replies for reply in row])


def test_verdicts_have_the_same_probabilities(
    served: VLLMModel, here: TransformersModel, asked: tuple
) -> None:
    ours, theirs = _probabilities(here, asked), _probabilities(served, asked)
    assert (
        len(ours) > 200 and 0.05 < (ours[:, 0] > ours[:, 1]).mean() < 0.95
    )  # both words are likely somewhere
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_greedy_answers_are_the_same(served: VLLMModel, here: TransformersModel, asked: tuple) -> None:
    questions = [Question(image, "describe the picture") for image in asked[0]]
    greedy, seeds = Decoding(temperature=0, max_new_tokens=24), [[0]] * len(questions)
    assert served.sample(questions, seeds, greedy) == here.sample(questions, seeds, greedy)


def test_samples_follow_their_seed(served: VLLMModel, asked: tuple) -> None:
    questions = [Question(image, "describe the picture") for image in asked[0]]
    warm = Decoding(temperature=1.0, max_new_tokens=24)
    first, again, other = (
        [a.text for row in served.sample(questions, [[seed, seed + 1]] * len(questions), warm) for a in row]
        for seed in (1, 1, 100)
    )
    same = sum(a == b for a, b in zip(first, again))
    assert same >= 0.9 * len(first)  # vLLM's sums depend on the batch: now and then a token differs
    assert sum(a == b for a, b in zip(first, other)) < 0.5 * len(first)


def test_more_samples_at_once_than_a_step_takes(served: VLLMModel, asked: tuple) -> None:
    """Their prompts would be computed in parts, of which vLLM's engine for CPUs dies where samples have seeds."""
    questions = [Question(image, "describe the picture") for image in asked[0]]
    drawn = served.sample(questions, [range(10)] * len(questions), Decoding(1.0, 8))
    assert not any(answer.error for row in drawn for answer in row)
    assert served.requests.account.retries == 0, "no server died"


def test_a_killed_server_is_started_again_and_nothing_is_lost(
    served: VLLMModel, here: TransformersModel, asked: tuple, run: Path
) -> None:
    before = _server_of(run)
    found: list[np.ndarray] = []
    asking = threading.Thread(target=lambda: found.append(_probabilities(served, asked)))
    asking.start()
    time.sleep(0.5)
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in before}
    [server] = [pid for pid, said in commands.items() if b"-m" in said[:2] and MODULE.encode() in said]
    os.kill(server, signal.SIGKILL)
    asking.join()
    np.testing.assert_allclose(found[0], _probabilities(here, asked), atol=1e-4)
    again = _probabilities(served, asked)  # also if all was answered before the kill
    np.testing.assert_allclose(again, _probabilities(here, asked), atol=1e-4)
    assert not before & _server_of(run)
