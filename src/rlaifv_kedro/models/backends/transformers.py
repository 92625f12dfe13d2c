"""The default backend: any ``AutoModelForImageTextToText`` with its processor, in this process."""

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from rlaifv_kedro.branching import (
    Pack,
    branch_log_probs,
    choose_way,
    collate,
    common_prefix,
    next_token_probs,
    pack,
)
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.forward import BranchLogProbs
from rlaifv_kedro.branching.sampling import sample_after_branches, sample_branches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.room import context_of, no_room, without_room
from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage, ends_of
from rlaifv_kedro.models.finite import watch_numbers
from rlaifv_kedro.models.interface import LIKELIEST, Answer, Decoding, FirstToken, Question

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel, ProcessorMixin


class TransformersModel:
    """See :class:`rlaifv_kedro.models.VisionLanguageModel`.

    Args:
        batch_size: Prefixes a forward pass. It changes the speed and, at most, the last bits of a number.
        max_tokens_per_pack: Most tokens of a prefix and its branches in one pass; see
            :func:`rlaifv_kedro.branching.branch_log_probs`.
    """

    def __init__(
        self,
        module: "PreTrainedModel",
        processor: "ProcessorMixin",
        where: str,
        batch_size: int = 32,
        max_tokens_per_pack: int | None = None,
    ):
        self.module, self.processor, self.where = module.eval(), processor, where
        self.batch_size, self.max_tokens_per_pack = batch_size, max_tokens_per_pack
        choose_way(module)
        watch_numbers(module, where)
        if processor.tokenizer is not None:
            _ = self.encoder  # what is wrong with it is said now

    @cached_property
    def encoder(self) -> ChatEncoder:
        """Writes prompts and answers.

        Raises:
            UserError: There is no tokenizer or no chat template.
        """
        if self.processor.tokenizer is None:
            raise UserError(
                f"{self.where} has no tokenizer, so it can't be asked anything. Copy it there from where "
                "the checkpoint was published."
            )
        ends, context = ends_of(self.module.generation_config), context_of(self.module.config)
        return ChatEncoder(self.processor, self.where, ends, context)

    @torch.no_grad()
    def sample(
        self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Answer]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.sample`; questions are computed in batches.

        One that fills the model's context gets an ``Answer.error``; other answers end where it does.
        """
        answers: list[list[Answer]] = []
        for start in range(0, len(questions), self.batch_size):
            part = questions[start : start + self.batch_size]
            images = [self.encoder.image(q.image) for q in part]
            prompts = [self.encoder.prompts([q.text], i)[0] for q, i in zip(part, images)]
            own = seeds[start : start + self.batch_size]
            room = [self._room(len(prompt)) for prompt in prompts]
            fits = [k for k, tokens in enumerate(room) if tokens > 0]
            drawn = iter(self._drawn([(prompts[k], own[k], images[k]) for k in fits], decoding))
            answers += [
                [self.encoder.answer(ids[:tokens]) for ids in next(drawn)]
                if tokens > 0
                else [without_room(len(prompt))] * len(row)
                for prompt, tokens, row in zip(prompts, room, own)
            ]
        return answers

    def _drawn(
        self, rows: list[tuple[list[int], Sequence[int], EncodedImage]], decoding: Decoding
    ) -> list[list[list[int]]]:
        """Tokens of the samples of rows of (prompt, seeds, image)."""
        if not rows:
            return []
        prompts, seeds, images = zip(*rows)
        settings, inputs = self._settings(decoding), batched(images, self._device)
        return sample_branches(self.module, prompts, seeds, settings, inputs)

    @torch.no_grad()
    def sample_about(
        self,
        images: "Sequence[Image]",
        questions: Sequence[Sequence[str]],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
    ) -> list[list[Answer]]:
        """For each image one answer to each of its questions; the image is computed once.

        See :meth:`sample` for what an answer depends on.

        Args:
            questions, seeds: Of each image.
        """
        answers: list[list[Answer]] = []
        for start in range(0, len(images), self.batch_size):
            encoded = [self.encoder.image(i) for i in images[start : start + self.batch_size]]
            part = slice(start, start + len(encoded))
            packs = [_shared(self.encoder.prompts(list(q), i)) for q, i in zip(questions[part], encoded)]
            room = min(self._room(pack.longest) for pack in packs)
            replies = None
            if room >= decoding.max_new_tokens:
                settings, inputs = self._settings(decoding), batched(encoded, self._device)
                replies = sample_after_branches(self.module, packs, seeds[part], settings, inputs)
            if replies is not None:
                answers += [[self.encoder.answer(ids) for ids in row] for row in replies]
                continue
            for image, asked, own in zip(images[part], questions[part], seeds[part]):
                answers.append(
                    [self.sample([Question(image, q)], [[s]], decoding)[0][0] for q, s in zip(asked, own)]
                )
        return answers

    def _room(self, tokens: int) -> int:
        """Most tokens that an answer can have after a prompt of so many."""
        context = context_of(self.module.config)
        return sys.maxsize if context is None else context - tokens

    def _settings(self, decoding: Decoding) -> SamplingSettings:
        """How this model's samples are drawn."""
        return SamplingSettings(
            **vars(decoding),
            pad=self.encoder.pad_id,
            stop=self.encoder.ends,
            suppress=self.module.generation_config.suppress_tokens or (),
        )

    def first_tokens(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
    ) -> list[list[FirstToken]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.first_tokens`; one pass a batch.

        A question that fills the model's context gets no reply: beyond it the numbers mean nothing.
        """
        groups = self.encoder.first_tokens(words)
        result: list[list[FirstToken]] = []
        for start in range(0, len(images), self.batch_size):
            encoded = [self.encoder.image(i) for i in images[start : start + self.batch_size]]
            asked = questions[start : start + self.batch_size]
            prompts = [self.encoder.prompts(list(q), i) for q, i in zip(asked, encoded)]
            packs = [_shared(own) for own in prompts]
            packed = collate(packs, self.encoder.pad_id).to(self._device)
            images_of_batch = batched(encoded, self._device)
            probs = next_token_probs(
                self.module, packed, max_tokens_per_pack=self.max_tokens_per_pack, **images_of_batch
            )  # (questions of all images, vocabulary)
            found = iter(self._first_tokens(probs, groups))
            result += [
                [
                    first if self._room(len(p)) > 0 else FirstToken.missing(len(groups), no_room(len(p)))
                    for p, first in zip(own, found)
                ]
                for own in prompts
            ]
        return result

    def _first_tokens(self, probs: torch.Tensor, groups: list[list[int]]) -> list[FirstToken]:
        """Of each question, from (questions, vocabulary)."""
        of_groups = [probs[:, group].double().sum(-1) for group in groups]  # each (questions,)
        best, ids = probs.topk(min(LIKELIEST, probs.shape[-1]))  # both (questions, LIKELIEST)
        decode = self.encoder.tokenizer.decode
        return [
            FirstToken(tuple(sums), tuple((decode([i]), p) for i, p in zip(tokens, likeliest)))
            for sums, tokens, likeliest in zip(
                torch.stack(of_groups, -1).tolist(), ids.tolist(), best.tolist(), strict=True
            )
        ]

    def branch_log_probs(
        self, questions: Sequence[Question], answers: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.branch_log_probs`."""
        result: list[list[tuple[float, int]]] = []
        for start in range(0, len(questions), self.batch_size):
            part = questions[start : start + self.batch_size]
            images = [self.encoder.image(q.image) for q in part]
            texts = answers[start : start + self.batch_size]
            result += self.score_packs(
                images,
                [pack(*self.encoder.answers(q.text, list(a), i)) for q, a, i in zip(part, texts, images)],
            )
        return result

    @torch.no_grad()
    def pack_log_probs(self, images: Sequence[EncodedImage], packs: Sequence[Pack]) -> BranchLogProbs:
        """Log-probs of all tokens of all branches, in one forward pass."""
        packed = collate(list(packs), self.encoder.pad_id).to(self._device)
        return branch_log_probs(
            self.module, packed, max_tokens_per_pack=self.max_tokens_per_pack, **batched(images, self._device)
        )

    def score_packs(
        self, images: Sequence[EncodedImage], packs: Sequence[Pack]
    ) -> list[list[tuple[float, int]]]:
        """For each pack, in one forward pass, the (summed log-prob, token count) of each branch."""
        scored = self.pack_log_probs(images, packs)
        flat = iter(zip(scored.sums.tolist(), scored.counts.tolist()))
        return [[next(flat) for _ in p.branches] for p in packs]

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device


def _shared(prompts: list[list[int]]) -> Pack:
    """The prompts of one image as branches of what they have in common."""
    size = common_prefix(prompts)
    return Pack(prompts[0][:size], [p[size:] for p in prompts])


def batched(images: Sequence[EncodedImage], device: torch.device | str) -> dict[str, torch.Tensor]:
    """What the model takes for several images, one a prompt, joined along dimension 0.

    Where images differ in their number of tiles or patches (LLaVA-NeXT, Idefics, MiniCPM-V) they are padded
    with zeros, which these models cut off again by the sizes that come with them.
    """
    return {name: _joined([i.inputs[name] for i in images]).to(device) for name in images[0].inputs}


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors))]
    padded = []
    for t in tensors:
        missing = [most - size for most, size in zip(shape, t.shape[1:])]
        padded.append(
            torch.nn.functional.pad(t, [n for m in reversed(missing) for n in (0, m)]) if any(missing) else t
        )
    return torch.cat(padded)
