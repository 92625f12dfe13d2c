"""The config of a LLaVA of transformers, from that of its original release.

Sources: the original code (github.com/haotian-liu/LLaVA: ``builder.py``, ``llava_arch.py``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.loading_errors import checkpoint_errors

if TYPE_CHECKING:
    from transformers import LlavaConfig

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


def refuse_other_designs(values: dict[str, Any], folder: Path) -> None:
    """Stop if a config is not of LLaVA-1.5's design.

    LLaVA's code knows other projectors, tilings and language models; loading them as LLaVA-1.5 would go
    wrong, some of them silently.

    Raises:
        UserError: Names the value that differs.
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


def named_tower(values: dict[str, Any], folder: Path) -> str:
    """The vision tower that a config names: a hub name or a folder, maybe relative to the checkpoint."""
    name = str(
        values.get("mm_vision_tower") or values.get("vision_tower") or "openai/clip-vit-large-patch14-336"
    )
    return str(folder / name) if (folder / name).is_dir() else name


def llava_config(
    values: dict[str, Any], folder: Path, vision: Mapping[str, Any] | None, tower: str
) -> "LlavaConfig":
    """transformers' config from the original's values.

    AutoConfig would refuse the original's file or, worse, fill in defaults.

    Args:
        vision: Values of the vision tower, if they were given.
        tower: Folder or hub name of the vision tower.

    Raises:
        UserError: The values can't be used, or the vision tower can't be read.
    """
    from transformers import LlamaConfig, LlavaConfig

    with checkpoint_errors(folder / "config.json", "can't be used"):
        text = LlamaConfig(**{name: values[name] for name in _TEXT_VALUES if values.get(name) is not None})
        with_class = values.get("mm_vision_select_feature") == "cls_patch"
        eyes = _vision_config(values, folder, vision, tower)
        config = LlavaConfig(
            text_config=text,
            vision_config=eyes,
            image_token_index=text.vocab_size,
            vision_feature_layer=values.get("mm_vision_select_layer", -2),
            vision_feature_select_strategy="full" if with_class else "default",
            tie_word_embeddings=text.tie_word_embeddings,
            image_aspect_ratio=values.get("image_aspect_ratio") or "square",  # as the original code takes it
        )
    side = config.vision_config.image_size // config.vision_config.patch_size
    config.image_seq_length = side * side + (config.vision_feature_select_strategy == "full")
    return config


def _vision_config(values: dict[str, Any], folder: Path, given: Mapping[str, Any] | None, tower: str) -> Any:
    """The vision tower's values, which the original's ``config.json`` doesn't hold.

    None stands for LlavaConfig's own: CLIP ViT-L/14-336.
    """
    from transformers import CLIPVisionConfig

    inline = given or values.get("_vision_config_of_this_fixture")
    if inline:
        return CLIPVisionConfig(**inline)
    if not Path(tower).is_dir() and tower.rstrip("/").endswith("clip-vit-large-patch14-336"):
        return None  # known, so that a checkpoint with its tower loads without the hub
    remedy = f"Set mm_vision_tower in {folder / 'config.json'} to the folder of that CLIP."
    with checkpoint_errors(tower, "the vision tower can't be read", remedy):
        return CLIPVisionConfig.from_pretrained(tower)
