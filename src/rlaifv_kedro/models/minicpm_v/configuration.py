"""The config of MiniCPM-Llama3-V 2.5, read from and written to the file layout of its release.

The release keeps the language model's values at the top level of ``config.json`` and those of the vision
tower under ``vision_config``. In memory they are two configs, ``text_config`` and ``vision_config``, as
transformers has them; on disk they stay as the release has them, so that a trained checkpoint can be read by
whatever reads the release.
"""

from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Idefics2VisionConfig, LlamaConfig, PreTrainedConfig

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.transformers_private import SubConfigSpec

# SigLIP SO-400M at 980 pixels: what the release takes where its config names no vision tower.
_VISION_DEFAULT = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
_LLAMA_KEYS = {f.name for f in fields(LlamaConfig)} - {f.name for f in fields(PreTrainedConfig)} | {
    "rope_theta",
    "rope_scaling",
}


@strict
class MiniCPMVConfig(PreTrainedConfig):
    """Dimensions of MiniCPM-Llama3-V 2.5.

    ``model_type`` is the release's own, ``minicpmv``. transformers doesn't know it (its ``minicpmv4_6`` and
    later are other models), but MiniCPM-V 2.0, 2.6 and 4.x carry it too, with their code beside the weights;
    they are told by their fields and refused.

    Attributes:
        query_num: Features that the resampler makes of a slice, and placeholder tokens that stand for it.
        drop_vision_last_layer: Whether the vision tower goes without its last layer. It doesn't in the
            release.
        batch_vision_input: Whether the slices of a sample are encoded together, padded to the largest;
            otherwise each by itself.
        slice_config: ``max_slice_nums`` and ``scale_resolution`` of the image processor.
        image_token_id: The placeholder, ``<unk>``. The release's config doesn't have it; the model looks it
            up in the tokenizer beside the weights.

    Raises:
        UserError: The config is that of another MiniCPM-V.
    """

    model_type = "minicpmv"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(LlamaConfig),
        "vision_config": SubConfigSpec(Idefics2VisionConfig, init_kwargs=_VISION_DEFAULT),
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    query_num: int = 64
    drop_vision_last_layer: bool = True
    batch_vision_input: bool = True
    slice_config: dict[str, Any] | None = None
    image_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        _refuse_other_versions(kwargs, self.vision_config)
        # It names code files of the release, which are not beside a checkpoint that we write.
        kwargs.pop("auto_map", None)
        self.vision_config = kwargs.pop("_vision_config_of_this_fixture", None) or self.vision_config
        # The release writes "idefics2" there, which is no type of a vision tower.
        if isinstance(self.vision_config, dict):
            self.vision_config = {
                name: value for name, value in self.vision_config.items() if name != "model_type"
            }
        flat = {name: kwargs.pop(name) for name in list(kwargs) if name in _LLAMA_KEYS}
        if self.text_config is None:
            self.text_config = {**flat, "tie_word_embeddings": self.tie_word_embeddings}
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = self.text_config.tie_word_embeddings

    def to_dict(self) -> dict[str, Any]:
        """The config in the release's layout.

        The language model's values stand at the top level, and ``rope_theta`` by its old name.
        """
        result = super().to_dict()
        text = result.pop("text_config")
        rope = text.pop("rope_parameters")
        text |= {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": None if rope["rope_type"] == "default" else rope,
        }
        result |= {name: value for name, value in text.items() if name in _LLAMA_KEYS}
        result["vision_config"]["model_type"] = "idefics2"
        return result


def _refuse_other_versions(config: dict[str, Any], vision: dict[str, Any] | PreTrainedConfig | None) -> None:
    """Stop if the config is of another MiniCPM-V.

    Other models have the same ``model_type``: they have a ``version`` of their own, another language
    model, or SigLIP by that name.
    """
    version = str(config.get("version", "2.5"))
    tower = config.get("vision_encoder") or (vision.get("model_type") if isinstance(vision, dict) else None)
    if version != "2.5" or "scale_emb" in config or tower not in (None, "idefics2", "idefics2_vision"):
        raise UserError(
            f"this config is of another MiniCPM-V (version {config.get('version', 'not given')}, vision "
            f"tower {tower}); of those with model_type minicpmv only MiniCPM-Llama3-V 2.5 is supported."
        )
