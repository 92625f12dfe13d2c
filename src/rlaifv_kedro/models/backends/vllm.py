"""The backend for vLLM's offline engine, in this process.

vLLM pins torch and transformers and wants a GPU, so it lives in an environment of its own (the extra
``vllm``) and isn't part of the tests: they hold this module to a stand-in with the documented shape of
``LLM``, ``SamplingParams`` and ``RequestOutput`` (github.com/vllm-project/vllm: ``llm.py``,
``sampling_params.py``, ``outputs.py``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.server_bodies import text_message
from rlaifv_kedro.models.encoding import ChatEncoder
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.models.interface import LIKELIEST, Answer, Decoding, FirstToken, OnAnswer, Question
from rlaifv_kedro.models.llava.images import padded, pads
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.models.processors import load_processor, named_template
from rlaifv_kedro.params import VLLMParams
from rlaifv_kedro.pixels import as_seen

if TYPE_CHECKING:
    from PIL.Image import Image


class VLLMModel:
    """See :class:`rlaifv_kedro.models.VisionLanguageModel` and :class:`rlaifv_kedro.models.TextModel`.

    The prompts' ids are those of the transformers backend, with one token for the image, which vLLM replaces
    by as many as the model takes: right for the families whose template writes one (LLaVA, Qwen-VL). Its
    automatic prefix caching computes an image and its question once for all answers. Draws follow the seeds;
    sums depend on the batch, so now and then a token differs between runs.

    Args:
        path: Folder or hub name of the weights.
        params: ``dtype``, ``chat_template``, ``image_aspect_ratio`` (pad), ``trust_remote_code`` and
            ``top_logprobs`` are used.
        dtype: Where ``params`` has none.

    Attributes:
        outside_top: Words that weren't among the likeliest first tokens, and so got probability 0; only with
            a vLLM without ``logprob_token_ids``.

    Raises:
        UserError: vLLM isn't installed, or it can't load the weights; later, a prompt is too long for the
            model.
    """

    def __init__(self, path: str | Path, params: VLLMParams, dtype: str = "bfloat16"):
        try:
            import vllm
        except ImportError as error:
            raise UserError(
                f"backend=vllm needs vLLM, which can't be imported ({error}). Install it in an environment "
                "of its own, since it pins torch and "
                "transformers: pip install 'rlaifv_kedro[vllm]'. Or start vllm serve there, and take "
                "backend=openai with its url."
            ) from error
        from transformers import AutoConfig

        self.where, self.params, self.outside_top, self._vllm = str(path), params, 0, vllm
        with checkpoint_errors(path, "vLLM can't load the model"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=params.trust_remote_code)
            # vLLM refuses the limit for models without images.
            limits = {"limit_mm_per_prompt": {"image": 1}} if hasattr(config, "vision_config") else {}
            self.engine = vllm.LLM(
                model=self.where,
                dtype=params.dtype or dtype,
                trust_remote_code=params.trust_remote_code,
                enable_prefix_caching=True,
                max_logprobs=max(20, params.top_logprobs),
                **limits,
            )

    def sample(
        self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Answer]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.sample`; the engine gets all prompts at once."""
        prompts = [
            prompt
            for q, row in zip(questions, seeds)
            for prompt in [self._prompt(q.image, q.text)] * len(row)
        ]
        settings = [self._settings(decoding, seed) for row in seeds for seed in row]
        answers = iter(self._run(self.engine.generate, prompts, settings))
        return [[_answer(next(answers)) for _ in row] for row in seeds]

    def complete(
        self,
        chats: Sequence[Sequence[Mapping[str, str]]],
        seeds: Sequence[int],
        decoding: Decoding,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """See :class:`rlaifv_kedro.models.TextModel`.

        The engine gives all answers of a call at its end, and ``on_answer`` is called then.
        """
        settings = [self._settings(decoding, seed) for seed in seeds]
        messages = [[text_message(m["role"], m["content"]) for m in chat] for chat in chats]
        options = {"chat_template": self._template, "chat_template_kwargs": {"enable_thinking": False}}
        answers = [_answer(output) for output in self._run(self.engine.chat, messages, settings, **options)]
        for index, answer in enumerate(answers if on_answer else []):
            on_answer(index, answer)
        return answers

    def first_tokens(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
    ) -> list[list[FirstToken]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.first_tokens`.

        vLLM's logprobs are those before temperature and penalties. Of the likeliest tokens it names those
        that were asked for, and always the one that it takes, which here is the likeliest.
        """
        groups = self._encoder.first_tokens(words)
        settings = self._first_token_settings([token for group in groups for token in group])
        prompts = [self._prompt(image, text) for image, asked in zip(images, questions) for text in asked]
        outputs = iter(self._run(self.engine.generate, prompts, [settings] * len(prompts)))
        return [[self._first_token(next(outputs), groups) for _ in asked] for asked in questions]

    def branch_log_probs(
        self, questions: Sequence[Question], answers: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]]]:
        """The engine doesn't score given answers: always a UserError."""
        raise UserError(
            f"{self.where}: backend=vllm doesn't score given answers. Take backend=transformers, or "
            "feedback.scoring=claims."
        )

    def close(self) -> None:
        """Give the GPU's memory back, as far as vLLM does when its engine is deleted."""
        del self.engine

    def _run(
        self, ask: Callable[..., list[Any]], prompts: list[Any], settings: list[Any], **options: Any
    ) -> list[Any]:
        """What ``LLM.generate`` or ``LLM.chat`` gives for each prompt, in their order."""
        try:
            return ask(prompts, settings, use_tqdm=False, **options) if prompts else []
        except ValueError as error:
            raise UserError(f"{self.where}: vLLM refuses a prompt: {error}") from error

    @cached_property
    def _template(self) -> str | None:
        return None if self.params.chat_template is None else named_template(self.params.chat_template)

    @cached_property
    def _encoder(self) -> ChatEncoder:
        from transformers import AutoConfig

        folder, params = CheckpointFolder(folder_of(self.where)), self.params
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=params.trust_remote_code)
        processor = load_processor(
            folder,
            config,
            trust_remote_code=params.trust_remote_code,
            chat_template=params.chat_template,
            image_aspect_ratio=params.image_aspect_ratio,
        )
        return ChatEncoder(processor, self.where)

    def _prompt(self, image: "Image", text: str) -> dict[str, Any]:
        picture = as_seen(image)
        images = self._encoder.processor.image_processor
        return {
            "prompt_token_ids": self._encoder.prompts([text], self._encoder.placeholder(1))[0],
            # vLLM processes pictures itself, by the folder's files: a square is neither padded nor cut
            "multi_modal_data": {"image": padded(picture, images) if pads(images) else picture},
        }

    def _settings(self, decoding: Decoding, seed: int) -> Any:
        top_k = {} if decoding.top_k is None else {"top_k": decoding.top_k}  # how none is said has changed
        # Seeds must fit into 64 bits with a sign, and -1 means none.
        return self._vllm.SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            **top_k,
            repetition_penalty=decoding.repetition_penalty,
            max_tokens=decoding.max_new_tokens,
            seed=seed % (2**63 - 1),
        )

    def _first_token_settings(self, tokens: list[int]) -> Any:
        try:
            return self._vllm.SamplingParams(
                temperature=0, max_tokens=1, logprobs=len(tokens), logprob_token_ids=tokens
            )
        except TypeError:  # a vLLM that can only be asked for the likeliest
            return self._vllm.SamplingParams(temperature=0, max_tokens=1, logprobs=self.params.top_logprobs)

    def _first_token(self, output: Any, groups: list[list[int]]) -> FirstToken:
        found = output.outputs[0].logprobs[0]
        if not all(value.logprob <= 0.05 for value in found.values()):  # one of 1 may be rounded up
            why = "vLLM's log-probs are NaN or positive: the model's numbers overflow"
            return FirstToken.missing(len(groups), why)
        known = {token: math.exp(value.logprob) for token, value in found.items()}
        self.outside_top += sum(token not in known for group in groups for token in group)
        likeliest = sorted(known, key=lambda token: -known[token])[:LIKELIEST]
        return FirstToken(
            tuple(sum(known.get(token, 0.0) for token in group) for group in groups),
            tuple((self._encoder.tokenizer.decode([token]), known[token]) for token in likeliest),
        )


def _answer(output: Any) -> Answer:
    """vLLM's ``finish_reason`` is ``stop`` or ``length``, unless the request was broken off."""
    first = output.outputs[0]
    if first.finish_reason not in ("stop", "length"):
        return Answer("", 0, "error", f"vLLM broke the reply off: {first.finish_reason}")
    return Answer(first.text.strip(), len(first.token_ids), first.finish_reason)
