"""Packages, servers, GPU memory and disk."""

import importlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line, gigabytes
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.params import OpenAIParams
from rlaifv_kedro.preflight.finding import Finding, refusal

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.server_chats import ChatServers

LOWER_MEMORY = {
    "training": "Train adapters (--params training.lora.rank=64,training.learning_rate=1e-5), lower "
    "training.micro_batch_size, or take a larger GPU.",
    "serving": "Raise serving.gpus_per_server of the model, or take a larger GPU.",
    "sampling": "Lower data_generation.batch_size, or take a larger GPU.",
    "dividing": "Lower feedback.splitter_batch_size, unset models.question_writer, serve the splitter "
    "(backend: openai), or take a larger GPU.",
    "labeling": "Lower feedback.batch_size, serve the labeler (backend: openai), or take a larger GPU.",
}
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class GPU:
    """A GPU as torch sees it; bytes."""

    name: str
    free: int
    total: int


def gpus() -> list[GPU]:
    """The visible GPUs."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        GPU(torch.cuda.get_device_name(k), *torch.cuda.mem_get_info(k))
        for k in range(torch.cuda.device_count())
    ]


def gpu_count() -> int:
    """How many GPUs torch sees; unlike :func:`gpus` it takes no memory of them."""
    import torch

    return torch.cuda.device_count()


def computes_on_cpu(device: str) -> bool:
    """Whether ``compute.device`` means the CPU here."""
    return device == "cpu" or (device == "auto" and not gpu_count())


def missing_gpu(device: str, count: int) -> Finding | None:
    """A finding if a GPU is asked for and there is none.

    Args:
        count: How many there are.
    """
    if device != "cuda" or count:
        return None
    remedy = (
        "Run where a GPU is (nvidia-smi lists them), with the torch of its CUDA version; or "
        "--params compute.device=cpu for a try."
    )
    what = "GPU: torch sees none here, and compute.device is cuda"
    return Finding(False, what, "compute.device", remedy)


def check_device(device: str, found: list[GPU], largest: int) -> Finding:
    """Which GPUs there are, and whether that is what was asked for.

    Args:
        largest: Parameters of the largest model of the run.
    """
    missing = missing_gpu(device, len(found))
    if missing is not None:
        return missing
    if not found:
        slow = "On a CPU a model of billions of parameters takes weeks." if largest > 1e9 else ""
        return Finding(True, "GPU: none is used", "compute.device", slow)
    listed = ", ".join(f"{gpu.name}, {gigabytes(gpu.free)} of {gigabytes(gpu.total)} free" for gpu in found)
    note = "It stays idle: compute.device=cpu." if device == "cpu" else ""
    return Finding(True, f"GPU: {listed}", "compute.device", note)


def check_memory(stage: str, needed: int, found: list[GPU], spread: bool) -> Finding:
    """Whether a stage fits.

    Args:
        needed: Bytes, worked out.
        spread: Whether ``device_map`` spreads its models over all GPUs.
    """
    what = f"{stage} takes about {gigabytes(needed)} of GPU memory"
    if not found:
        return Finding(
            True, what, "GPU memory", "Worked out, not measured; there is no GPU here to compare it with."
        )
    free = sum(gpu.free for gpu in found) if spread else found[0].free
    ok = needed <= free
    return Finding(ok, f"{what}, {gigabytes(free)} are free", "GPU memory", "" if ok else LOWER_MEMORY[stage])


def check_disk(parts: dict[str, int], folder: Path, note: str = "") -> Finding:
    """Whether what a run writes fits on the disk of its data folder.

    Args:
        parts: Bytes by kind.
        note: What to say even if it fits.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, sum(parts.values())
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in largest if size)
    what = (
        f"disk: the run writes about {gigabytes(needed)}"
        + (f" ({listed})" if listed else "")
        + f", {gigabytes(free)} are free"
    )
    remedy = (
        "Make room, put data/ on a larger disk (a link will do), raise training.checkpoint_every, or "
        "train adapters (training.lora)."
    )
    return Finding(needed <= free, what, shown(folder), note if needed <= free else remedy)


def check_package(name: str, needed_for: str, remedy: str) -> Finding:
    """Whether a package can be imported.

    To find it isn't enough: a torchvision of another build is there, and breaks on import.
    """
    if importlib.util.find_spec(name) is None:
        return Finding(
            False, f"the package {name} is not installed; {needed_for} needs it", needed_for, remedy
        )
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        return Finding(
            False,
            f"the package {name} can't be imported: {first_line(error)}; {needed_for} needs it",
            needed_for,
            remedy,
        )
    return Finding(True, f"the package {name} is there", needed_for)


def server(params: OpenAIParams) -> "ChatServers":
    """The server that parameters name; nothing is asked of it.

    Raises:
        UserError: They name none, no possible key, or a checkpoint to count tokens by that isn't there.
    """
    from rlaifv_kedro.models.backends.server_chats import ChatServers

    if params.tokenizer is not None:
        CheckpointFolder(folder_of(params.tokenizer)).with_config("Correct tokenizer under models.<role>.")
    return ChatServers(params, first_pause=0.5)


def check_server(role: str, params: OpenAIParams) -> list[Finding]:
    """Whether the server answers, takes the key and serves the model."""
    where = " and ".join(params.urls)
    if refused := refusal(f"{role}: its server can't be used", where, lambda: server(params).check()):
        return refused
    parts, note = [urlsplit(url) for url in params.urls], ""
    if not os.environ.get(params.api_key_variable):
        note = f"{params.api_key_variable} is not set; the server seems to want no key."
    elif any(part.scheme == "http" and part.hostname not in _THIS_MACHINE for part in parts):
        note = "The key and all that is asked go there unencrypted; take https where the server has it."
    answers = "the server answers and serves" if len(parts) == 1 else f"{len(parts)} servers answer and serve"
    return [Finding(True, f"{role}: {answers} {params.model}", where, note)]
