"""From pixels to the tokens of an image: the vision tower, and the resampler that OmniLMM reads it with.

The tower is that of EVA-02-CLIP-E (arXiv 2303.15389).

Modules and weights have the names of the release's checkpoint.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GradientCheckpointingLayer, PreTrainedModel
from transformers import initialization as init

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig, OmniLMMVisionConfig
from rlaifv_kedro.transformers_private import ALL_ATTENTION_FUNCTIONS, attention_of, eager_attention_forward

RESAMPLER_HEAD_WIDTH = 128
RESAMPLER_NORM_EPS = 1e-6


def resample_positions(table: torch.Tensor, rows: int, columns: int, *, antialias: bool) -> torch.Tensor:
    """Bicubic resampling of a square table of positions: (side * side, width) to (rows * columns, width).

    It is computed in float32 and returned in the table's dtype.
    """
    side = math.isqrt(len(table))
    if (side, side) == (rows, columns):
        return table
    grid = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)  # (1, width, side, side)
    # (1, width, rows, columns)
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=antialias, align_corners=False)
    return grid.flatten(2)[0].T.to(table.dtype)  # (rows * columns, width)


def sincos_positions(side: int, width: int) -> torch.Tensor:
    """Sin-cos positions of a square grid (MAE, arXiv 2111.06377), float32 (side * side, width).

    The first half of the width tells the column, the second the row; each half is its sines, then its
    cosines.
    """
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, quarter)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    of_column, of_row = axis[None, :].expand(side, -1, -1), axis[:, None].expand(-1, side, -1)
    grid = torch.cat([of_column, of_row], dim=-1)  # (row, column, width)
    return grid.flatten(0, 1).float()


class OmniLMMVisionAttention(nn.Module):
    """Attention of all patches to all patches.

    Queries and values have a bias, keys have none.
    """

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: OmniLMMVisionConfig):
        super().__init__()
        self.config, width = config, config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Attention of all tokens to all, (batch, tokens, width)."""
        batch, tokens, width = hidden.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])  # (3 * width,)
        qkv = self.qkv(hidden) + bias  # (batch, tokens, 3 * width)
        qkv = qkv.view(batch, tokens, 3, -1, self.head_width)  # (batch, tokens, 3, heads, head width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head width)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(self.config), eager_attention_forward)
        # (batch, tokens, heads, head width)
        read, _ = attend(self, query, key, value, None, scaling=self.head_width**-0.5)
        return self.proj(read.reshape(batch, tokens, width))


class OmniLMMVisionBlock(GradientCheckpointingLayer):
    """One layer; "residual post-norm": a norm follows attention and MLP, before each is added."""

    def __init__(self, config: OmniLMMVisionConfig):
        super().__init__()
        width = config.hidden_size
        self.attn = OmniLMMVisionAttention(config)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, config.intermediate_size),
                "fc2": nn.Linear(config.intermediate_size, width),
            }
        )
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The tokens after attention and feed-forward, (batch, tokens, width)."""
        hidden = hidden + self.norm1(self.attn(hidden))  # (batch, tokens, width)
        return hidden + self.norm2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](hidden))))


class OmniLMMVisionTower(PreTrainedModel):
    """EVA-02-CLIP-E without its last block.

    Learnt positions for the image size that it was pretrained with are resampled to the image at hand.
    """

    config: OmniLMMVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["OmniLMMVisionBlock"]
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(self, config: OmniLMMVisionConfig):
        super().__init__(config)
        width, side = config.hidden_size, config.pretrain_image_size // config.patch_size
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)}
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side * side, width))
        self.blocks = nn.ModuleList(OmniLMMVisionBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OmniLMMVisionAttention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)
        elif module is self:
            init.normal_(self.cls_token, std=self.config.initializer_range)
            init.normal_(self.pos_embed, std=self.config.initializer_range)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width in pixels) to (images, patches, width)."""
        embed = self.patch_embed["proj"]
        patches = embed(pixel_values.to(embed.weight.dtype))  # (images, width, rows, columns)
        rows, columns = patches.shape[-2:]
        table = resample_positions(self.pos_embed[0, 1:], rows, columns, antialias=True)  # (patches, width)
        of_class = self.cls_token.expand(len(patches), -1, -1)  # (images, 1, width)
        hidden = torch.cat([of_class, patches.flatten(2).mT], dim=1)  # (images, 1 + patches, width)
        hidden = hidden + torch.cat([self.pos_embed[0, :1], table])
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)[:, 1:]  # without the class token


class OmniLMMResampler(nn.Module):
    """``num_query`` learnt queries that read the patches once, by cross-attention.

    Qwen-VL (arXiv 2308.12966) has the same.

    Raises:
        UserError: The config's numbers don't fit one another.
    """

    pos_embed: torch.Tensor

    def __init__(self, config: OmniLMMConfig):
        super().__init__()
        hidden, width, heads = (
            config.hidden_size,
            config.vision_config.hidden_size,
            config.hidden_size // RESAMPLER_HEAD_WIDTH,
        )
        if math.isqrt(config.num_query) ** 2 != config.num_query:
            raise UserError(
                f"num_query={config.num_query} of an OmniLMM config is no square number, but its queries "
                "lie on a square grid."
            )
        if not heads or hidden % heads or hidden % 4:
            raise UserError(
                f"hidden_size={hidden} of an OmniLMM config should be a multiple of {RESAMPLER_HEAD_WIDTH}, "
                "the resampler's head width."
            )
        self.query = nn.Parameter(torch.empty(config.num_query, hidden))
        # The checkpoint holds these positions. A buffer, so that no optimiser ever takes them for weights.
        self.register_buffer("pos_embed", torch.empty(config.num_query, hidden))
        self.kv_proj = nn.Linear(width, hidden, bias=False) if width != hidden else nn.Identity()
        self.attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(hidden, eps=RESAMPLER_NORM_EPS)
        self.ln_kv = nn.LayerNorm(hidden, eps=RESAMPLER_NORM_EPS)
        self.ln_post = nn.LayerNorm(hidden, eps=RESAMPLER_NORM_EPS)
        self.proj = nn.Parameter(torch.empty(hidden, hidden))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(images, patches, vision width) of square images to (images, num_query, hidden)."""
        side = math.isqrt(patches.shape[1])
        values = self.ln_kv(self.kv_proj(patches))  # (images, patches, hidden)
        positions = self.pos_embed.to(values.dtype)  # (num_query, hidden)
        of_patches = resample_positions(positions, side, side, antialias=False)  # (patches, hidden)
        keys = values + of_patches  # (images, patches, hidden)
        queries = self.ln_q(self.query) + positions  # (num_query, hidden)
        queries = queries.expand(len(patches), -1, -1)  # (images, num_query, hidden)
        read, _ = self.attn(queries, keys, values, need_weights=False)  # (images, num_query, hidden)
        return self.ln_post(read) @ self.proj
