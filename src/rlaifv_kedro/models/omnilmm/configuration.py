"""The release's flat ``config.json`` as a transformers config.

It has Mistral's keys, and beside them those of the vision part.
"""

from typing import Any

from transformers import MistralConfig, PreTrainedConfig


class OmniLMMVisionConfig(PreTrainedConfig):
    """EVA-02-CLIP-E as OmniLMM uses it.

    The release gives the tower's name (``mm_vision_tower``), not its dimensions: those are the defaults
    here.

    ``num_hidden_layers`` counts the blocks in the checkpoint: the release drops the last of 64.
    ``depth_in_checkpoint`` is taken for it as well, and ``mlp_ratio`` for ``intermediate_size /
    hidden_size``, as timm writes it.
    """

    model_type = "omnilmm_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_hidden_layers: int = 63
    num_attention_heads: int = 16
    patch_size: int = 14
    pretrain_image_size: int = 224
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_hidden_layers = kwargs.pop("depth_in_checkpoint", self.num_hidden_layers)
        ratio = kwargs.pop("mlp_ratio", None)
        if ratio is not None:
            self.intermediate_size = int(self.hidden_size * ratio)
        super().__post_init__(**kwargs)


class OmniLMMConfig(MistralConfig):
    """The config of OmniLMM-12B and RLAIF-V-12B.

    ``get_text_config()`` is the config itself, since the language model's keys lie flat in it.

    Attributes:
        vision_config: Written out when saved; see :class:`OmniLMMVisionConfig` for what holds where the
            release says nothing.
        image_size: Height and width of ``pixel_values``, pixels.
        num_query: Tokens that stand for one image: a square number.
        mm_use_im_start_end: Whether a prompt brackets them with ``<im_start>`` and ``<im_end>``.
        image_token_id: Id of ``<im_patch>``. The release leaves it to the tokenizer. None: what fills
            ``num_query`` positions in a row.
        sliding_window: As in the release (4096, longer than its prompts and answers together), and
            transformers' Mistral applies it.
    """

    model_type = "omnilmm"
    sub_configs_defaults = {"vision_config": OmniLMMVisionConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    mm_vision_tower: str | None = "eva02_enormous_patch14_clip_224.laion2b_plus"
    image_size: int = 448
    num_query: int = 64
    mm_use_im_start_end: bool = True
    image_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # How the parity fixtures name the dimensions that the release's config leaves out.
        tower = kwargs.pop("_vision_config_of_this_fixture", None)
        if self.vision_config is None:
            self.vision_config = tower
        super().__post_init__(**kwargs)
