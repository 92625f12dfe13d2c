"""Asking a model about an image: the front that the release has, ``RLAIFVChat(path).chat({"image": ...,
"question": ...})``.

How an answer is decoded depends on the model's family, as in the release (``chat.py`` of
github.com/RLHF-V/RLAIF-V); the family is read from the config, not from the path.
"""

import base64
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Count, Params

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import GenerationConfig, PreTrainedConfig

    from rlaifv_kedro.models import Answer
    from rlaifv_kedro.models.backends.transformers import TransformersModel
    from rlaifv_kedro.models.encoding import EncodedImage

_FORMS = "Give a file's path, base64 text, a data URL, bytes or a PIL image."


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
    "omnilmm": ChatDecoding(
        num_beams=3, temperature=0.6, top_k=30, top_p=0.9, repetition_penalty=1.1
    ),  # the release's RLAIFV12B
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
        chosen = ("float32" if on == "cpu" else "bfloat16") if dtype == "auto" else dtype
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
            inputs: ``image``, in one of the forms that :func:`read_image` takes, and ``question``.
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
        """As :meth:`chat`, with the number of tokens and the reason for the end. Of beams the tokens are
        those of the best.
        """
        import torch

        from rlaifv_kedro.branching.family import type_ids
        from rlaifv_kedro.models import Answer

        decoding = _overridden(self.decoding, overrides)
        module = self.model.module
        image = self.model.encoder.image(picture)
        prompt = _prompt(self.model, question, image)
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
        context = (
            getattr(self.model.module.config.get_text_config(), "max_position_embeddings", None)
            or prompt + decoding.max_new_tokens
        )
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


def _prompt(model: "TransformersModel", question: str, image: "EncodedImage") -> list[int]:
    """Token ids up to where the answer begins."""
    return model.encoder.prompts([question], image)[0]


def _penalty(penalty: float, prompt: int) -> list[Any]:
    """The repetition penalty as a logits processor, because generate's own setting counts the prompt's
    tokens too.
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
        wrong = [
            f"{'.'.join(map(str, p['loc']))}={p['input']!r}: {p['msg'][0].lower()}{p['msg'][1:]}"
            for p in error.errors()
        ]
        raise UserError(f"{'; '.join(wrong)}. Known: {', '.join(ChatDecoding.model_fields)}.") from error


def _question(inputs: Mapping[str, Any]) -> str:
    question = inputs.get("question") if isinstance(inputs, Mapping) else None
    if not isinstance(question, str) or not question.strip():
        raise UserError('there is no question: chat takes {"image": ..., "question": "..."}.')
    return question


def read_image(image: "str | Path | bytes | Image | None") -> "Image":
    """The picture that something stands for: a PIL image, the path of a file, a file's bytes, or these as
    base64 text (the standard or the URL-safe alphabet, also in a data URL, also as bytes).

    A text that is the path of a file is that, even if it could be base64.

    Raises:
        UserError: There is none, the file is missing, or it can't be read.
    """
    from PIL.Image import Image

    if isinstance(image, Image):
        return _opened(image, "the image")
    if isinstance(image, bytes | bytearray):
        return _from_bytes(bytes(image))
    if isinstance(image, os.PathLike):
        return _from_file(Path(image))
    if isinstance(image, str) and image.strip():
        return _from_text(image)
    if image is None or isinstance(image, str):
        raise UserError(f"there is no image, and this model answers questions about one. {_FORMS}")
    raise UserError(f"an image of type {type(image).__name__} can't be read. {_FORMS}")


def _from_file(path: Path) -> "Image":
    if not path.is_file():
        raise UserError(f"there is no file {path}. Correct the path of the image.")
    return _opened(path, str(path))


def _from_text(text: str) -> "Image":
    shown = text if len(text) <= 80 else f"{text[:40]}... ({len(text):,} characters)"
    if os.path.isfile(text):  # unlike Path's it returns False for a text that is too long for a path
        return _opened(Path(text), text)
    if text.startswith("data:"):
        head, _, payload = text.partition(",")
        if not head.endswith(";base64"):
            raise UserError(
                f"the image {shown} is no data URL with base64 text, like data:image/png;base64,..."
            )
        return _decoded(payload, f"the image {shown}")
    if re.search(
        r"\.\w{1,5}$", text
    ):  # base64 has no full stop; a separator would tell nothing, because it has "/"
        raise UserError(f"there is no file {shown}. Correct the path of the image.")
    return _decoded(text, f"there is no file {shown}, and as base64 text it")


def _from_bytes(data: bytes) -> "Image":
    try:
        return _opened(data, "the image")
    except UserError:
        if not data.isascii():
            raise
        return _decoded(data.decode("ascii"), "the image")


def _decoded(text: str, what: str) -> "Image":
    """The picture in a base64 text, whose padding may be missing."""
    plain = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    wrong = re.search("[^A-Za-z0-9+/]", plain)
    if wrong:
        raise UserError(f"{what} can't be read: {wrong[0]!r} isn't a character of base64.")
    if len(plain) % 4 == 1:
        raise UserError(
            f"{what} can't be read: no base64 text has {len(plain):,} characters, so some are missing."
        )
    return _opened(base64.b64decode(plain + "=" * (-len(plain) % 4)), what)


def _opened(source: "bytes | Path | Image", what: str) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        picture = (
            source
            if isinstance(source, Image.Image)
            else Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        )
        picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "that is no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{what} can't be read: {reason}.") from error
    return picture
