"""The processor of LLaVA-1.5 for a folder that holds only its tokenizer.

It writes a prompt as token ids as the original does.

Sources: the original code (github.com/haotian-liu/LLaVA: ``conversation.py``, template ``llava_v1``;
``mm_utils.py``, ``tokenizer_image_token``).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.llava.images import llava_images
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.models.sentencepiece_ids import like_sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerBase

IMAGE, PAD = "<image>", "<pad>"
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
"""Of ``llava_v1``. (``vicuna_v1``, with which LLaVA-1.5 was published, says "user".)"""

_TURNS = (
    "{% for message in messages %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string else "
    "message['content'] %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for part in parts if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ ' ASSISTANT:' }}"
    "{% else %}{% generation %}"
    "{{ ' ' }}{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% endgeneration %}{% endif %}{% endfor %}"
)


def llava_processor(folder: str | Path, config: "LlavaConfig") -> "LlavaProcessor":
    """The processor of a LLaVA in its original layout, from the tokenizer that lies in ``folder``.

    The model is one of :func:`rlaifv_kedro.models.llava.original.load_llava_original`.

    A text as a whole, ``<image>`` in it, has the same ids as :func:`chunked_ids` gives, and so it has after
    saving and loading. A chat template in ``folder`` that has a place for the image is kept; otherwise it is
    that of ``llava_v1``.

    Args:
        config: The loaded model's: sizes of the vocabulary and the images.

    Raises:
        UserError: There is no tokenizer, it can't be read, or it has more tokens than the model.
    """
    from transformers import LlavaProcessor

    tokenizer = _tokenizer(Path(folder), config)
    own = tokenizer.chat_template
    return LlavaProcessor(
        image_processor=llava_images(config),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=own if isinstance(own, str) and IMAGE in own else chat_template(),
        num_additional_image_tokens=1,  # CLIP's CLS
    )


def chat_template() -> str:
    """The template of LLaVA-1.5's conversations; the answer is marked as the assistant's tokens.

    It writes ``{SYSTEM} USER: <image>\\n{question} ASSISTANT:``, then `` {answer}</s>``.
    """
    return "{{ " + json.dumps(f"{SYSTEM} ", ensure_ascii=False) + " }}" + _TURNS


def chunked_ids(
    tokenizer: "PreTrainedTokenizerBase", text: str, image_token: str, image_id: int, image_tokens: int
) -> list[int]:
    """Ids of a text as the original writes them.

    What stands before and after an image is tokenized on its own.

    Every piece so begins with SentencePiece's blank (in ``<image>\\nWhat`` the blank, the newline, ...),
    which a tokenizer of transformers leaves out after a special token unless it was loaded with
    ``legacy=True``, and that setting gets lost in saving. The model has learnt with the blank.

    Args:
        text: May have the beginning-of-sequence token written out, which is then not added again. Every
            ``image_token`` in it, also one that a user typed, is an image.
        image_tokens: Ids that stand for one image.
    """
    first, *others = text.split(image_token)
    bos = tokenizer.bos_token
    ids = list(tokenizer(first, add_special_tokens=not (bos and first.startswith(bos)))["input_ids"])
    for chunk in others:
        ids += [image_id] * image_tokens
        ids += tokenizer(chunk, add_special_tokens=False)["input_ids"]
    return ids


def _tokenizer(folder: Path, config: "LlavaConfig") -> "PreTrainedTokenizerBase":
    """The folder's tokenizer with ``<image>`` and ``<pad>`` at the ids that the model has for them."""
    from transformers import LlamaTokenizer, TokenizersBackend

    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise UserError(
            f"{folder} has no tokenizer.model and no tokenizer.json. Copy them there from where the "
            "checkpoint was published."
        )
    with checkpoint_errors(folder, "can't read the tokenizer"):
        llama = LlamaTokenizer.from_pretrained(folder, add_bos_token=True, add_eos_token=False)
        backend = like_sentencepiece(llama.backend_tokenizer, folder / "tokenizer.model")
    _put_image_token(backend, config.image_token_id, folder)
    return TokenizersBackend(
        tokenizer_object=backend,
        bos_token=llama.bos_token,
        eos_token=llama.eos_token,
        unk_token=llama.unk_token,
        pad_token=PAD,
        padding_side="left",
        model_max_length=config.text_config.max_position_embeddings,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        chat_template=llama.chat_template,
    )


def _put_image_token(backend: "Tokenizer", image_id: int, folder: Path) -> None:
    """Give ``<image>`` the id that the model has for it; rows that no token has get names.

    Raises:
        UserError: The tokenizer has more tokens than the model, or another id for it.
    """
    from transformers import AddedToken

    known = backend.token_to_id(IMAGE)
    if known is None:
        unused = [f"<unused_{i}>" for i in range(backend.get_vocab_size(), image_id)]
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in (*unused, IMAGE)])
        known = backend.token_to_id(IMAGE)
    if known != image_id:
        raise UserError(
            f"{folder}: the tokenizer has {known} tokens before {IMAGE}, the model {image_id}. Take out its "
            "added_tokens.json."
        )
