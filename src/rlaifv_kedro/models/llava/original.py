"""LLaVA-1.5-7B and RLAIF-V-7B in the layout of their original release, loaded as a LLaVA of transformers.

The release's class is ``LlavaLlamaForCausalLM``.

Sources: the original code (github.com/haotian-liu/LLaVA: ``llava_arch.py``, ``clip_encoder.py``,
``builder.py``) for names and values, transformers' ``convert_llava_weights_to_hf.py`` for the rows that
``<image>`` and padding get.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_of
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.llava.names import PREFIXES, TOWER, original_name
from rlaifv_kedro.models.llava.original_config import llava_config, named_tower, refuse_other_designs
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.transformers_private import save_as_published

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration


def load_llava_original(
    folder: str | Path,
    *,
    dtype: "torch.dtype",
    attn_implementation: str = "sdpa",
    vision_config: Mapping[str, Any] | None = None,
    device_map: Any = None,
) -> "LlavaForConditionalGeneration":
    """Load the original's weights.

    What ``save_pretrained`` or Trainer writes of the model afterwards is an ordinary llava-hf checkpoint.

    The embeddings grow by rows for ``<image>`` and ``<pad>``, to a multiple of 64 as in the llava-hf
    checkpoints (32000 to 32064): the original marks an image with id -200, which is no row. ``generate``
    excludes the new ids and normalizes over the others, so probabilities and beams are those of the original;
    who samples or scores by other means must leave out ids from the text config's ``original_vocab_size`` on.

    Args:
        vision_config: Values of the tower's ``CLIPVisionConfig``. Otherwise those of the CLIP that the config
            names (``mm_vision_tower``), whose weights are taken if the checkpoint has no vision tower.

    Raises:
        UserError: The config is one that LLaVA-1.5 doesn't have; a file is missing or damaged; a weight is
            missing, unknown or of another shape; the vision tower can't be had.
    """
    from transformers import LlavaForConditionalGeneration

    folder = Path(folder)
    checkpoint = CheckpointFolder(folder)
    values = checkpoint.config
    refuse_other_designs(values, folder)
    checkpoint.refuse_damaged("Give the folder of a whole checkpoint.")  # transformers would name the hub
    tower = named_tower(values, folder)
    config = llava_config(values, folder, vision_config, tower)
    with checkpoint_errors(folder), _without_report():
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
    # transformers would write the original's names again, wrong ones at that: a reload missed weights.
    # Trainer's saves go the same way.
    save_as_published(model)
    _refuse(folder, "hold what LLaVA-1.5 doesn't know:", loaded["unexpected_keys"])
    misshapen = [name for name, *_ in loaded["mismatched_keys"]]
    _refuse(folder, "don't have the shape that config.json gives:", misshapen)
    missing = set(loaded["missing_keys"])
    if missing == {name for name, _ in model.named_parameters() if name.startswith(TOWER)}:
        _load_tower(model, tower, folder, dtype)
        missing = set()
    _refuse(folder, "lack", missing)
    _grow(model)
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from warning of weights that it made up: here they are replaced or refused."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _load_tower(
    model: "LlavaForConditionalGeneration", tower: str, folder: Path, dtype: "torch.dtype"
) -> None:
    """Load the vision tower from the CLIP that the checkpoint names.

    LLaVA-1.5 left CLIP as it was, so checkpoints may come without it.
    """
    from transformers import CLIPVisionModel

    advice = "Set mm_vision_tower in config.json to the folder of the CLIP that it was trained with."
    trouble = f"has no vision tower, and {tower} can't be loaded instead"
    with checkpoint_errors(folder, trouble, advice), _without_report():
        clip, loaded = CLIPVisionModel.from_pretrained(
            tower,
            config=model.config.vision_config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # A whole CLIP has text weights too, but of vision weights no layer may be left over: features are taken
    # from the last but one.
    wrong = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
    wrong |= {name for name in loaded["unexpected_keys"] if name.startswith(("vision_model.", "encoder."))}
    if wrong:
        raise UserError(
            f"{folder} has no vision tower, and {tower} doesn't fit: see {first_of(sorted(wrong), 3)}. "
            f"{advice}"
        )
    model.model.vision_tower.load_state_dict(clip.state_dict())


def _refuse(folder: Path, problem: str, names: Iterable[str]) -> None:
    """Stop if there are weights with a problem, and name some of them as their files do."""
    if names:
        raise UserError(
            f"{folder}: the weights {problem} {first_of(sorted(map(original_name, names)), 3)}. Fetch the "
            "checkpoint again."
        )


def _grow(model: "LlavaForConditionalGeneration") -> None:
    """Add the rows for ``<image>`` and ``<pad>``.

    New rows are the mean of the old ones: by Jensen's inequality such a token's probability is at most the
    mean probability of the others, so even where nobody excludes it it isn't likely, and a saved checkpoint
    doesn't depend on a random stream.
    """
    import torch
    from transformers import GenerationConfig

    text = model.config.text_config
    size = text.vocab_size  # the id of <image>, too; the next one is that of <pad>
    model.resize_token_embeddings(size + 2, pad_to_multiple_of=64, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[size:] = layer.weight[:size].float().mean(0).to(layer.weight.dtype)
    text.original_vocab_size, text.pad_token_id = size, size + 1
    # A new one: the released generation_config.json holds sampling values without do_sample, which
    # save_pretrained refuses.
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=size + 1,
        suppress_tokens=list(range(size, text.vocab_size)),
        renormalize_logits=True,
    )
