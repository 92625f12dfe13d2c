"""OmniLMM: Mistral 7B in which the resampled image stands for the embeddings of the image tokens.

The language model's layers lie at ``model.layers`` as in Mistral, beside ``model.vision_tower`` and
``model.resampler``. These are the release's names, so its weights load and save without any renaming.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import Cache, GenerationMixin, MistralModel, MistralPreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
from rlaifv_kedro.models.omnilmm.vision import OmniLMMResampler, OmniLMMVisionTower, sincos_positions
from rlaifv_kedro.transformers_private import can_return_tuple, slice_logits_to_keep


class OmniLMMPreTrainedModel(MistralPreTrainedModel):
    """What transformers wants to know of every class of this family.

    Weights that no checkpoint gives begin as it says.
    """

    config: OmniLMMConfig
    input_modalities = ("image", "text")
    _no_split_modules = ["MistralDecoderLayer", "OmniLMMResampler"]
    _can_compile_fullgraph = False  # where the images go depends on the data

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OmniLMMResampler):
            queries, hidden = module.query.shape
            init.normal_(module.query, std=self.config.initializer_range)
            init.normal_(module.proj, std=hidden**-0.5)
            init.copy_(module.pos_embed, sincos_positions(math.isqrt(queries), hidden))


class OmniLMMModel(OmniLMMPreTrainedModel, MistralModel):
    """Mistral with a vision tower and a resampler.

    Raises:
        UserError: The config's numbers don't fit one another.
    """

    def __init__(self, config: OmniLMMConfig):
        super().__init__(config)
        if config.image_size % config.vision_config.patch_size:
            raise UserError(
                f"image_size={config.image_size} of an OmniLMM config is no multiple of "
                f"patch_size={config.vision_config.patch_size}."
            )
        self.vision_tower = OmniLMMVisionTower(config.vision_config)
        self.resampler = OmniLMMResampler(config)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(images, 3, image_size, image_size) to (images, num_query, hidden)."""
        return self.resampler(self.vision_tower(pixel_values))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See :meth:`OmniLMMForConditionalGeneration.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (batch, length, hidden)
        if pixel_values is not None:
            inputs_embeds = self._with_images(inputs_embeds, input_ids, pixel_values)
        elif (
            input_ids is not None
            and self.config.image_token_id is not None
            and (past_key_values is None or not past_key_values.get_seq_length())
        ):
            # Once there is a cache the images are in it, and an untrained model may write an image token
            # itself.
            self._check_counts(input_ids == self.config.image_token_id, images=0)
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )

    def _with_images(
        self, embeds: torch.Tensor, input_ids: torch.Tensor | None, pixel_values: torch.Tensor
    ) -> torch.Tensor:
        """The embeddings with the images' features, in order, at image tokens: (batch, length, hidden)."""
        if input_ids is None:
            raise ValueError(
                "pixel_values need input_ids: the image tokens in them say where the images belong"
            )
        image_token = self.config.image_token_id
        if image_token is None:
            image_token = self._token_of_runs(input_ids)
        where = input_ids == image_token  # (batch, length)
        self._check_counts(where, len(pixel_values))
        features = self.get_image_features(pixel_values)  # (images, num_query, hidden)
        return embeds.masked_scatter(where[..., None], features.to(embeds.device, embeds.dtype))

    def _check_counts(self, where: torch.Tensor, images: int) -> None:
        counts, tokens = where.sum(1), self.config.num_query
        if bool((counts % tokens).any()) or int(counts.sum()) != images * tokens:
            raise UserError(
                f"OmniLMM: the rows of this batch have {counts.tolist()} image tokens, but there are "
                f"{images} images of {tokens} tokens each. "
                "The processor writes them: pass each text with its images."
            )

    def _token_of_runs(self, input_ids: torch.Tensor) -> int:
        """The image token, where the config doesn't name it.

        It is the one token that fills exactly ``num_query`` positions in a row, between two others.

        Padding lies at the end or the beginning of a row, so a run of it has no neighbour on one side.
        """
        size = self.config.num_query
        windows = (
            input_ids.unfold(1, size + 2, 1)
            if input_ids.shape[1] >= size + 2
            else input_ids.new_empty(0, 0, size + 2)
        )
        token = windows[..., 1]  # (batch, windows)
        whole = (
            (windows[..., 1:-1] == token[..., None]).all(-1)
            & (windows[..., 0] != token)
            & (windows[..., -1] != token)
        )
        found = token[whole].unique().tolist()
        if len(found) != 1:
            raise UserError(
                f"OmniLMM: {len(found) or 'no'} tokens stand {size} times in a row, so the image's place "
                "isn't clear. Set image_token_id of the model's config to the processor's image_token_id."
            )
        return found[0]


class OmniLMMForConditionalGeneration(OmniLMMPreTrainedModel, GenerationMixin):
    """OmniLMM-12B and RLAIF-V-12B.

    Load it with ``from_pretrained`` from a folder in the release's layout, or from what this class saved.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OmniLMMConfig):
        super().__init__(config)
        self.model = OmniLMMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See :meth:`OmniLMMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next tokens.

        Args:
            input_ids: int64 (batch, length); each image is ``num_query`` image tokens, as the processor
                writes them.
            attention_mask: (batch, length), 0 at padding; or (batch, 1, length, length) as
                :func:`rlaifv_kedro.branching.collate` makes it, which the language model takes as it is.
            pixel_values: (images, 3, image_size, image_size), in the order of their tokens.
            labels: (batch, length) for the mean cross-entropy; -100 is left out.
            logits_to_keep: Which positions to compute logits for; see ``slice_logits_to_keep`` of
                transformers.

        Raises:
            UserError: Image tokens and images don't match.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(output.last_hidden_state, logits_to_keep))
        loss = (
            None
            if labels is None
            else self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
