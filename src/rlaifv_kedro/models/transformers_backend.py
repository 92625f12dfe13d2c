"""The default backend: any ``AutoModelForImageTextToText`` with its processor, in this process."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlaifv_kedro.branching import Pack, branch_log_probs, collate, common_prefix, next_token_probs
from rlaifv_kedro.branching.sampling import sample_branches
from rlaifv_kedro.branching.scoring import refuse_unsuitable
from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage
from rlaifv_kedro.models.interface import Answer, Decoding, Question

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel, ProcessorMixin


class TransformersModel:
    """See :class:`rlaifv_kedro.models.VisionLanguageModel`.

    Args:
        batch_size: Prefixes a forward pass. It changes the speed and, at most, the last bits of a number.
    """

    def __init__(self, module: "PreTrainedModel", processor: "ProcessorMixin", where: str, batch_size: int = 32):
        refuse_unsuitable(module)
        self.module, self.processor, self.batch_size = module.eval(), processor, batch_size
        self.encoder = ChatEncoder(processor, where)

    @torch.no_grad()
    def sample(self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding) -> list[list[Answer]]:
        answers: list[list[Answer]] = []
        for start in range(0, len(questions), self.batch_size):
            part = questions[start : start + self.batch_size]
            images = [self.encoder.image(q.image) for q in part]
            prompts = [self.encoder.prompts([q.text], i.tokens)[0] for q, i in zip(part, images)]
            replies = sample_branches(
                self.module, prompts, seeds[start : start + self.batch_size], temperature=decoding.temperature,
                max_new_tokens=decoding.max_new_tokens, pad=self.encoder.pad_id, stop=self._stop_ids(), inputs=_batched(images, self._device),
            )  # fmt: skip
            answers += [[self._answer(ids) for ids in row] for row in replies]
        return answers

    def first_token_probs(self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]) -> list[np.ndarray]:
        groups = self.encoder.first_tokens(words)
        ids = [token for group in groups for token in group]
        starts = np.cumsum([0, *map(len, groups)])[:-1]
        result: list[np.ndarray] = []
        for start in range(0, len(images), self.batch_size):
            encoded = [self.encoder.image(i) for i in images[start : start + self.batch_size]]
            asked = questions[start : start + self.batch_size]
            packs = [_shared(self.encoder.prompts(list(q), i.tokens)) for q, i in zip(asked, encoded)]
            packed = collate(packs, self.encoder.pad_id).to(self._device)
            probs = next_token_probs(self.module, packed, ids, **_batched(encoded, self._device)).double().cpu().numpy()
            summed = np.add.reduceat(probs, starts, axis=1)  # (questions of all images, groups)
            result += np.split(summed, np.cumsum(packed.branch_counts)[:-1])
        return result

    @torch.no_grad()
    def branch_log_probs(self, questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        result: list[list[tuple[float, int]]] = []
        for start in range(0, len(questions), self.batch_size):
            part = questions[start : start + self.batch_size]
            images = [self.encoder.image(q.image) for q in part]
            texts = answers[start : start + self.batch_size]
            packs = [Pack(*self.encoder.answers(q.text, list(a), i.tokens)) for q, a, i in zip(part, texts, images)]
            packed = collate(packs, self.encoder.pad_id).to(self._device)
            scored = branch_log_probs(self.module, packed, **_batched(images, self._device))
            flat = iter(zip(scored.sums.tolist(), scored.counts.tolist()))
            result += [[next(flat) for _ in a] for a in texts]
        return result

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _stop_ids(self) -> set[int]:
        eos = self.module.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        return {i for i in (*ids, self.encoder.tokenizer.eos_token_id) if i is not None}

    def _answer(self, ids: list[int]) -> Answer:
        text = self.encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Answer(text, len(ids), "stop" if ids and ids[-1] in self._stop_ids() else "length")


def _shared(prompts: list[list[int]]) -> Pack:
    """The prompts of one image as branches of what they have in common."""
    size = common_prefix(prompts)
    return Pack(prompts[0][:size], [p[size:] for p in prompts])


def _batched(images: list[EncodedImage], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: torch.cat([i.inputs[name] for i in images]).to(device) for name in images[0].inputs}
