"""What the machine is, and how fast it multiplies and copies: the ceilings of all that follows."""

from collections.abc import Iterator

import torch
from gpu.setting import GIB, Row, Setting


def ceiling_rows(setting: Setting) -> Iterator[Row]:
    """A large product in bfloat16, and a copy in memory."""
    side, numbers = (8192, 2**30) if setting.device == "cuda" else (256, 2**16)
    left, right = (torch.randn(side, side, device=setting.device).bfloat16() for _ in range(2))
    seconds = setting.seconds(lambda: left @ right)
    yield {"what": f"product of bfloat16 matrices, {side} x {side}", "TFLOP/s": 2 * side**3 / seconds / 1e12}
    source = torch.randn(numbers, device=setting.device)
    target = torch.empty_like(source)
    seconds = setting.seconds(lambda: target.copy_(source))
    moved = 2 * source.numel() * source.element_size()
    yield {"what": "copy, bytes read and written", "TB/s": moved / seconds / 1e12}
    if setting.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield {"what": "memory", "GiB": total / GIB, "free GiB": free / GIB}
