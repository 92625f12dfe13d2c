"""A role's model on servers of vLLM: its encoder, what transformers computes, the servers, and the probe."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rlaifv_kedro.leftovers import FOLDER
from rlaifv_kedro.models.backends.text import load_text_encoder
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
from rlaifv_kedro.models.files_of_checkpoint import read_object
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.models.loading import Loading, load_encoder, torch_device
from rlaifv_kedro.models.merging import merge_adapters
from rlaifv_kedro.models.serving.servers import VLLMServers
from rlaifv_kedro.params import ComputeParams, VLLMParams
from rlaifv_kedro.run_folder import run_folder


def open_served(source: str | Path, params: VLLMParams, compute: ComputeParams, role: str) -> VLLMModel:
    """A policy or labeler on servers that are started for it.

    Args:
        source: Folder or hub name of the weights, or folder of adapters.
        role: Names the servers.

    Raises:
        UserError: The servers don't start, or compute something else than transformers.
    """
    path, loading, work = _whole(source, role), _loading(params, compute), run_folder() / FOLDER
    encoder = load_encoder(path, loading)
    expected = expected_of_pictures(path, loading, encoder, work)
    with _started(path, params, loading, role) as (requests, close):
        model = VLLMModel(encoder, requests, close, _suppressed(path))
        [prompts] = model.prompts([trial_picture()], [list(QUESTIONS)])
        refuse_others(requests, prompts, expected, loading.dtype)
    return model


def open_served_text(source: str | Path, params: VLLMParams, compute: ComputeParams, role: str) -> VLLMText:
    """A splitter or judge on servers that are started for it; see :func:`open_served`."""
    path, loading, work = _whole(source, role), _loading(params, compute), run_folder() / FOLDER
    encoder = load_text_encoder(path, loading)
    expected = expected_of_chats(path, loading, encoder, work)
    with _started(path, params, loading, role) as (requests, close):
        model = VLLMText(encoder, requests, close, _suppressed(path))
        refuse_others(requests, [model.prompt(chat) for chat in CHATS], expected, loading.dtype)
    return model


def _loading(params: VLLMParams, compute: ComputeParams) -> Loading:
    """How transformers loads the weights: over the GPUs, if a server spreads them."""
    loading = Loading.of(params, compute)
    spread = params.serving.gpus_per_server > 1 and torch_device(loading.device) == "cuda"
    return replace(loading, device_map="auto") if spread else loading


def _suppressed(path: Path) -> list[int]:
    """The tokens that a checkpoint's settings for generation suppress."""
    settings = path / "generation_config.json"
    return (read_object(settings).get("suppress_tokens") if settings.is_file() else None) or []


@contextmanager
def _started(
    path: Path, params: VLLMParams, loading: Loading, role: str
) -> Iterator[tuple[TokenServers, Callable[[], None]]]:
    """Servers that answer, and what ends them; they are ended if what is done with them fails."""
    servers = VLLMServers(
        path,
        params.serving,
        dtype=loading.dtype,
        trust_remote_code=loading.trust_remote_code,
        name=role,
        device=loading.device,
    )

    def close() -> None:
        servers.close()
        shutil.rmtree(_merged(role), ignore_errors=True)

    try:
        yield TokenServers(params, role, servers, servers.key), close
    except BaseException:
        close()
        raise


def _whole(source: str | Path, role: str) -> Path:
    """The folder of a whole checkpoint: adapters, which a policy's training may save, are merged first."""
    path = folder_of(source)
    if not CheckpointFolder(path).is_adapter:
        return path
    target = _merged(role)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    merge_adapters(path, target)
    return target


def _merged(role: str) -> Path:
    return run_folder() / FOLDER / f"{role}-merged"
