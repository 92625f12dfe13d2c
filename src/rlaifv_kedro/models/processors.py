"""The processor of a checkpoint: made or completed as its model needs it, and how it sees pictures.

Folders of llava-hf's earlier days leave to the processor's defaults what the model's config says; some have
their chat template elsewhere, or name no end-of-sequence token.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.doors import MOST_OF_SETTINGS, regular_bytes
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.files_of_checkpoint import read_object
from rlaifv_kedro.models.folder import LLAVA_ORIGINAL, PROCESSORS, CheckpointFolder
from rlaifv_kedro.models.llava.images import chosen_images, told
from rlaifv_kedro.models.llava.processor import chat_template as llava_v1
from rlaifv_kedro.models.llava.processor import llava_processor
from rlaifv_kedro.models.loading_errors import checkpoint_errors

if TYPE_CHECKING:
    from transformers import (
        LlavaConfig,
        LlavaProcessor,
        PreTrainedConfig,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

TEMPLATES = {"llava_v1": llava_v1}
"""Chat templates that have a name, so that ``chat_template`` needs no file."""

# In place of transformers' function of this name: some templates write today's date, and a run that goes on
# tomorrow must ask the same. It is the day that Llama 3.1's template falls back to.
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format | replace('%Y', '2024') | replace('%m', '07') | "
    "replace('%b', 'Jul') | replace('%B', 'July') "
    "| replace('%d', '26') | replace('%A', 'Friday') | replace('%a', 'Fri') | replace('%H', '00') | "
    "replace('%M', '00') | replace('%S', '00') }}"
    "{% endmacro %}"
)


def load_processor(
    folder: CheckpointFolder,
    config: "PreTrainedConfig",
    *,
    trust_remote_code: bool = False,
    chat_template: str | Path | None = None,
    image_aspect_ratio: str | None = None,
) -> "ProcessorMixin":
    """The processor in a folder, for a model with this config.

    Args:
        config: The loaded model's; where the processor says nothing, it does.
        chat_template: File with one, or the name of one of :data:`TEMPLATES`, instead of the folder's.
        image_aspect_ratio: ``pad`` or ``crop``; see :func:`rlaifv_kedro.models.llava.images.chosen_images`.

    Raises:
        UserError: A file is missing or damaged; there is no image processor; the tokenizer has no
            end-of-sequence token; the model is none to pad or crop for.
    """
    from transformers import AutoProcessor, LlavaProcessor

    where = folder.path
    with checkpoint_errors(where, "its processor or tokenizer can't be loaded"):
        if not folder.is_adapter and folder.family == LLAVA_ORIGINAL:
            processor = llava_processor(where, config)
        else:
            processor = AutoProcessor.from_pretrained(where, trust_remote_code=trust_remote_code)
        if getattr(processor, "tokenizer", None) is None or not hasattr(processor, "image_processor"):
            raise UserError(
                f"{where} has no whole processor: there is none in {' or '.join(PROCESSORS)}, or no "
                "tokenizer. Copy them there from where the checkpoint was published."
            )
        if isinstance(processor, LlavaProcessor):
            _complete(processor, config)
            processor.image_processor = chosen_images(processor.image_processor, config, image_aspect_ratio)
        elif image_aspect_ratio is not None:
            raise UserError(
                f"{where}: image_aspect_ratio={image_aspect_ratio}, but only LLaVA-1.5 has a choice: this is "
                f"a {config.model_type}. Leave it out."
            )
        complete_tokenizer(processor.tokenizer, config, folder)
        template = processor_template(processor) if chat_template is None else named_template(chat_template)
        processor.chat_template = template
    return processor


def pictures_and_prompts(processor: "ProcessorMixin", chat_template: str | Path | None) -> str:
    """How pictures and prompts are prepared for a LLaVA, in words."""
    prompts = (
        "the checkpoint's own chat template" if chat_template is None else f"chat_template={chat_template}"
    )
    return f"pictures are {told(processor.image_processor)}; prompts are written by {prompts}"


def named_template(named: str | Path) -> str:
    """A chat template by its name, or from a file.

    Raises:
        UserError: There is no such name and no such file, or it holds no text.
    """
    if str(named) in TEMPLATES:
        return TEMPLATES[str(named)]()
    trouble = f"the chat template can't be read (it is a file, or one of {', '.join(TEMPLATES)})"
    with checkpoint_errors(named, trouble):
        return regular_bytes(named, MOST_OF_SETTINGS).decode("utf-8-sig")


def processor_template(processor: Any) -> str | None:
    """A processor's chat template; if it has none, its tokenizer's."""
    for owner in (processor, getattr(processor, "tokenizer", None)):
        found = getattr(owner, "chat_template", None)
        found = found.get("default") if isinstance(found, Mapping) else found
        if found:
            return found.removeprefix("\ufeff")  # a byte order mark, which would be written into every prompt
    return None


def template_options(processor: Any, whose: str) -> dict[str, Any]:
    """How a processor or tokenizer is asked to write chats by its template: without thinking, on a fixed day.

    Args:
        whose: Begins the message, such as "FOLDER: the processor".

    Raises:
        UserError: There is no chat template.
    """
    template = processor_template(processor)
    if not template:
        raise UserError(f"{whose} has no chat template. Add a chat_template.jinja beside its files.")
    dated = (_FIXED_DATE if "strftime_now" in template else "") + template
    return {"chat_template": dated, **({"enable_thinking": False} if "enable_thinking" in template else {})}


def complete_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig", folder: CheckpointFolder
) -> None:
    """Give a tokenizer the end-of-sequence token that config or generation settings name, if it has none.

    Raises:
        UserError: Nothing names one: no answer would end. Or it has no words: of a class that it knows,
            transformers makes one without its files, and says nothing.
    """
    if not set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder):
        raise UserError(
            f"{folder.path}: the tokenizer's files are missing (tokenizer.json or tokenizer.model). Copy "
            "them there from where the checkpoint was published."
        )
    if tokenizer.eos_token is not None:
        return
    settings = folder.path / "generation_config.json"
    for values in (read_object(settings) if settings.is_file() else {}, config.get_text_config().to_dict()):
        ids = values.get("eos_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and (token := tokenizer.convert_ids_to_tokens(first)):
            tokenizer.eos_token = token
            return
    raise UserError(
        f"{folder.path}: neither the tokenizer nor config.json names a token that ends an answer. Set "
        "eos_token in tokenizer_config.json."
    )


def _complete(processor: "LlavaProcessor", config: "LlavaConfig") -> None:
    """What a processor needs to write an image's tokens, from the model's config where it doesn't say it."""
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    if config.vision_config.model_type == "clip_vision_model":
        processor.num_additional_image_tokens = 1  # CLIP's CLS; older files leave it at none
