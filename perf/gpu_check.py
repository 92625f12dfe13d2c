"""What one GPU shows in eight minutes: equal numbers, speed beside the release's way, memory as estimated.

    python perf/gpu_check.py --out gpu.json             # on a machine with a GPU; needs no network
    python perf/gpu_check.py --show gpu.json            # the tables of docs/performance.md
    python perf/gpu_check.py --device cpu --shape tiny --out cpu.json   # proves every part without a GPU

Each part runs in a process of its own, those of most worth first, within what is left of ``--budget`` and,
on a GPU, within its own limit. A part that fails or isn't reached says so in the JSON, and costs the others
nothing. Ways that are timed beside each other have been compared before. What must lie beside the repository:
perf/gpu_wheels.py.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
BUDGET = 480.0  # seconds
VERSIONS = ("torch", "transformers", "accelerate", "peft", "deepspeed", "trl", "kedro", "numpy")
SHOWN_ERROR = 600  # characters


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        rows: Module and function that yields its rows.
        limit: Seconds that it may take on a GPU.
    """

    name: str
    about: str
    rows: tuple[str, str]
    limit: float


PARTS = [
    Part("ceilings", "what the machine reaches by itself", ("gpu.machine", "ceiling_rows"), 30),
    Part("equality", "packed branches beside separate sequences", ("gpu.equality", "equality_rows"), 60),
    Part("feedback", "60 questions about an image", ("gpu.steps", "feedback_rows"), 60),
    Part("lora", "steps of the trainer with adapters", ("gpu.training", "lora_rows"), 150),
    Part("sampling", "10 answers of 64 tokens", ("gpu.steps", "sampling_rows"), 120),
    Part("reference", "log-probs of answers of 100 tokens", ("gpu.steps", "reference_rows"), 60),
    Part("attention", "the mask, pieces, variable lengths", ("gpu.attention", "attention_rows"), 90),
    Part("miniature", "its training on the CPU and here", ("gpu.miniature", "device_rows"), 60),
    Part("zero2", "its training under ZeRO-2", ("gpu.miniature", "zero_rows"), 120),
    Part("gradients", "a DPO step of all weights, without optimiser", ("gpu.steps", "gradient_rows"), 90),
    Part("full", "full fine-tuning, as the recipes have it", ("gpu.training", "full_rows"), 90),
    Part(
        "offload",
        "the same under ZeRO-2, Adam's state in the host's memory",
        ("gpu.training", "offload_rows"),
        240,
    ),
]


def main() -> None:
    given = _arguments()
    if given.show:
        from gpu.report import markdown

        print(markdown(json.loads(given.show.read_text())), end="")
    elif given.part:
        _measure(next(p for p in PARTS if p.name == given.part), given)
    else:
        _check(given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file, written anew after each part")
    parser.add_argument("--show", type=Path, help="print such a file as markdown")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--shape", choices=["tiny", "llava-7b"], default="llava-7b")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts")
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PARTS], help="these parts")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU in bfloat16, for MFU")
    parser.add_argument("--part", choices=[p.name for p in PARTS], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.show and not given.out:
        parser.error("give --out FILE, or --show FILE")
    return given


def _check(given: argparse.Namespace) -> None:
    """Run the parts one after another, and write what is known after each."""
    start = time.monotonic()
    found = _circumstances(given)
    for part in PARTS:
        if given.only and part.name not in given.only:
            continue
        left = given.budget - (time.monotonic() - start)
        limit = min(part.limit, left) if given.device == "cuda" else left
        found["parts"].append(_run(part, given, limit))
        found["seconds"] = time.monotonic() - start
        given.out.write_text(json.dumps(found, indent=2) + "\n")
        done = found["parts"][-1]
        print(
            f"{part.name}: {len(done['rows'])} rows, {done['seconds']:.0f} s"
            + (f", not done: {done['error'].splitlines()[0]}" if done["error"] else ""),
            flush=True,
        )


def _run(part: Part, given: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A part in a process group of its own, which is killed when its time is over."""
    done = {"name": part.name, "about": part.about, "rows": [], "seconds": 0.0, "error": None}
    if limit < 1:
        return done | {"error": "not reached: the budget was spent"}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        done["error"] = _wait(_started(part, given, rows), limit)
        if rows.is_file():
            done["rows"] = [json.loads(line) for line in rows.read_text().splitlines()]
    return done | {"seconds": time.monotonic() - start}


def _started(part: Part, given: argparse.Namespace, rows: Path) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).resolve()), "--part", part.name, "--out", str(rows)]
    command += ["--device", given.device, "--shape", given.shape, "--peak-tflops", str(given.peak_tflops)]
    # The project need not be installed on the other machine.
    sources = os.pathsep.join(filter(None, [str(PROJECT / "src"), os.environ.get("PYTHONPATH")]))
    # What DeepSpeed compiles lies with the rows: a part that is killed while it compiles leaves a lock, for
    # which whoever needs the same extension would wait for ever.
    own = {"PYTHONPATH": sources, "TORCH_EXTENSIONS_DIR": str(rows.parent / "extensions")}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **own},
    )


def _wait(process: subprocess.Popen, limit: float) -> str | None:
    """Why the process did not end well, or None; nothing of it computes on beside the next part."""
    try:
        said, _ = process.communicate(timeout=limit)
        return None if process.returncode == 0 else _error(said)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s, its limit or what the budget left"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _error(said: str) -> str:
    """What a part died of, and what it said after that; libraries go on talking at its end."""
    raised = list(re.finditer(r"^[\w.]+(?:Error|Exception|Different|Differ)\b.*", said, re.MULTILINE))
    start = raised[-1].start() if raised else max(0, len(said) - SHOWN_ERROR)
    return said[start : start + SHOWN_ERROR].strip()


def _measure(part: Part, given: argparse.Namespace) -> None:
    """One part in this process: a line of JSON a row, as soon as it is known."""
    import torch
    from gpu.setting import Setting

    if given.device == "cpu":
        torch.set_num_threads(1)
    module, function = part.rows
    measure: Callable[[Setting], Iterator[dict[str, Any]]] = getattr(import_module(module), function)
    with given.out.open("a") as file:
        for row in measure(Setting.of(given.device, given.shape, given.peak_tflops)):
            print(json.dumps(row), file=file, flush=True)


def _circumstances(given: argparse.Namespace) -> dict[str, Any]:
    """Where and of what the check is made."""
    name = _device_name(given.device)
    git = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    return {
        "device": name,
        "shape": given.shape,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "versions": {name: _version(name) for name in VERSIONS},
        "budget": given.budget,
        "seconds": 0.0,
        "parts": [],
    }


def _device_name(device: str) -> str:
    if device == "cpu":
        return "CPU"
    import torch

    if not torch.cuda.is_available():
        sys.exit("No GPU is there. --device cpu --shape tiny proves the parts without one.")
    return torch.cuda.get_device_name()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not there"


if __name__ == "__main__":
    main()
