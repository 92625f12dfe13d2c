"""Every private name of transformers that this project relies on, in one place.

transformers may rename or change them in any release; tests/test_transformers_private.py holds each one
against the installed transformers. The module itself imports nothing, so it lies at the bottom, and whoever
takes a name from it pays only for the module of transformers that holds it.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

INTERNAL = {
    # By model_type: names of the classes that AutoModelForCausalLM and AutoModelForImageTextToText load.
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "transformers.models.auto.modeling_auto",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "transformers.models.auto.modeling_auto",
    # Attention functions: (module, query, key, value, mask, ...) -> (output, weights).
    "ALL_ATTENTION_FUNCTIONS": "transformers.modeling_utils",
    "eager_attention_forward": "transformers.models.mistral.modeling_mistral",
    "sdpa_attention_forward": "transformers.integrations.sdpa_attention",
    "sdpa_mask": "transformers.masking_utils",
    # Parts that the models of this project are made of, as transformers' own are.
    "Idefics2VisionEmbeddings": "transformers.models.idefics2.modeling_idefics2",
    "Idefics2VisionTransformer": "transformers.models.idefics2.modeling_idefics2",
    "SubConfigSpec": "transformers.configuration_utils",
    "can_return_tuple": "transformers.utils.generic",
    "slice_logits_to_keep": "transformers.modeling_utils",
    # How a model's weights are called in the files of its family's releases.
    "WeightRenaming": "transformers.core_model_loading",
    "get_model_conversion_mapping": "transformers.conversion_mapping",
    # The file in which Trainer keeps its state, beside the weights.
    "TRAINER_STATE_NAME": "transformers.trainer",
}
"""Names that transformers doesn't publish, and the modules that hold them; import them from here."""

OVERRIDDEN = {
    "Trainer": (
        "_get_num_items_in_batch",
        "_get_train_sampler",
        "_load_from_checkpoint",
        "_prepare_inputs",
        "_save",
    ),
    "PreTrainedModel": (
        "_can_compile_fullgraph",
        "_init_weights",
        "_no_split_modules",
        "_skip_keys_device_placement",
        "_supports_attention_backend",
        "_supports_flash_attn",
        "_supports_sdpa",
        "_tied_weights_keys",
    ),
    "GenerationMixin": ("_expand_inputs_for_generation",),
}
"""Private parts of transformers' classes that classes of this project replace, for transformers to use."""


def __getattr__(name: str) -> Any:
    """One of the ``INTERNAL`` names, imported when it is first asked for."""
    if name not in INTERNAL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(INTERNAL[name]), name)


def attention_of(config: "PreTrainedConfig") -> str:
    """The name of the attention function that a model with this config uses, such as ``sdpa``."""
    return config._attn_implementation


def is_stateful(model: "PreTrainedModel") -> bool:
    """Whether transformers says that the model's layers have a recurrent state."""
    return bool(getattr(model, "_is_stateful", False))


def save_as_published(model: "PreTrainedModel") -> None:
    """Let ``save_pretrained``, and so Trainer, write weights by the names that its family's releases have.

    Those names are what older versions of transformers and vLLM read. Without it a model is written by the
    names that it was loaded with, whatever they were.
    """
    model._weight_conversions = _conversions(model)


def published_names(model: "PreTrainedModel", modules: Iterable[str]) -> dict[str, str]:
    """Names of modules as the releases of the model's family have them -> in memory."""
    renaming = import_module(INTERNAL["WeightRenaming"]).WeightRenaming
    changes = [change.reverse_transform() for change in reversed(_conversions(model))]
    found = {}
    for module in modules:
        name = f"{module}.weight"
        for change in changes:
            if isinstance(change, renaming):
                name, _ = change.rename_source_key(name)
        found[name.removesuffix(".weight")] = module
    return found


def _conversions(model: "PreTrainedModel") -> list[Any]:
    """What transformers does to the weights of the family's releases when it reads them, in order."""
    mapping = import_module(INTERNAL["get_model_conversion_mapping"]).get_model_conversion_mapping
    return mapping(model, add_legacy=False)
