"""Asking a model about an image: the front that the release has.

``RLAIFVChat(path).chat({"image": ..., "question": ...})`` gives the answer.

How an answer is decoded depends on the model's family, as in the release (``chat.py`` of
github.com/RLHF-V/RLAIF-V); the family is read from the config, not from the path.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.room import context_of
from rlaifv_kedro.models.chat_images import read_image
from rlaifv_kedro.params import Count, Params
from rlaifv_kedro.params.messages import explain

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import GenerationConfig, PreTrainedConfig

    from rlaifv_kedro.models import Answer
    from rlaifv_kedro.models.backends.transformers import TransformersModel


class ChatDecoding(Params):
    """How an answer is decoded."""

    num_beams: Count = Field(1, description="beams of the search; with a temperature they are sampled")
    temperature: float = Field(
        0, ge=0, description="0 takes the likeliest; above, sampling from the tempered softmax"
    )
    top_k: int = Field(
        0, strict=True, ge=0, description="sampling: only from so many likeliest tokens; 0 for all"
    )
    top_p: float = Field(
        1,
        gt=0,
        le=1,
        description="sampling: only from the likeliest tokens that hold so much of the probability",
    )
    repetition_penalty: float = Field(
        1,
        gt=0,
        description="on tokens that the answer has already; the prompt's don't count, since the release "
        "generates from embeddings",
    )
    max_new_tokens: Count = Field(
        1024, description="at most so many tokens an answer, fewer where the context ends (release)"
    )
    seed: int = Field(
        0, strict=True, ge=0, lt=2**63, description="sampling: the same seed gives the same answer"
    )


# By ``model_type``; all others are decoded greedily.
FAMILIES: dict[str, ChatDecoding] = {
    "llava": ChatDecoding(num_beams=3),  # the release's RLAIFV7B
    # The release's RLAIFV12B.
    "omnilmm": ChatDecoding(num_beams=3, temperature=0.6, top_k=30, top_p=0.9, repetition_penalty=1.1),
    # The release has no front for this one. This is ``chat(sampling=False)`` of the code beside its weights:
    # what the release's own script for it (minicpm-llama3-v-25/minicpmv_diverse_gen.py) and OpenBMB's
    # evaluation take. By itself that code samples: temperature 0.7, top-p 0.8, top-k 100, penalty 1.05.
    "minicpmv": ChatDecoding(num_beams=3, repetition_penalty=1.2),
}


def decoding_of(config: "PreTrainedConfig") -> ChatDecoding:
    """How a model's family decodes, by its config."""
    return FAMILIES.get(config.model_type, ChatDecoding())


class RLAIFVChat:
    """A model to ask about images.

    Args:
        path: Folder of a checkpoint or of LoRA adapters, or a name on the model hub; see
            :func:`rlaifv_kedro.models.load_model`.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``auto`` is bfloat16 on a GPU and float32 on a CPU.
        device: ``auto`` takes a GPU if there is one.
        decoding: Instead of the family's; see :func:`decoding_of`.

    Raises:
        UserError: The model can't be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        decoding: ChatDecoding | None = None,
    ):
        from rlaifv_kedro.models import load_model
        from rlaifv_kedro.models.loading import torch_device

        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UserError(f"dtype={dtype} is none of auto, float32, bfloat16, float16.")
        on = torch_device(device)
        usual = "float32" if on == "cpu" else "bfloat16"
        chosen = usual if dtype == "auto" else dtype
        self._take(load_model(path, dtype=chosen, device=on), decoding)

    @classmethod
    def of(cls, model: "TransformersModel", decoding: ChatDecoding) -> "RLAIFVChat":
        """The same on a model that is loaded already."""
        chat = cls.__new__(cls)
        chat._take(model, decoding)
        return chat

    def _take(self, model: "TransformersModel", decoding: ChatDecoding | None) -> None:
        self.model = model
        self.decoding = decoding or decoding_of(model.module.config)
        # generate fills whatever it isn't told from here, so a checkpoint's taste (temperature, penalties)
        # must not stay.
        model.module.generation_config = self._necessary()

    def chat(self, inputs: Mapping[str, Any], **overrides: Any) -> str:
        """Answer a question about an image.

        Args:
            inputs: ``question``, and ``image`` in one of the forms that
                :func:`rlaifv_kedro.models.chat_images.read_image` takes.
            overrides: Fields of :class:`ChatDecoding` that are to be others this time, e.g.
                ``max_new_tokens=64``.

        Returns:
            The answer, without special tokens and blanks around it. Asked the same again, a model that
            samples gives the same answer, unless ``seed`` is another.

        Raises:
            UserError: There is no image or no question, the image can't be read, an override is unknown or
                impossible, or the prompt is longer than the model's context.
        """
        question = _question(inputs)
        return self.answer(read_image(inputs.get("image")), question, **overrides).text

    def answer(self, picture: "Image", question: str, **overrides: Any) -> "Answer":
        """As :meth:`chat`, with the number of tokens and the reason for the end.

        Of beams the tokens are those of the best.
        """
        import torch

        from rlaifv_kedro.branching.family import type_ids
        from rlaifv_kedro.models import Answer

        if not self.model.encoder.clean(question).strip():
            raise UserError(f"there is no question in {question!r}: what stands for an image is taken out.")
        decoding = _overridden(self.decoding, overrides)
        module = self.model.module
        image = self.model.encoder.image(picture)
        prompt = self.model.encoder.prompts([question], image)[0]  # ids up to where the answer begins
        ids = torch.tensor([prompt], device=module.device)  # (1, prompt)
        # generate draws from the global generator, which is the caller's.
        gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(decoding.seed)
            row = module.generate(
                **{name: value.to(module.device) for name, value in image.inputs.items()},
                **type_ids(module, ids, torch.zeros_like(ids)),
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._generation(decoding, len(prompt)),
                logits_processor=_penalty(decoding.repetition_penalty, len(prompt)),
            )[0, len(prompt) :].tolist()
        end = next((i for i, token in enumerate(row) if token in self.model.encoder.ends), None)
        text = self.model.encoder.tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        return Answer(text, len(row) if end is None else end + 1, "length" if end is None else "stop")

    def _necessary(self, **settings: Any) -> "GenerationConfig":
        """What generate must know of any checkpoint: where an answer ends, and which tokens it can't have."""
        from transformers import GenerationConfig

        encoder, suppressed = self.model.encoder, self.model.module.generation_config.suppress_tokens
        # Beams compare sums of log-probs: those of a vocabulary without the tokens that can't be had.
        return GenerationConfig(
            pad_token_id=encoder.pad_id,
            eos_token_id=sorted(encoder.ends),
            suppress_tokens=suppressed,
            renormalize_logits=bool(suppressed),
            **settings,
        )

    def _generation(self, decoding: ChatDecoding, prompt: int) -> "GenerationConfig":
        """generate's settings for a prompt of so many tokens."""
        context = context_of(self.model.module.config) or prompt + decoding.max_new_tokens
        if prompt >= context:
            raise UserError(
                f"the question and its image take {prompt} tokens, and the model's context has {context}: "
                "no room for an answer. Ask a shorter one."
            )
        sampling = (
            {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p}
            if decoding.temperature
            else {}
        )
        longest = min(decoding.max_new_tokens, context - prompt)
        return self._necessary(
            do_sample=bool(sampling), num_beams=decoding.num_beams, max_new_tokens=longest, **sampling
        )


def _penalty(penalty: float, prompt: int) -> list[Any]:
    """The repetition penalty as a logits processor.

    generate's own setting counts the prompt's tokens too.
    """
    from transformers import RepetitionPenaltyLogitsProcessor

    return (
        [RepetitionPenaltyLogitsProcessor(float(penalty), prompt_ignore_length=prompt)]
        if penalty != 1
        else []
    )


def _overridden(decoding: ChatDecoding, overrides: dict[str, Any]) -> ChatDecoding:
    try:
        return ChatDecoding(**{**decoding.model_dump(), **overrides})
    except ValidationError as error:
        raise UserError("; ".join(explain(p, ChatDecoding) for p in error.errors())) from error


def _question(inputs: Mapping[str, Any]) -> str:
    question = inputs.get("question") if isinstance(inputs, Mapping) else None
    if not isinstance(question, str) or not question.strip():
        raise UserError('there is no question: chat takes {"image": ..., "question": "..."}.')
    return question
