"""What vLLM computes is held against what transformers computes; both are real models here."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_server import Body, ChatServer
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends import vllm_probe
from rlaifv_kedro.models.backends.server_places import NamedPlaces
from rlaifv_kedro.models.backends.text import load_text_encoder
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.models.backends.vllm_model import VLLMModel, VLLMText
from rlaifv_kedro.models.backends.vllm_probe import (
    CHATS,
    QUESTIONS,
    expected_of_chats,
    expected_of_pictures,
    refuse_others,
    trial_picture,
)
from rlaifv_kedro.models.backends.vllm_requests import TokenServers
from rlaifv_kedro.models.loading import Loading, load_encoder
from rlaifv_kedro.params import VLLMParams
from token_replies import TokenReplies

CPU = Loading(device="cpu")
Serve = Callable[..., ChatServer]


@pytest.fixture
def probe(serve: Serve, tiny: Path, tmp_path: Path) -> Callable[..., None]:
    """Probes servers that answer so, for the tiny checkpoint."""

    def run(reply: Callable[[Body], Any], dtype: str = "float32") -> None:
        encoder = load_encoder(tiny, CPU)
        expected = expected_of_pictures(tiny, CPU, encoder, tmp_path)
        server = serve(path="/inference/v1/generate", reply=reply)
        requests = TokenServers(VLLMParams(), "policy", NamedPlaces([server.root]), "")
        model = VLLMModel(encoder, requests, lambda: None)
        [prompts] = model.prompts([trial_picture()], [list(QUESTIONS)])
        refuse_others(requests, prompts, expected, dtype)

    return run


def test_the_same_model_passes(probe: Callable[..., None], tiny: Path) -> None:
    probe(TokenReplies(load_model(tiny, CPU)))


def test_other_weights_are_refused(probe: Callable[..., None], tiny: Path) -> None:
    """A thousandth more in one matrix: less than what a wrong name of a weight leaves."""
    other = load_model(tiny, CPU)
    with torch.no_grad():
        other.module.model.language_model.layers[0].mlp.down_proj.weight.mul_(1.01)
    with pytest.raises(
        UserError, match=r"policy on vLLM: it computes something else.*probability 0\.\d+ by tr.*by vLLM"
    ):
        probe(TokenReplies(other))
    probe(TokenReplies(other), "bfloat16")  # there so much is rounding


def test_a_picture_that_is_prepared_otherwise_is_refused(probe: Callable[..., None], tiny: Path) -> None:
    other = load_model(tiny, CPU)
    other.processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    with pytest.raises(UserError, match="it computes something else than transformers"):
        probe(TokenReplies(other))


def test_another_prompt_is_refused(probe: Callable[..., None], tiny: Path) -> None:
    """Without its first token, as vLLM's own chat template writes LLaVA-1.5's."""
    replies = TokenReplies(load_model(tiny, CPU))

    def without_first(body: Body) -> Body:
        return replies({**body, "token_ids": body["token_ids"][1:]})

    with pytest.raises(
        UserError, match=r"another prompt of a trial question, of \d+ tokens instead of \d+: around place 0"
    ):
        probe(without_first)


def test_it_is_computed_once_a_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def counted(path: Path, loading: Loading) -> TransformersModel:
        loads.append(path)
        return load_model(path, loading)

    monkeypatch.setattr(vllm_probe, "load_model", counted)
    copy, memory = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(tiny, copy)
    encoder = load_encoder(copy, CPU)
    first = expected_of_pictures(copy, CPU, encoder, memory)
    assert expected_of_pictures(copy, CPU, encoder, memory) == first and len(loads) == 1
    expected_of_pictures(copy, Loading(device="cpu", dtype="bfloat16"), encoder, memory)
    (copy / "model.safetensors").touch()
    assert expected_of_pictures(copy, CPU, encoder, memory) == first and len(loads) == 3
    (memory / vllm_probe.MEMORY).write_text("{")
    assert expected_of_pictures(copy, CPU, encoder, memory) == first and len(loads) == 4


def test_chats(serve: Serve, tiny: Path, tmp_path: Path) -> None:
    encoder = load_text_encoder(tiny, CPU)
    expected = expected_of_chats(tiny, CPU, encoder, tmp_path)
    server = serve(path="/inference/v1/generate", reply=TokenReplies(load_model(tiny, CPU)))
    requests = TokenServers(VLLMParams(), "judge", NamedPlaces([server.root]), "")
    model = VLLMText(encoder, requests, lambda: None)
    refuse_others(requests, [model.prompt(chat) for chat in CHATS], expected, "float32")
    assert [e.ids for e in expected] == [encoder.prompt(chat) for chat in CHATS]
