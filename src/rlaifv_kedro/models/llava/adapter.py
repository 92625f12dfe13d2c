"""LoRA adapters with the names of LLaVA's original code, merged into a LLaVA of transformers.

Source: github.com/haotian-liu/LLaVA: ``train.py`` writes ``adapter_model`` and ``non_lora_trainables.bin``,
``builder.py`` reads them.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line
from rlaifv_kedro.models.folder import ADAPTER_WEIGHTS, CheckpointFolder
from rlaifv_kedro.models.llava.names import PREFIXES, modern_name
from rlaifv_kedro.models.loading_errors import loading_errors

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration

OTHERS = "non_lora_trainables.bin"
_PEFT = "base_model.model."
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B)\.weight")


def is_original_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter for LLaVA's original code.

    Its files tell, for ``adapter_config.json`` looks like any other.
    """
    folder = Path(folder)
    if not CheckpointFolder(folder).is_adapter:
        return False
    if (folder / OTHERS).is_file():
        return True
    weights = _weights_of(folder)
    return weights is not None and any(
        name.removeprefix(_PEFT).startswith(tuple(PREFIXES)) for name in _read(weights)
    )


def apply_original_adapter(
    model: "LlavaForConditionalGeneration", folder: str | Path
) -> "LlavaForConditionalGeneration":
    """Merge an adapter of LLaVA's original code: W + scale B A.

    The weights of ``non_lora_trainables.bin`` (the projector's), if there are any, take the place of the
    model's.

    Args:
        model: The checkpoint that the adapter belongs to, in any layout that transformers has loaded. It is
            changed.

    Raises:
        UserError: A file is missing or damaged, or a weight doesn't fit the model.
    """
    from peft import LoraConfig, PeftModel

    folder = Path(folder)
    weights = _weights_of(folder)
    if weights is None:
        raise UserError(
            f"{folder} holds no adapter: neither {' nor '.join(ADAPTER_WEIGHTS)}. Give the folder that "
            "training wrote."
        )
    modules = _modules(_read(weights), weights, {name for name, _ in model.named_modules()})
    if (folder / OTHERS).is_file():
        _replace(model, _read(folder / OTHERS), folder / OTHERS)
    try:
        config = LoraConfig.from_pretrained(folder)
        # Exactly the modules of the file: suffixes such as q_proj would put adapters on the vision tower's
        # layers too, and a pattern on the original's names on none.
        config.target_modules, config.exclude_modules, config.layers_to_transform, config.layers_pattern = (
            modules,
            None,
            None,
            None,
        )
        config.rank_pattern = {modern_name(k): v for k, v in config.rank_pattern.items()}
        config.alpha_pattern = {modern_name(k): v for k, v in config.alpha_pattern.items()}
        mapping = {f"^{re.escape(old)}": new for old, new in PREFIXES.items()}
        # Made on the meta device, so that no random numbers are drawn for what is read from the file at once.
        adapted = PeftModel.from_pretrained(
            model, str(folder), config=config, key_mapping=mapping, low_cpu_mem_usage=True
        )
    except (TypeError, *loading_errors()) as error:
        raise UserError(f"{folder}: can't apply the adapter: {first_line(error)}") from error
    return adapted.merge_and_unload()


def _weights_of(folder: Path) -> Path | None:
    return next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)


def _read(path: Path) -> "dict[str, torch.Tensor]":
    import torch
    from safetensors.torch import load_file

    try:
        return (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except loading_errors() as error:
        raise UserError(f"{path} is damaged ({first_line(error)}). Fetch it again.") from error


def _modules(names: Iterable[str], path: Path, known: set[str]) -> set[str]:
    """The model's modules that the adapter's file has weights for."""
    parts: dict[str, set[str]] = {}
    for name in names:
        match = _LORA.fullmatch(name)
        module = modern_name(match["module"]) if match else ""
        if module not in known or match is None:
            raise UserError(
                f"{path}: {name} fits nothing in the model. Give the checkpoint that the adapter was "
                "trained on."
            )
        parts.setdefault(module, set()).add(match["part"])
    for module, found in parts.items():
        if found != {"A", "B"}:
            raise UserError(f"{path} has only lora_{found.pop()} for {module}. Fetch it again.")
    return set(parts)


def _replace(model: "LlavaForConditionalGeneration", weights: "dict[str, torch.Tensor]", path: Path) -> None:
    """Copy weights into the model; nothing is copied unless all of them fit.

    Embeddings may lack the rows that loading has added.
    """
    import torch

    # builder.py: strip "base_model.", then, where names begin with it twice, one "model.".
    names = {name: name.removeprefix("base_model.") for name in weights}
    if any(name.startswith("model.model.") for name in names.values()):
        names = {name: stripped.removeprefix("model.") for name, stripped in names.items()}
    own = dict(model.named_parameters())
    places: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, weight in weights.items():
        place = own.get(modern_name(names[name]))
        if place is not None and names[name].startswith(("model.embed_tokens.", "lm_head.")):
            place = place[: getattr(model.config.text_config, "original_vocab_size", len(place))]
        if place is None or place.shape != weight.shape:
            problem = (
                "fits nothing in the model"
                if place is None
                else f"has the shape {tuple(weight.shape)}, the model's {tuple(place.shape)}"
            )
            raise UserError(f"{path}: {name} {problem}. Give the checkpoint that the adapter was trained on.")
        places.append((place, weight))
    with torch.no_grad():
        for place, weight in places:
            place.copy_(weight)
