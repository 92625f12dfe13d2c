"""Sampling and labeling on real servers of vLLM, and the release's way of asking them.

The release asks a model one question at a time with its picture, and draws ten answers with one call. On
servers that is: ``n`` samples a request, and a request a question that holds the whole picture. Ours are a
request a candidate with its own seed, and a picture that is sent once (``models/backends/vllm_model.py``).
vLLM shares what prompts have in common on both sides.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pandas as pd
import psutil

from rlaifv_kedro.images import open_image
from rlaifv_kedro.leftovers import FOLDER, Record, marked
from rlaifv_kedro.models import Answer, Decoding, FirstToken, Question, VisionLanguageModel, open_model
from rlaifv_kedro.models.backends.server_bodies import Body
from rlaifv_kedro.models.backends.vllm_model import VLLMModel
from rlaifv_kedro.models.backends.vllm_requests import (
    TokenChoice,
    TokenPrompt,
    TokenServers,
    prompt_body,
)
from rlaifv_kedro.params import ComputeParams, DataGenerationParams, VLLMParams
from rlaifv_kedro.run_folder import set_run_folder

if TYPE_CHECKING:
    from PIL.Image import Image

CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB


def sample(
    model: VLLMModel, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[Answer]]:
    """All samples of a question by one request; vLLM draws the k-th with the first seed plus k."""
    prompts = [row[0] for row in model.prompts([q.image for q in questions], [[q.text] for q in questions])]
    bodies = [
        prompt_body(prompt, model.drawing(decoding, own[0], prompt) | {"n": len(own)})
        for prompt, own in zip(prompts, seeds)
    ]
    return model.requests.ask(
        [lambda body=body: body for body in bodies],
        lambda reply: [model.encoder.answer(choice.token_ids) for choice in reply.choices],
    )


def first_tokens(
    model: VLLMModel,
    images: "Sequence[Image]",
    questions: Sequence[Sequence[str]],
    words: Sequence[Sequence[str]],
) -> list[list[FirstToken]]:
    """A request a question, each with its picture."""

    def each_with_its_picture(
        servers: TokenServers,
        prompts: list[TokenPrompt],
        settings: Body,
        take: Callable[[TokenChoice], object],
    ) -> list[object]:
        return servers.generate(prompts, [settings] * len(prompts), take)

    with mock.patch.object(TokenServers, "generate_once_a_picture", each_with_its_picture):
        return _OURS(model, images, questions, words)


_OURS = VLLMModel.first_tokens
RELEASE = {
    "rlaifv_kedro.models.backends.vllm_model.VLLMModel.sample": sample,
    "rlaifv_kedro.models.backends.vllm_model.VLLMModel.first_tokens": first_tokens,
}


class Served:
    """Policy and labeler on a server each, which stay for all stages.

    Attributes:
        params: Of a role, for the nodes.
    """

    def __init__(self, python: str, checkpoints: dict[str, Path]):
        self.params = VLLMParams(
            serving={
                "python": python,
                "environment": CACHE,
                "engine_options": {"enforce-eager": True, "max-model-len": 256},
            },
            concurrency=256,
        )
        self._run = Path(tempfile.mkdtemp()) / "run"
        set_run_folder(self._run)
        compute = ComputeParams(device="cpu", dtype="float32")
        self._models = {
            role: open_model(self.params, checkpoint, compute, 8, role)
            for role, checkpoint in checkpoints.items()
        }
        marks = [
            Record.model_validate_json(path.read_bytes()).mark
            for path in (self._run / FOLDER).glob("*.running.json")
        ]
        self._spent = {psutil.Process(pid): 0.0 for mark in marks for pid in marked(mark)}

    @contextmanager
    def used(self) -> Iterator[None]:
        """The nodes take these models for those that they would open and close."""

        def opened(
            params: VLLMParams, path: Path, compute: object, size: int, role: str
        ) -> VisionLanguageModel:
            if not isinstance(params, VLLMParams):
                return open_model(params, path, compute, size, role)
            return self._models[role]

        with (
            mock.patch("rlaifv_kedro.models.open_model", opened),
            mock.patch.object(VLLMModel, "close", lambda model: None),
        ):
            yield

    def same_draws(self, prompts: pd.DataFrame, generation: DataGenerationParams) -> float:
        """The share of samples that are the same by a request each and by one request for all."""
        model, count = self._models["policy"], generation.candidates
        questions = [
            Question(open_image(row.image, row.prompt_id), row.question) for row in prompts.itertuples()
        ]
        seeds = [range(100 * k, 100 * k + count) for k in range(len(questions))]
        decoding = Decoding(generation.temperature, generation.max_new_tokens)
        ways = [way(model, questions, seeds, decoding) for way in (VLLMModel.sample, sample)]
        pairs = [(a.text, b.text) for one, other in zip(*ways) for a, b in zip(one, other)]
        return sum(a == b for a, b in pairs) / len(pairs)

    def seconds(self) -> float:
        """Processor time so far, of this process and of all of the servers'."""
        for process in self._spent:
            with suppress(psutil.NoSuchProcess):  # one that only helped to start
                times = process.cpu_times()
                self._spent[process] = times.user + times.system
        return time.process_time() + sum(self._spent.values())

    def close(self) -> None:
        """End the servers."""
        for model in self._models.values():
            model.close()
