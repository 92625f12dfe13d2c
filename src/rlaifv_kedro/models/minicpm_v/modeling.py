r"""MiniCPM-Llama3-V 2.5 (arXiv 2408.01800) as a model of transformers 5: SigLIP tower, resampler, Llama 3.

transformers has later models of the family, and the code beside the release's weights fails there: it loads,
with the resampler's positions zero. This one computes what the release computes, in three respects not what
one would write today:

- The vision tower attends to padding. The slices of a sample are padded to its largest, so a sample's
  features depend on that width and on nothing else in the batch; samples are encoded one by one.
- The vision tower numbers the patches of a slice as if they lay in one row.
- Those numbers come from the formula of transformers 4.40, which for some lengths rounds otherwise than that
  of transformers 5.

Adapters (LoRA) on the language model alone:
``target_modules=r"llm\.model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"``. A list of
suffixes would hit the vision tower, whose layers have the same names.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    Cache,
    GenerationMixin,
    Idefics2VisionConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.minicpm_v.configuration import MiniCPMVConfig
from rlaifv_kedro.models.minicpm_v.resampler import Resampler
from rlaifv_kedro.transformers_private import Idefics2VisionEmbeddings, Idefics2VisionTransformer


def patch_positions(patches: int, side: int) -> torch.Tensor:
    """Rows of the position table for patches that are spread evenly over its first line: int64 (patches,).

    The table is ``side`` wide.

    The formula of transformers 4.40. Its fractions are multiples of a step that is rounded to float32 first,
    and that decides on which side of a boundary a patch falls.
    """
    boundaries = torch.arange(1 / side, 1.0, 1 / side)
    fractions = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(patches))
    return torch.bucketize(fractions, boundaries, right=True)


class VisionEmbeddings(Idefics2VisionEmbeddings):
    """Patches with their positions in one row."""

    def forward(self, pixel_values: torch.Tensor, patch_attention_mask: torch.Tensor) -> torch.Tensor:
        """Embedded patches, (slices, patches, hidden)."""
        embedded = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (slices, patches, hidden)
        positions = patch_positions(embedded.shape[1], self.num_patches_per_side).to(embedded.device)
        return embedded + self.position_embedding(positions)


class VisionTower(Idefics2VisionTransformer):
    """SigLIP on slices of 1 x N patches; every patch of the tensor is attended to, padding too."""

    def __init__(self, config: Idefics2VisionConfig, drop_last_layer: bool):
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        if drop_last_layer:
            del self.encoder.layers[-1]


class MiniCPMV(PreTrainedModel, GenerationMixin):
    """MiniCPM-Llama3-V 2.5.

    Parameter names are the release's: ``llm.*``, ``vpm.*``, ``resampler.*``.

    Image inputs hold the slices of all samples one after the other;
    :func:`rlaifv_kedro.models.backends.transformers.batched` joins those of several samples:

    - ``pixel_values``: float (slices, 3, patch, patch * patches), each slice's patches in a row, padded on
      the right to any common width.
    - ``tgt_sizes``: int (slices, 2), rows and columns of patches.
    - ``slice_counts``: int (samples,), slices of each sample. One sample alone needs none.
    - ``image_bound``: int (slices, 2), where in its sample's row the features of each slice go, end excluded.
      Without it they go, in order, where the row has ``config.image_token_id``.
    """

    config: MiniCPMVConfig
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Idefics2EncoderLayer", "Resampler", "LlamaDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MiniCPMVConfig):
        super().__init__(config)
        self.llm = LlamaForCausalLM(config.text_config)
        self.vpm = VisionTower(config.vision_config, config.drop_vision_last_layer)
        self.resampler = Resampler(
            config.query_num, config.text_config.hidden_size, config.vision_config.hidden_size
        )
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load the model as transformers does.

        The placeholder that the release's config lacks is taken from the tokenizer beside the
        weights, if there is one.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        config = (loaded[0] if isinstance(loaded, tuple) else loaded).config
        if (
            config.image_token_id is None
            and (Path(str(pretrained_model_name_or_path)) / "tokenizer_config.json").is_file()
        ):
            config.image_token_id = AutoTokenizer.from_pretrained(pretrained_model_name_or_path).unk_token_id
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Resampler):  # as in the release
            init.trunc_normal_(module.query, std=0.02)
            init.normal_(module.proj, std=module.proj.shape[0] ** -0.5)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model's."""
        self.llm.set_output_embeddings(new_embeddings)

    def encode_images(
        self, pixel_values: torch.Tensor, tgt_sizes: torch.Tensor, slice_counts: list[int]
    ) -> torch.Tensor:
        """Features of every slice: (slices, queries, hidden).

        They are computed sample by sample, each as wide as its largest slice.
        """
        groups = slice_counts if self.config.batch_vision_input else [1] * len(tgt_sizes)
        encoded = []
        for pixels, grids in zip(pixel_values.to(self.vpm.dtype).split(groups), tgt_sizes.split(groups)):
            if len(grids):
                width = int(grids.prod(-1).max()) * self.config.vision_config.patch_size
                patches = self.vpm(
                    pixels[..., :width]
                ).last_hidden_state  # (slices of the sample, patches, vision hidden)
                encoded.append(self.resampler(patches, grids))
        return torch.cat(encoded)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        tgt_sizes: torch.Tensor | None = None,
        slice_counts: torch.Tensor | None = None,
        image_bound: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the language model, at the positions of ``logits_to_keep``.

        See ``slice_logits_to_keep`` of transformers for these.

        Args:
            pixel_values, tgt_sizes, slice_counts, image_bound: See the class. ``generate`` gives pixels with
                the prompt only; without them the other three mean nothing.
            kwargs: What else ``LlamaForCausalLM`` takes, e.g. ``labels``.

        Raises:
            UserError: A row's placeholders are not as many as its slices have features.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        # (batch, length, hidden)
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if pixel_values is not None and len(pixel_values):
            counts = [len(pixel_values)] if slice_counts is None else slice_counts.tolist()
            if len(counts) != len(embeds) or sum(counts) != len(pixel_values):
                raise ValueError(
                    f"{len(pixel_values)} slices of a batch of {len(embeds)}: slice_counts must say how "
                    "many each sample has"
                )
            places = self._places(input_ids, image_bound, counts, embeds.device)
            by_slice = self.encode_images(pixel_values, tgt_sizes, counts)  # (slices, queries, hidden)
            features = by_slice.flatten(0, 1)  # (slices * queries, hidden)
            embeds = embeds.index_put(places, features.to(embeds.device, embeds.dtype))
        return self.llm(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _places(
        self,
        input_ids: torch.Tensor | None,
        image_bound: torch.Tensor | None,
        counts: list[int],
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the embeddings that the features replace: int64 (slices * queries,) each."""
        if image_bound is not None:
            bounds = image_bound.tolist()
            samples = [sample for sample, count in enumerate(counts) for _ in range(count)]
            rows = torch.tensor(
                [row for row, (start, end) in zip(samples, bounds) for _ in range(start, end)], device=device
            )
            columns = torch.tensor(
                [column for start, end in bounds for column in range(start, end)], device=device
            )
        elif input_ids is None or self.config.image_token_id is None:
            raise UserError(
                "the model can't tell which tokens stand for the image: its config has no image_token_id "
                "and no tokenizer was beside the weights. "
                "Add image_token_id (the id of <unk>) to config.json."
            )
        else:
            rows, columns = torch.nonzero(input_ids == self.config.image_token_id, as_tuple=True)
        for sample, (found, slices) in enumerate(
            zip(torch.bincount(rows, minlength=len(counts)).tolist(), counts)
        ):
            if found != slices * self.config.query_num:
                raise UserError(
                    f"sample {sample} of the batch has {found} placeholder tokens, but its {slices} slices "
                    f"have {slices * self.config.query_num} "
                    "features. Don't cut the prompt, and keep the placeholder out of its text."
                )
        return rows, columns

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor | None, dict[str, Any]]:
        """Repeat inputs for beams and for several samples a prompt.

        Slices are repeated sample by sample, not one by one as transformers repeats rows.
        """
        images = {
            n: model_kwargs.pop(n)
            for n in ("pixel_values", "tgt_sizes", "image_bound")
            if model_kwargs.get(n) is not None
        }
        if expand_size > 1 and images:
            counts = model_kwargs.setdefault(
                "slice_counts", torch.tensor([len(images["pixel_values"])])
            ).tolist()
            samples = torch.arange(sum(counts)).split(counts)
            order = torch.cat([slices for slices in samples for _ in range(expand_size)])
            images = {name: value[order.to(value.device)] for name, value in images.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | images
