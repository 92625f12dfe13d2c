"""From images and conversations to OmniLMM's inputs, as the release makes them.

Sources: github.com/OpenBMB/OmniLMM, ``omnilmm/train/train_utils.py`` (system sentence, order of the turns)
and ``chat.py`` (where the image goes).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    AddedToken,
    BatchFeature,
    CLIPImageProcessorPil,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
from rlaifv_kedro.models.sentencepiece_ids import like_sentencepiece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IM_PATCH, IM_START, IM_END = "<im_patch>", "<im_start>", "<im_end>"
MAX_TOKENS = 2048
"""Of a text, in the release; it cuts longer ones off without a word."""
SYSTEM = (
    "You are an artificial intelligence assistant, which gives helpful, detailed, and polite answers "
    "to the human's questions."
)
"""What every conversation begins with in the release, unless it has a system turn of its own."""

# How Zephyr, which OmniLMM's language model comes from, writes a conversation: for tokenizers that bring no
# template.
ZEPHYR = (
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + "
    "'\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"
)

# Zephyr's template knows strings only, so the parts of a message become one string first: its images, then
# its text.
_TURNS = (
    "{%- set turns = namespace(all=[]) -%}"
    "{%- if messages[0]['role'] != 'system' -%}{%- set turns.all = [{'role': 'system', 'content': SYSTEM}] "
    "-%}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set content = namespace(images='', text='') -%}"
    "{%- if message['content'] is string -%}{%- set content.text = message['content'] -%}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set content.images = content.images + IMAGE + '\n' -%}"
    "{%- else -%}{%- set content.text = content.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- set turns.all = turns.all + [{'role': message['role'], 'content': content.images + content.text}] "
    "-%}"
    "{%- endfor -%}"
    "{%- set messages = turns.all -%}"
)


class OmniLMMProcessor(ProcessorMixin):
    """Images and texts to ``pixel_values``, ``input_ids`` and ``attention_mask``.

    A text has one ``<im_patch>`` an image; it becomes ``num_query``.

    Args:
        num_query: Tokens that stand for one image.
    """

    def __init__(
        self,
        image_processor: CLIPImageProcessorPil | None = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        chat_template: str | None = None,
        num_query: int = 64,
    ):
        self.num_query = num_query
        self.image_token = IM_PATCH
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IM_PATCH)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "OmniLMMProcessor":
        """Load what :meth:`save_pretrained` wrote, or make a processor for a folder in the release's layout.

        Such a folder has a tokenizer only.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir() and not (folder / "processor_config.json").is_file():
            return omnilmm_processor(folder, OmniLMMConfig.from_pretrained(folder))
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """See ``ProcessorMixin.__call__``.

        Raises:
            ValueError: Texts and images don't match.
            UserError: A text is longer than the tokenizer's ``model_max_length``: it isn't cut off.
        """
        if kwargs.get("truncation") or kwargs.get("text_kwargs", {}).get("truncation"):
            raise UserError(
                "OmniLMM's processor doesn't truncate: a text that is cut off loses its end, and with it "
                "the turn to answer. Shorten it."
            )
        encoded = super().__call__(images=images, text=text, **kwargs)
        longest, limit = max(map(len, encoded.get("input_ids", [[]]))), self.tokenizer.model_max_length
        if longest > limit:
            raise UserError(
                f"a text has {longest} tokens with its images, more than the {limit} that OmniLMM takes "
                "(model_max_length). Shorten it."
            )
        return encoded

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The tokens that stand for an image in the text."""
        return self.image_token * self.num_query


def omnilmm_images(config: OmniLMMConfig) -> CLIPImageProcessorPil:
    """The image processor of the release: images are squashed, not cut."""
    return CLIPImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size}, do_center_crop=False
    )


def omnilmm_processor(folder: str | Path, config: OmniLMMConfig) -> OmniLMMProcessor:
    """The processor of a checkpoint in the release's layout, from the tokenizer that lies in ``folder``.

    Saved, it loads with AutoProcessor.

    Args:
        config: The model's: image size, tokens an image, sizes of vocabulary and context.

    Raises:
        UserError: There is no tokenizer, or it has more tokens than the model.
    """
    tokenizer, template = _tokenizer(Path(folder), config)
    return OmniLMMProcessor(
        omnilmm_images(config),
        tokenizer,
        chat_template(template, brackets=config.mm_use_im_start_end),
        config.num_query,
    )


def chat_template(template: str | None, *, brackets: bool) -> str:
    """A tokenizer's own template, or Zephyr's, made to take messages with images.

    It begins with the release's system turn.
    """
    image = IM_START + IM_PATCH + IM_END if brackets else IM_PATCH
    return _TURNS.replace("SYSTEM", json.dumps(SYSTEM)).replace("IMAGE", json.dumps(image)) + (
        template or ZEPHYR
    )


def _tokenizer(folder: Path, config: OmniLMMConfig) -> tuple[PreTrainedTokenizerFast, str | None]:
    """The folder's tokenizer with the image tokens in it, and its chat template.

    As the generic class, because ``LlamaTokenizer`` of transformers 5 doesn't save how it splits: loaded
    again it would give other ids.
    """
    if (folder / "tokenizer.json").is_file():
        loaded = PreTrainedTokenizerFast.from_pretrained(folder)
        backend = loaded.backend_tokenizer
    elif (folder / "tokenizer.model").is_file():
        loaded = LlamaTokenizer.from_pretrained(folder)
        backend = like_sentencepiece(loaded.backend_tokenizer, folder / "tokenizer.model")
    else:
        raise UserError(
            f"{folder} has neither tokenizer.json nor tokenizer.model. Copy them there from where the "
            "checkpoint was published."
        )
    limit = min(MAX_TOKENS, config.max_position_embeddings)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=loaded.bos_token,
        eos_token=loaded.eos_token,
        unk_token=loaded.unk_token,
        pad_token=loaded.pad_token or loaded.eos_token,
        padding_side=loaded.padding_side,
        model_max_length=limit,
        clean_up_tokenization_spaces=False,
    )
    # In the release's order, in which they get the ids after the last one if the tokenizer hasn't got them
    # yet.
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (IM_PATCH, IM_START, IM_END)],
        special_tokens=True,
    )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the image's included, and the model only "
            f"{config.vocab_size}."
        )
    # transformers 5 leaves it out unless the files ask for it.
    if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
        tokenizer.add_bos_token = True
    return tokenizer, loaded.chat_template
