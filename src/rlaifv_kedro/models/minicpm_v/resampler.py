"""From the patches of a slice to a fixed number of features, by one cross-attention.

Keys have two-dimensional sin-cos positions.
"""

import numpy as np
import torch
from torch import nn

# Angular frequencies fall from 1 to 1/10000 (Attention is all you need, section 3.5).
_BASE = 10000
# Width of an attention head in the release: hidden / 128 heads.
_HEAD = 128


def sincos_positions(height: int, width: int, dim: int) -> torch.Tensor:
    """Sin-cos positions of a grid of patches, float32 (height * width, dim).

    The first half of the features tells the column, the second the row; in each, sines come before cosines.
    numpy in float32 because the release computes them so: other libraries' powers and sines differ in the
    last bits.

    Always made on the fly. The release keeps a table in a buffer that isn't saved; such a buffer is left at
    zero when transformers makes a model on the meta device, and the features lose their positions without an
    error.
    """
    quarter = dim // 4
    frequencies = 1.0 / _BASE ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))
    angles = np.arange(max(height, width), dtype=np.float32)[:, None] * frequencies  # (longer side, dim / 4)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # (longer side, dim / 2)
    line = torch.from_numpy(waves)
    columns = line[None, :width].expand(height, -1, -1)  # (height, width, dim / 2)
    rows = line[:height, None].expand(-1, width, -1)  # (height, width, dim / 2)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)


class Resampler(nn.Module):
    """The cross-attention from learnt queries to patches.

    Parameter names are the release's.

    Args:
        queries: Features a slice.
        dim: Their width, that of the language model.
        vision_dim: Width of the vision tower.
    """

    def __init__(self, queries: int, dim: int, vision_dim: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, dim))
        self.kv_proj = nn.Linear(vision_dim, dim, bias=False) if vision_dim != dim else nn.Identity()
        self.attn = nn.MultiheadAttention(dim, dim // _HEAD, batch_first=True)
        self.ln_q = nn.LayerNorm(dim, eps=1e-6)
        self.ln_kv = nn.LayerNorm(dim, eps=1e-6)
        self.ln_post = nn.LayerNorm(dim, eps=1e-6)
        self.proj = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """Features of each slice.

        Args:
            patches: (slices, patches of the largest, vision_dim). Unlike the vision tower, this attention
                doesn't see the padding.
            grids: int (slices, 2), rows and columns of patches of each slice.

        Returns:
            (slices, queries, dim)
        """
        values = self.ln_kv(self.kv_proj(patches))  # (slices, patches, dim)
        tables = [sincos_positions(height, width, values.shape[-1]) for height, width in grids.tolist()]
        positions = nn.utils.rnn.pad_sequence(tables, batch_first=True).to(values)  # (slices, patches, dim)
        lengths = torch.tensor([len(table) for table in tables], device=values.device)
        padding = torch.arange(values.shape[1], device=values.device) >= lengths[:, None]  # (slices, patches)
        queries = self.ln_q(self.query).expand(len(patches), -1, -1)  # (slices, queries, dim)
        attended, _ = self.attn(
            queries, values + positions, values, key_padding_mask=padding, need_weights=False
        )
        return self.ln_post(attended) @ self.proj
