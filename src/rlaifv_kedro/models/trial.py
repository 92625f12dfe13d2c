"""One blank picture with one question: whether a processor writes what its model reads."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.models.loading_errors import checkpoint_errors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from rlaifv_kedro.models.encoding import ChatEncoder

PICTURE = (336, 252)
"""Pixels of the blank picture."""


def refuse_misfits(
    encoder: "ChatEncoder", config: "PreTrainedConfig", module: "PreTrainedModel | None" = None
) -> None:
    """Stop if a prompt would have another number of image tokens than the model makes features of a picture.

    Args:
        config: The model's.
        module: The model; without it, the features are counted from the config as far as that tells.

    Raises:
        UserError: They differ; the chat template or the processor can't write the prompt, or leaves a text
            out; the tokenizer has ids that the model has no embedding for.
    """
    from PIL import Image

    where = shown(encoder.where)
    with checkpoint_errors(where, "its processor and chat template can't write a question about a picture"):
        image = encoder.image(Image.new("RGB", PICTURE))
        questions, answers = ("?", "What is this?"), ("yes", "no")
        prompt, written = encoder.answers(questions[0], list(answers), image)
        same_prompt = prompt == encoder.prompts([questions[1]], image)[0]
        same_answer = written[0] == written[1]
        if (same_prompt and _differ(encoder, *questions)) or (same_answer and _differ(encoder, *answers)):
            raise UserError(
                f"{where}: its chat template leaves out the question or the answer. Correct it, or name "
                "another: chat_template under models.<role>."
            )
    rows = config.get_text_config().vocab_size
    beyond = sorted(token for token, i in encoder.tokenizer.get_vocab().items() if i >= rows)
    if beyond:
        raise UserError(
            f"{where}: the tokenizer has tokens for which the model has no embedding (it has {rows}): "
            f"{', '.join(beyond[:3])}. Take the tokenizer that belongs to these weights."
        )
    token = getattr(config, "image_token_id", None)  # of LLaVA also under its older name, image_token_index
    token = encoder.image_id if token is None else token
    with checkpoint_errors(where, "the model can't look at a picture as its processor prepares it"):
        features = _features(config, module, image.inputs)
    found = prompt.count(token)
    if features is not None and found != features:
        raise UserError(
            f"{where}: a prompt has {found} image tokens (id {token}), and the model makes {features} "
            "features of a picture: its processor's files and chat template don't belong to its config.json. "
            "Copy all of them anew from where the checkpoint was published."
        )


def _differ(encoder: "ChatEncoder", one: str, other: str) -> bool:
    """Whether the tokenizer tells two texts apart; a small vocabulary may know neither."""
    return encoder.tokenizer.encode(one) != encoder.tokenizer.encode(other)


def _features(
    config: "PreTrainedConfig", module: "PreTrainedModel | None", inputs: "Mapping[str, torch.Tensor]"
) -> int | None:
    """How many tokens' places the features of a picture fill; None where only the weights could tell."""
    if config.model_type == "minicpmv":
        return len(inputs["tgt_sizes"]) * config.query_num
    if config.model_type in ("llava", "omnilmm"):
        return _counted(empty_model(config), inputs)
    return None if module is None else _counted(module, inputs)


def empty_model(config: "PreTrainedConfig") -> "PreTrainedModel":
    """The model without numbers: shapes only, which need no weights and no time."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def _counted(module: "PreTrainedModel", inputs: "Mapping[str, torch.Tensor]") -> int | None:
    import torch

    if not hasattr(module, "get_image_features"):
        return None
    device = next(module.parameters()).device
    known = inspect.signature(module.get_image_features).parameters
    moved = {
        name: value.to(device, module.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if name in known
    }
    with torch.no_grad():
        return _rows(module.get_image_features(**moved))


def _rows(features: Any) -> int:
    """Vectors in a tensor, or in what families give instead: one a picture, or an output with them."""
    features = getattr(features, "pooler_output", features)
    if isinstance(features, (list, tuple)):
        return sum(map(_rows, features))
    return features.shape[:-1].numel()
