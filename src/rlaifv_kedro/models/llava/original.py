"""LLaVA-1.5-7B and RLAIF-V-7B in the layout of their original release (``LlavaLlamaForCausalLM``), as a LLaVA
of transformers.

Sources: the original code (github.com/haotian-liu/LLaVA: ``llava_arch.py``, ``clip_encoder.py``,
``builder.py``) for names and values, transformers' ``convert_llava_weights_to_hf.py`` for the rows that
``<image>`` and padding get.
"""

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.transformers_private import rename_when_saved

if TYPE_CHECKING:
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

TOWER = "model.vision_tower."
PREFIXES = {
    "model.vision_tower.vision_tower.vision_model.": TOWER,
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
}
"""How names of weights begin in the original, and here; ``lm_head.`` is the same in both."""

_TEXT_VALUES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)
_WRAPPED_TOWERS = (
    "clip_vision_model",
    "siglip_vision_model",
)  # published with one more level of names than they have in transformers 5
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
)  # torch's and transformers'


@dataclass(frozen=True)
class OriginalInfo:
    """What was learnt in loading.

    Attributes:
        vocabulary: Rows that the original's embeddings have; ids from here on were added and must never be
            generated. Saved checkpoints keep it as ``config.text_config.original_vocab_size``.
        image_id: Id of ``<image>``: the first row that was free.
        pad_id: Id of ``<pad>``: the next one.
        vision_tower: Where the vision tower's weights come from: the checkpoint's folder, or the folder or
            hub name of a CLIP.
    """

    vocabulary: int
    image_id: int
    pad_id: int
    vision_tower: str


def modern_name(name: str) -> str:
    """Name of a weight or module in transformers, from the original's."""
    return next((new + name.removeprefix(old) for old, new in PREFIXES.items() if name.startswith(old)), name)


def original_name(name: str) -> str:
    """Inverse of :func:`modern_name`, so that messages name what the user's files hold."""
    return next((old + name.removeprefix(new) for old, new in PREFIXES.items() if name.startswith(new)), name)


def published_names(config: "LlavaConfig") -> dict[str, str]:
    """The names by which a LLaVA's weights are saved, as they begin in the file -> in memory.

    They are those that llava-hf published, which every version of transformers and vLLM reads. In memory they
    have others, and so have files of models that were never loaded from such a checkpoint.
    """
    inner = ".vision_model" if config.vision_config.model_type in _WRAPPED_TOWERS else ""
    return {
        "language_model.lm_head": "lm_head",
        "language_model.model": "model.language_model",
        "multi_modal_projector": "model.multi_modal_projector",
        f"vision_tower{inner}": "model.vision_tower",
    }


def load_llava_original(
    folder: str | Path,
    *,
    dtype: "torch.dtype",
    attn_implementation: str = "sdpa",
    vision_config: Mapping[str, Any] | None = None,
    device_map: Any = None,
    vision_tower: str | Path | None = None,
) -> "tuple[LlavaForConditionalGeneration, OriginalInfo]":
    """Load the original's weights. What ``save_pretrained`` or Trainer writes of the model afterwards is an
    ordinary llava-hf checkpoint.

    The embeddings grow by rows for ``<image>`` and ``<pad>``, to a multiple of 64 as in the llava-hf
    checkpoints (32000 to 32064): the original marks an image with id -200, which is no row. ``generate``
    excludes the new ids and normalizes over the others, so probabilities and beams are those of the original;
    who samples or scores by other means must leave out ids from ``info.vocabulary`` on.

    Args:
        vision_config: Values of the tower's ``CLIPVisionConfig``. Otherwise those of ``vision_tower``, or of
            the one that the config names.
        vision_tower: Folder or hub name of the CLIP to take if the checkpoint has no vision tower, instead of
            ``mm_vision_tower``.

    Raises:
        UserError: The config is one that LLaVA-1.5 doesn't have; a file is missing or damaged; a weight is
            missing, unknown or of another shape; the vision tower can't be had.
    """
    from safetensors import SafetensorError
    from transformers import LlavaForConditionalGeneration

    folder = Path(folder)
    checkpoint = CheckpointFolder(folder)
    values = checkpoint.config
    _refuse_other_designs(values, folder)
    checkpoint.refuse_damaged(
        "Give the folder of a whole checkpoint."
    )  # transformers' own message speaks of the hub
    tower = str(vision_tower or _named_tower(values, folder))
    config = _config(values, folder, vision_config, tower, given=vision_tower is not None)
    try:
        with _without_report():
            model, loaded = LlavaForConditionalGeneration.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attn_implementation,
                device_map=device_map,
                output_loading_info=True,
                key_mapping={f"^{re.escape(old)}": new for old, new in PREFIXES.items()},
                ignore_mismatched_sizes=True,
            )
    except (*_LOADING_ERRORS, SafetensorError) as error:
        raise UserError(f"{folder}: can't load the checkpoint: {first_line(error)}") from error
    # transformers would write the original's names again, wrong ones at that: a reload missed weights.
    # Trainer's saves go the same way.
    rename_when_saved(model, published_names(model.config))
    _refuse(folder, "hold what LLaVA-1.5 doesn't know:", loaded["unexpected_keys"])
    _refuse(
        folder,
        "don't have the shape that config.json gives:",
        [name for name, *_ in loaded["mismatched_keys"]],
    )
    missing, source = set(loaded["missing_keys"]), str(folder)
    if missing == {name for name, _ in model.named_parameters() if name.startswith(TOWER)}:
        _load_tower(model, tower, folder, dtype)
        missing, source = set(), tower
    _refuse(folder, "lack", missing)
    return model, _grow(model, source)


@contextmanager
def _without_report() -> Iterator[None]:
    """transformers warns of weights that it made up, in a long table. Here they are replaced or refused."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _refuse_other_designs(values: dict[str, Any], folder: Path) -> None:
    """LLaVA's code knows other projectors, tilings and language models; loading them as LLaVA-1.5 would go
    wrong, some of them silently.
    """
    architectures = values.get("architectures") or ["LlavaLlamaForCausalLM"]
    problem = None
    if "LlavaLlamaForCausalLM" not in architectures:
        problem = f"architectures is {architectures}"
    elif values.get("mm_projector_type") != "mlp2x_gelu":
        problem = f"mm_projector_type is {values.get('mm_projector_type')!r}, not 'mlp2x_gelu'"
    elif values.get("mm_use_im_start_end"):
        problem = "mm_use_im_start_end is true"
    elif "anyres" in str(values.get("image_aspect_ratio")):
        problem = f"image_aspect_ratio is {values['image_aspect_ratio']!r}: images are cut in tiles"
    if problem:
        raise UserError(
            f"{folder}: this is not LLaVA-1.5's design: {problem}. Take a checkpoint that is converted for "
            "transformers (llava-hf)."
        )


def _config(
    values: dict[str, Any], folder: Path, vision: Mapping[str, Any] | None, tower: str, *, given: bool
) -> "LlavaConfig":
    """transformers' config from the original's values. AutoConfig would refuse the original's file or,
    worse, fill in defaults.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig, LlavaConfig

    try:
        text = LlamaConfig(**{name: values[name] for name in _TEXT_VALUES if values.get(name) is not None})
        eyes = _vision_config(values, vision, tower, given=given)
        config = LlavaConfig(
            text_config=text,
            vision_config=eyes,
            image_token_index=text.vocab_size,
            vision_feature_layer=values.get("mm_vision_select_layer", -2),
            vision_feature_select_strategy="full"
            if values.get("mm_vision_select_feature") == "cls_patch"
            else "default",
            tie_word_embeddings=text.tie_word_embeddings,
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UserError(
            f"{folder / 'config.json'} can't be used: {first_line(error.__cause__ or error)}"
        ) from error
    side = config.vision_config.image_size // config.vision_config.patch_size
    config.image_seq_length = side * side + (config.vision_feature_select_strategy == "full")
    return config


def _named_tower(values: dict[str, Any], folder: Path) -> str:
    """``mm_vision_tower``: a hub name or a folder, which may be relative to the checkpoint."""
    name = str(
        values.get("mm_vision_tower") or values.get("vision_tower") or "openai/clip-vit-large-patch14-336"
    )
    return str(folder / name) if (folder / name).is_dir() else name


def _vision_config(
    values: dict[str, Any], given_values: Mapping[str, Any] | None, tower: str, *, given: bool
) -> Any:
    """The tower's values, which the original's ``config.json`` doesn't hold. ``None`` stands for
    LlavaConfig's own: CLIP ViT-L/14-336.
    """
    from transformers import CLIPVisionConfig

    inline = given_values or (None if given else values.get("_vision_config_of_this_fixture"))
    if inline:
        return CLIPVisionConfig(**inline)
    if not Path(tower).is_dir() and not given and tower.rstrip("/").endswith("clip-vit-large-patch14-336"):
        return None  # known, so that a checkpoint with its tower loads without the hub
    try:
        return CLIPVisionConfig.from_pretrained(tower)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The vision tower {tower} can't be read: {first_line(error)} Give the folder of that CLIP as "
            "vision_tower."
        ) from error


def _load_tower(
    model: "LlavaForConditionalGeneration", tower: str, folder: Path, dtype: "torch.dtype"
) -> None:
    """LLaVA-1.5 left CLIP as it was, so checkpoints may come without it and name it instead."""
    from safetensors import SafetensorError
    from transformers import CLIPVisionModel

    advice = "Give the folder of the CLIP that the checkpoint was trained with as vision_tower."
    try:
        with _without_report():
            clip, loaded = CLIPVisionModel.from_pretrained(
                tower,
                config=model.config.vision_config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (*_LOADING_ERRORS, SafetensorError) as error:
        raise UserError(
            f"{folder} has no vision tower, and {tower} can't be loaded instead: {first_line(error)} {advice}"
        ) from error
    # A whole CLIP has text weights too, but of vision weights no layer may be left over: features are taken
    # from the last but one.
    wrong = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
    wrong |= {name for name in loaded["unexpected_keys"] if name.startswith(("vision_model.", "encoder."))}
    if wrong:
        raise UserError(
            f"{folder} has no vision tower, and {tower} doesn't fit: see {_some(sorted(wrong))}. {advice}"
        )
    model.model.vision_tower.load_state_dict(clip.state_dict())


def _refuse(folder: Path, problem: str, names: Iterable[str]) -> None:
    if names:
        raise UserError(
            f"{folder}: the weights {problem} {_some(sorted(map(original_name, names)))}. Fetch the "
            "checkpoint again."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _grow(model: "LlavaForConditionalGeneration", vision_tower: str) -> OriginalInfo:
    """Add the rows for ``<image>`` and ``<pad>``.

    New rows are the mean of the old ones: by Jensen's inequality such a token's probability is at most the
    mean probability of the others, so even where nobody excludes it it isn't likely, and a saved checkpoint
    doesn't depend on a random stream.
    """
    import torch
    from transformers import GenerationConfig

    text = model.config.text_config
    size = text.vocab_size
    info = OriginalInfo(size, image_id=size, pad_id=size + 1, vision_tower=vision_tower)
    model.resize_token_embeddings(size + 2, pad_to_multiple_of=64, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[size:] = layer.weight[:size].float().mean(0).to(layer.weight.dtype)
    text.original_vocab_size, text.pad_token_id = size, info.pad_id
    # A new one: the released generation_config.json holds sampling values without do_sample, which
    # save_pretrained refuses.
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=info.pad_id,
        suppress_tokens=list(range(size, text.vocab_size)),
        renormalize_logits=True,
    )
    return info
