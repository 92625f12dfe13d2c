"""LoRA adapters, merged into the model they belong to, under whichever names their file has.

LLaVA's original code gives them the original's names, and puts the projector, which it trains beside them,
into a file of its own. Source: github.com/haotian-liu/LLaVA: ``train.py`` writes ``adapter_model`` and
``non_lora_trainables.bin``, ``builder.py`` reads them.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.models.folder import ADAPTER_WEIGHTS, CheckpointFolder
from rlaifv_kedro.models.llava.names import PREFIXES, original_name, renamed
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.transformers_private import published_names

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

OTHERS = "non_lora_trainables.bin"
_PEFT = "base_model.model."
_LORA = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_(A|B|embedding_A|embedding_B|magnitude_vector))(\.weight)?"
)
_WHOLE = ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"})
_MAGNITUDE = "lora_magnitude_vector"  # DoRA's


def merge_adapter(model: "PreTrainedModel", folder: str | Path) -> "PreTrainedModel":
    """Put adapters into a model: W + scale B A.

    Weights that were trained whole beside them (a projector, embeddings) take the place of the model's.

    Args:
        model: The checkpoint that the adapters belong to, as transformers has loaded it. It is changed, but
            only if everything fits.

    Raises:
        UserError: A file is missing or damaged; a weight doesn't fit the model; they are no LoRA adapters.
    """
    folder = Path(folder)
    CheckpointFolder(folder).refuse_damaged_weights("Give the folder that training wrote.")
    config = _config(folder)
    path = next(folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file())
    weights = _read(path)
    lora = {name: match for name in weights if (match := _LORA.fullmatch(name))}
    names = _names(model, [match["module"] for match in lora.values()])
    modules = _modules(lora, names, {name for name, _ in model.named_modules()}, path)
    magnitudes = {renamed(m["module"], names) for m in lora.values() if m["part"] == _MAGNITUDE}
    if config.use_dora and (lacking := sorted(modules - magnitudes)):
        raise UserError(
            f"{path} lacks DoRA's {_MAGNITUDE} of {lacking[0]}, which its config asks for. Fetch it again."
        )
    whole = {name: weight for name, weight in weights.items() if name not in lora}
    beside = _beside(folder, whole, original=names is PREFIXES)
    places = [*_places(model, whole, names, path), *_places(model, beside, names, folder / OTHERS)]
    if names is PREFIXES:
        _refuse_part_of_projector(model, {renamed(n.removeprefix(_PEFT), names) for n in beside}, folder)
    with checkpoint_errors(folder, "can't apply the adapter"):
        for pattern in ("rank_pattern", "alpha_pattern"):
            setattr(
                config, pattern, {renamed(k, names): v for k, v in (getattr(config, pattern) or {}).items()}
            )
        own = {f"{_PEFT}{renamed(name.removeprefix(_PEFT), names)}": weights[name] for name in lora}
        adapted = _adapted(model, config, own, modules)
        for place, weight in places:
            place.data.copy_(weight)
        return adapted.merge_and_unload()


def _config(folder: Path) -> "LoraConfig":
    from peft import LoraConfig, PeftConfig

    with checkpoint_errors(folder, "its adapter_config.json can't be used"):
        config = PeftConfig.from_pretrained(folder)
        if not isinstance(config, LoraConfig):
            raise UserError(
                f"{folder}: its adapters are of the kind {config.peft_type}, and only LoRA's can be merged. "
                "Merge them where they were trained, and give the merged checkpoint."
            )
        if not config.lora_alpha > 0:
            raise UserError(
                f"{folder}: its adapter_config.json has lora_alpha={config.lora_alpha}, with which the "
                "adapters would change nothing. Correct it as it was in training."
            )
    return config


def _read(path: Path) -> "dict[str, torch.Tensor]":
    import torch
    from safetensors.torch import load_file

    with checkpoint_errors(path, "is damaged"):
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(
            isinstance(name, str) and isinstance(weight, torch.Tensor) for name, weight in found.items()
        ):
            raise ValueError("it holds no weights by their names")
        whole = next((name for name, weight in found.items() if not weight.is_floating_point()), None)
        if whole is not None:
            raise ValueError(f"{whole} holds whole numbers ({found[whole].dtype})")
        return found


def _names(model: "PreTrainedModel", modules: list[str]) -> Mapping[str, str]:
    """How the beginnings of names are to be changed: the first way in which the model knows all modules."""
    from transformers import LlavaForConditionalGeneration

    known = {name for name, _ in model.named_modules()}
    ways: list[Mapping[str, str]] = [{}]
    if isinstance(model, LlavaForConditionalGeneration):
        ways.append(PREFIXES)
    published = published_names(model, known - {""})
    ways.append({name: published[name] for name in sorted(published, key=len, reverse=True)})
    return max(ways, key=lambda way: sum(renamed(module, way) in known for module in modules))


def _modules(
    lora: Mapping[str, re.Match[str]], names: Mapping[str, str], known: set[str], path: Path
) -> set[str]:
    """The model's modules that the adapters' file has weights for."""
    parts: dict[str, set[str]] = {}
    for name, match in lora.items():
        module = renamed(match["module"], names)
        if module not in known:
            raise UserError(
                f"{path}: {name} fits nothing in the model. Give the checkpoint that the adapter was "
                "trained on."
            )
        parts.setdefault(module, set()).add(match["part"])
    for module, found in parts.items():
        if found - {_MAGNITUDE} not in _WHOLE:
            raise UserError(f"{path} has only {', '.join(sorted(found))} for {module}. Fetch it again.")
    if not parts:
        raise UserError(f"{path} holds no LoRA adapters. Fetch it again.")
    return set(parts)


def _beside(folder: Path, whole: "Mapping[str, torch.Tensor]", original: bool) -> "dict[str, torch.Tensor]":
    """What lies in the file beside the adapters.

    LLaVA's code writes it at the end of every LoRA training, an empty one where nothing else was trained. Its
    intermediate checkpoints lack it, and with the base's projector they would be another model.
    """
    if (folder / OTHERS).is_file():
        found = _read(folder / OTHERS)
        # builder.py: strip "base_model.", then, where names begin with it twice, one "model.".
        names = {name: name.removeprefix("base_model.") for name in found}
        doubled = any(name.startswith("model.model.") for name in names.values())
        return {
            names[name].removeprefix("model.") if doubled else names[name]: weight
            for name, weight in found.items()
        }
    if original and not any("mm_projector." in name for name in whole):
        raise UserError(
            f"{shown(folder)} has adapters of LLaVA's original code without {OTHERS}, which holds the "
            "projector that it trains beside them: an intermediate checkpoint, or an incomplete copy. Copy "
            "it there from the end of that training. If the projector was not trained, put an empty one: "
            f"python -c \"import torch; torch.save({{}}, '{shown(folder / OTHERS)}')\""
        )
    return {}


def _refuse_part_of_projector(model: "PreTrainedModel", given: Collection[str], folder: Path) -> None:
    """Stop if only some of a projector's weights are given: the others would stay those of the base."""
    own = {name for name, _ in model.named_parameters() if ".multi_modal_projector." in f".{name}"}
    if own & set(given) and (lacking := sorted(own - set(given))):
        raise UserError(
            f"{shown(folder / OTHERS)} holds a part of the projector: it lacks {original_name(lacking[0])}. "
            "Copy it anew from where the adapters were trained."
        )


def _places(
    model: "PreTrainedModel", weights: "Mapping[str, torch.Tensor]", names: Mapping[str, str], path: Path
) -> "Iterable[tuple[torch.Tensor, torch.Tensor]]":
    """The model's weights and what is to be in them.

    Embeddings may lack the rows that loading has added.

    Raises:
        UserError: One fits nothing.
    """
    own = dict(model.named_parameters())
    text = model.config.get_text_config()
    for name, weight in weights.items():
        plain = name.removeprefix(_PEFT)
        place = own.get(renamed(plain, names))
        if place is not None and plain.endswith(("embed_tokens.weight", "lm_head.weight")):
            place = place[: getattr(text, "original_vocab_size", len(place))]
        if place is None or place.shape != weight.shape:
            problem = (
                "fits nothing in the model"
                if place is None
                else f"has the shape {tuple(weight.shape)}, the model's {tuple(place.shape)}"
            )
            raise UserError(f"{path}: {name} {problem}. Give the checkpoint that the adapter was trained on.")
        yield place, weight


def _adapted(
    model: "PreTrainedModel", config: "LoraConfig", weights: "dict[str, torch.Tensor]", modules: set[str]
) -> "torch.nn.Module":
    """The model with the adapters of the file in it, in float32, and no others.

    Suffixes such as q_proj would put adapters on the vision tower's layers too, and a pattern on other names
    on none: so the config is told the modules one by one.
    """
    import torch
    from peft import get_peft_model, set_peft_model_state_dict

    config.target_modules, config.exclude_modules, config.modules_to_save = modules, None, None
    config.layers_to_transform, config.layers_pattern, config.base_model_name_or_path = None, None, None
    gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices=gpus):  # adapters begin with random numbers
        adapted = get_peft_model(model, config)
    loaded = set_peft_model_state_dict(adapted, weights)
    if loaded.unexpected_keys:
        raise ValueError(f"nothing takes {loaded.unexpected_keys[0]}")
    return adapted
