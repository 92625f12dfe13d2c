"""Loading a multimodal model from a folder, whatever layout it is in."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.found_out import note
from rlaifv_kedro.models.folder import LLAVA_ORIGINAL, PROCESSORS, TOKENIZERS, CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.models.loading_errors import checkpoint_errors, refuse_wrong_names

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from rlaifv_kedro.models.backends.transformers import TransformersModel
    from rlaifv_kedro.models.encoding import ChatEncoder
    from rlaifv_kedro.params import ComputeParams, WeightsParams


logger = logging.getLogger(__name__)

DAMAGED = "Copy it anew from where it was published."


@dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded into this process.

    Attributes:
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` takes a GPU if there is one.
        device_map: ``auto`` spreads the model over the GPUs, whatever ``device`` says.
        batch_size: Prefixes (of a text model: chats) a forward pass; None takes the model's default.
        max_tokens_per_pack: See :class:`rlaifv_kedro.models.backends.transformers.TransformersModel`.
        adapter: Folder of LoRA adapters for the checkpoint.
        chat_template: File with one, or the name of one, instead of the checkpoint's.
        image_aspect_ratio: ``pad`` or ``crop``, of LLaVA-1.5; without it, what the checkpoint states, or pad.
        trust_remote_code: Run code that comes with the weights.
        vision_config: Values of the vision tower that original layouts take from its hub name.
    """

    dtype: str = "float32"
    device: str = "auto"
    device_map: str | None = None
    attn_implementation: str = "sdpa"
    batch_size: int | None = None
    max_tokens_per_pack: int | None = None
    adapter: str | Path | None = None
    chat_template: str | Path | None = None
    image_aspect_ratio: str | None = None
    trust_remote_code: bool = False
    vision_config: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, params: "WeightsParams", compute: "ComputeParams", batch_size: int | None = None
    ) -> "Loading":
        """As the parameters of a role say, and of ``compute`` where they leave it open."""
        of_role = params.model_dump(include=set(cls.__dataclass_fields__) - {"dtype"})
        return cls(
            dtype=params.dtype or compute.dtype,
            device=compute.device,
            batch_size=batch_size,
            max_tokens_per_pack=compute.max_tokens_per_pack,
            **of_role,
        )


@dataclass(frozen=True)
class ImagesOnly:
    """The processor of an original checkpoint without a tokenizer.

    Its weights and pixels can be looked at; it can't be asked anything.
    """

    image_processor: Any
    tokenizer: None = None
    chat_template: None = None


def load_model(path: str | Path, loading: Loading | None = None, **changes: Any) -> "TransformersModel":
    """Load a policy or labeler; LoRA adapters are merged into the checkpoint they name.

    The layout is recognised from the files: LLaVA-1.5's original one, OmniLMM, MiniCPM-Llama3-V 2.5, or
    anything that transformers' ``AutoModelForImageTextToText`` knows.

    Args:
        path: Folder of a checkpoint with its processor or tokenizer, of LoRA adapters, or a name on the model
            hub.
        changes: Fields of :class:`Loading` that are to be others, e.g. ``device="cpu"``.

    Raises:
        UserError: There is no such device; the folder is no checkpoint, or a file of it is missing or
            damaged; its processor needs a package that isn't installed.
    """
    from rlaifv_kedro.models.backends.transformers import TransformersModel
    from rlaifv_kedro.models.trial import refuse_misfits

    loading = replace(loading or Loading(), **changes)
    device = torch_device(loading.device)
    given = CheckpointFolder(folder_of(path))
    whole = given.with_weights()
    whole.refuse_damaged(DAMAGED)
    with checkpoint_errors(path):
        module, processor = _load(given, whole, loading)
        placed = module if loading.device_map else module.to(device)
        model = TransformersModel(
            placed, processor, str(path), loading.batch_size or 32, loading.max_tokens_per_pack
        )
    if processor.tokenizer is not None:
        refuse_misfits(model.encoder, placed.config, placed)
    return model


def load_encoder(path: str | Path, loading: Loading | None = None, **changes: Any) -> "ChatEncoder":
    """What writes a policy's or labeler's prompts and answers in tokens, without reading its weights.

    Args:
        path, loading, changes: As of :func:`load_model`.

    Raises:
        UserError: A file of the config, processor or tokenizer is missing or damaged; there is no chat
            template.
    """
    from transformers import AutoConfig

    from rlaifv_kedro.models import minicpm_v, omnilmm
    from rlaifv_kedro.models.backends.room import context_of
    from rlaifv_kedro.models.encoding import ChatEncoder, ends_of
    from rlaifv_kedro.models.llava.original_config import llava_config, named_tower

    loading = replace(loading or Loading(), **changes)
    given = CheckpointFolder(folder_of(path))
    whole = given.with_weights()
    omnilmm.register()
    minicpm_v.register()
    with checkpoint_errors(path):
        if whole.family == LLAVA_ORIGINAL:
            tower = named_tower(whole.config, whole.path)
            config = llava_config(whole.config, whole.path, loading.vision_config, tower)
        else:
            config = AutoConfig.from_pretrained(whole.path, trust_remote_code=loading.trust_remote_code)
        processor = _processor(given, whole, config, loading)
        ends = ends_of(generation_config_of(whole, config))
        return ChatEncoder(processor, str(path), ends, context_of(config))


def generation_config_of(whole: CheckpointFolder, config: "PreTrainedConfig") -> "GenerationConfig":
    """The settings for generation that a model has when it is loaded."""
    from transformers import GenerationConfig

    if whole.family != LLAVA_ORIGINAL and (whole.path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(whole.path)
    return GenerationConfig.from_model_config(config)


def adapters_of(given: CheckpointFolder, loading: Loading) -> list[Path]:
    """Folders of the LoRA adapters to merge: the given folder's own first, then the parameters'."""
    own = [given.path] if given.is_adapter else []
    return own + ([] if loading.adapter is None else [folder_of(loading.adapter)])


def torch_device(device: str) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` is asked for and there is none.
    """
    import torch

    best = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = best if device == "auto" else device
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "compute.device=cuda, but torch sees no GPU here. Choose cpu or auto, or install the torch of "
            "your CUDA version."
        )
    return chosen


def _load(
    given: CheckpointFolder, whole: CheckpointFolder, loading: Loading
) -> "tuple[PreTrainedModel, ProcessorMixin | ImagesOnly]":
    """The module, adapters merged, and its processor.

    Args:
        given: Holds adapters, maybe with a processor of their own, or is the same as ``whole``.
    """
    import torch

    from rlaifv_kedro.models import minicpm_v, omnilmm
    from rlaifv_kedro.models.adapters import merge_adapter
    from rlaifv_kedro.models.llava.original import load_llava_original
    from rlaifv_kedro.models.processors import pictures_and_prompts

    dtype, family = getattr(torch, loading.dtype), whole.family
    options = {"attn_implementation": loading.attn_implementation, "device_map": loading.device_map}
    omnilmm.register()
    minicpm_v.register()
    if family == LLAVA_ORIGINAL:
        module = load_llava_original(whole.path, dtype=dtype, vision_config=loading.vision_config, **options)
    else:
        module = _auto_model(whole, loading, dtype=dtype, **options)
    _settle_generation(module)
    for adapter in adapters_of(given, loading):
        module = merge_adapter(module, adapter)
    if family in (LLAVA_ORIGINAL, "omnilmm", "minicpmv") and not whole.has_any(TOKENIZERS):
        return module, _images_only(module, family)
    processor = _processor(given, whole, module.config, loading)
    if family == "omnilmm":
        module.config.image_token_id = processor.image_token_id  # the release's config doesn't name it
    if module.config.model_type == "llava":
        prepared = pictures_and_prompts(processor, loading.chat_template)
        if note(str(given.path), prepared):
            logger.info("%s: %s", shown(given.path), prepared)
    return module, processor


def _processor(
    given: CheckpointFolder, whole: CheckpointFolder, config: "PreTrainedConfig", loading: Loading
) -> "ProcessorMixin":
    """The processor: adapters' own, if their folder has one, or the checkpoint's."""
    from rlaifv_kedro.models.processors import load_processor

    return load_processor(
        given if given.is_adapter and given.has_any(PROCESSORS) else whole,
        config,
        trust_remote_code=loading.trust_remote_code,
        chat_template=loading.chat_template,
        image_aspect_ratio=loading.image_aspect_ratio,
    )


def _settle_generation(module: "PreTrainedModel") -> None:
    """Keep of the settings for generation what an answer needs, if the others contradict each other.

    Those of early LLaVAs name a temperature without sampling; transformers reads that, and refuses to write
    it: the first checkpoint of a training.
    """
    from transformers import GenerationConfig

    given = module.generation_config
    try:
        given.validate(strict=True)
    except ValueError:
        kept = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "renormalize_logits")
        module.generation_config = GenerationConfig(**{name: getattr(given, name) for name in kept})


def _images_only(module: "PreTrainedModel", family: str | None) -> ImagesOnly:
    """The image processor alone of a family whose release leaves the tokenizer out."""
    if family == LLAVA_ORIGINAL:
        from rlaifv_kedro.models.llava.images import llava_images

        return ImagesOnly(llava_images(module.config))
    if family == "omnilmm":
        from rlaifv_kedro.models.omnilmm.processing import omnilmm_images

        return ImagesOnly(omnilmm_images(module.config))
    from rlaifv_kedro.models.minicpm_v.processing import minicpm_images

    return ImagesOnly(minicpm_images(module.config))


def _auto_model(whole: CheckpointFolder, loading: Loading, **options: Any) -> "PreTrainedModel":
    from transformers import AutoModelForImageTextToText

    from rlaifv_kedro.transformers_private import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        save_as_published,
    )

    kind = whole.family
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"{shown(whole.path)}: it is a language model, which sees no pictures (model_type {kind}). "
            "Adapters of LLaVA that were trained on Vicuna must be merged with LLaVA's own code; give the "
            "result."
        )
    if "quantization_config" in whole.config:
        raise UserError(
            f"{shown(whole.path)}: its weights are quantized, which neither training nor scoring here is "
            "made for. Give the checkpoint that they were made from; models.<role>.dtype saves memory."
        )
    if loading.vision_config is not None:
        options["vision_config"] = dict(loading.vision_config)
    module, loaded = AutoModelForImageTextToText.from_pretrained(
        whole.path, trust_remote_code=loading.trust_remote_code, output_loading_info=True, **options
    )
    refuse_wrong_names(loaded, whole.path)
    save_as_published(module)
    return module
