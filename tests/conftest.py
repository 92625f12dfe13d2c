"""Fixtures for the tests that need a model: a tiny LLaVA with random weights, and drawn scenes to show it."""

import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import nn

from rlaifv_kedro.miniature.scenes import Scene, draw_scene

torch.set_num_threads(1)

# A shell that starts tests in the background has them ignore Ctrl-C, and so would the runs that they stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, and no clock: a busy machine fails no test. A test may lower `max_examples`.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Six drawn scenes."""
    return [draw_scene(7, "tests", i) for i in range(6)]


@pytest.fixture(scope="session")
def pictures(scenes: list[Scene]) -> list[Image.Image]:
    """The scenes as the models get them."""
    return [Image.fromarray(scene.pixels) for scene in scenes]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a miniature LLaVA whose random weights make it say different things about
    different images.

    As initialised for training it repeats its last token for ever: attention copies, and the embeddings are
    tied. So the language model's layers are drawn anew, large against the embeddings. Read only: a test that
    changes files copies the folder.
    """
    from rlaifv_kedro.miniature.tiny_llava import build_model, build_processor

    processor = build_processor()
    model = build_model(processor, seed=1)
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            if "layers" in name and weight.dim() == 2:
                nn.init.normal_(weight, std=1.5 * weight.shape[1] ** -0.5)
        model.model.language_model.embed_tokens.weight.mul_(2.5)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
