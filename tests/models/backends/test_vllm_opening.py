"""A role's model on servers that are started for it; the processes have tests of their own (models/serving)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from chat_server import ChatServer
from rlaifv_kedro import run_folder
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Decoding, close_model, load_model, open_model, open_text_model
from rlaifv_kedro.models.backends import vllm_opening
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.params import ComputeParams, ServingParams, VLLMParams
from token_replies import TokenReplies

CPU = ComputeParams(device="cpu", dtype="float32")
YES_NO = [["yes"], ["no"]]


class Started:
    """In place of the servers' processes: real HTTP, and the real model's numbers."""

    def __init__(self, serve: Callable[..., ChatServer], change: Callable[[torch.nn.Module], None]):
        self.serve, self.change = serve, change
        self.checkpoint: Path | None = None
        self.options: dict[str, Any] = {}
        self.open = False
        self.key = "secret"

    def __call__(self, checkpoint: Path, serving: Any, **options: Any) -> "Started":
        assert not CheckpointFolder(checkpoint).is_adapter
        model = load_model(checkpoint, device="cpu")
        self.change(model.module)
        self.server = self.serve(path="/inference/v1/generate", key=self.key, reply=TokenReplies(model))
        self.checkpoint, self.options, self.open = checkpoint, options, True
        return self

    @property
    def urls(self) -> list[str]:
        return [self.server.root]

    def close(self) -> None:
        self.open = False


@pytest.fixture
def start(
    serve: Callable[..., ChatServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Started]:
    """Has servers started that compute with changed weights, or with those of the checkpoint."""
    monkeypatch.setattr(run_folder, "_current", [tmp_path / "run"])

    def prepare(change: Callable[[torch.nn.Module], None] = lambda module: None) -> Started:
        servers = Started(serve, change)
        monkeypatch.setattr(vllm_opening, "VLLMServers", servers)
        return servers

    return prepare


def test_a_labeler(start: Callable[..., Started], tiny: Path, pictures: list[Image.Image]) -> None:
    servers = start()
    model = open_model(VLLMParams(), tiny, CPU, 8, "labeler")
    assert servers.options == {
        "dtype": "float32",
        "trust_remote_code": False,
        "name": "labeler",
        "device": "cpu",
    }
    [[reply]] = model.first_tokens(pictures[:1], [["is there a cup?"]], YES_NO)
    [[expected]] = load_model(tiny, device="cpu").first_tokens(pictures[:1], [["is there a cup?"]], YES_NO)
    assert reply.probs == pytest.approx(expected.probs, abs=1e-6)
    assert servers.open
    close_model(model)
    assert not servers.open


def test_a_judge(start: Callable[..., Started], tiny: Path) -> None:
    servers = start()
    model = open_text_model(VLLMParams(path=str(tiny)), CPU, 8, "judge")
    [answer] = model.complete([[{"role": "user", "content": "a cup"}]], [1], Decoding(0, 8))
    assert answer.text and answer.error is None and servers.options["name"] == "judge"
    close_model(model)
    assert not servers.open


def test_what_the_checkpoint_suppresses(start: Callable[..., Started], tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**settings, "suppress_tokens": [4, 0]}))
    start()
    model = open_model(VLLMParams(), copy, CPU, 8, "policy")
    assert model.suppressed == [4, 0] and model.encoder.ends == load_model(copy, device="cpu").encoder.ends
    close_model(model)


def test_a_model_that_servers_spread_is_spread_for_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_opening, "torch_device", lambda device: "cuda")
    for gpus, expected in ((1, None), (4, "auto")):
        params = VLLMParams(serving=ServingParams(gpus_per_server=gpus))
        assert vllm_opening._loading(params, ComputeParams()).device_map == expected


def test_servers_that_compute_something_else_are_ended(start: Callable[..., Started], tiny: Path) -> None:
    def change(module: torch.nn.Module) -> None:
        with torch.no_grad():
            module.get_input_embeddings().weight.mul_(1.1)

    servers = start(change)
    with pytest.raises(UserError, match="policy on vLLM: it computes something else than transformers"):
        open_model(VLLMParams(), tiny, CPU, 8, "policy")
    assert servers.checkpoint == tiny and not servers.open


def test_adapters_are_merged_first(
    start: Callable[..., Started], tiny: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """A policy that was trained with LoRA is measured from its adapters' folder."""
    from peft import LoraConfig, get_peft_model

    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    loaded = load_model(base, device="cpu")
    lora = get_peft_model(loaded.module, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapters = tmp_path / "adapters"
    lora.save_pretrained(adapters)
    servers = start()
    model = open_model(VLLMParams(), adapters, CPU, 8, "policy")
    [[reply]] = model.first_tokens(pictures[:1], [["is there a cup?"]], YES_NO)
    for folder, same in ((adapters, True), (base, False)):
        own = load_model(folder, device="cpu").first_tokens(pictures[:1], [["is there a cup?"]], YES_NO)
        assert (reply.probs == pytest.approx(own[0][0].probs, abs=1e-6)) is same
    assert servers.checkpoint is not None and servers.checkpoint.is_dir()
    close_model(model)
    assert not servers.checkpoint.exists()
