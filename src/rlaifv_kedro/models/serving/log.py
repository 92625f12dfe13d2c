"""What a server's log says of its end."""

import re
from typing import NamedTuple

from rlaifv_kedro.formats import shortened

TAIL = 20
"""Lines of a log that a message shows where nothing is known about them."""
_PREFIX = re.compile(r"^\(\w+(?: pid=\d+)?\) (?:(?:ERROR|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]+\] ?)?")


class Cause(NamedTuple):
    """Lines of a log that tell why a server ended, and what to do."""

    line: re.Pattern[str]
    remedy: str


_MEMORY = (
    "Free the machine's memory, or ask for less: "
    "set max-model-len or gpu-memory-utilization in serving.engine_options (on a CPU "
    "VLLM_CPU_KVCACHE_SPACE in serving.environment), or raise serving.gpus_per_server"
)
CAUSES = (
    Cause(
        re.compile(r"No module named '?vllm|Error while finding module specification for 'vllm"),
        "The environment of serving.python has no vLLM: make vllm-env makes one for CPUs, docs/serving.md "
        "says how on GPUs",
    ),
    Cause(
        re.compile(r"can't be run: "),
        "Set serving.python to the interpreter of an environment that has vLLM (docs/serving.md)",
    ),
    Cause(
        re.compile(r"unrecognized arguments: |error: argument --|ambiguous option: |Value error, "),
        "Look at serving.engine_options; docs/serving.md names the vLLM that is known to work",
    ),
    Cause(re.compile(r"[Aa]ddress already in use"), "Set serving.ports to other ones"),
    Cause(
        re.compile(
            r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|"
            r"is less than desired GPU memory utilization|larger than the available KV cache memory|"
            r"larger than the maximum number of tokens that can be stored in KV cache|"
            r"is less than requested memory for kv|"
            r"Cannot allocate memory|can't allocate memory|[Nn]ot enough memory"
        ),
        _MEMORY,
    ),
    Cause(
        re.compile(r"was ended by SIGKILL"),
        "Someone killed it, or the machine had no memory left (dmesg). " + _MEMORY,
    ),
    Cause(
        re.compile(r"Model architectures .* (?:are|is) not supported|has no vLLM implementation"),
        "vLLM doesn't know this kind of model: take backend: transformers",
    ),
    Cause(
        re.compile(r"Unsupported CPU attention|head size|head_dim="),
        "vLLM's attention doesn't take this model's heads here: take backend: transformers",
    ),
    Cause(
        re.compile(r"There is no module or parameter named"),
        "vLLM knows the weights by other names: merge or save the checkpoint with this version, or take "
        "backend: transformers",
    ),
    Cause(
        re.compile(r"operator torchvision::\w+ does not exist"),
        "torchvision is built for another torch: make vllm-env shows how it is loaded nevertheless",
    ),
)
"""In the order in which they are looked for; the first line that one of them matches counts."""
_HARMLESS = re.compile(r"^(?:\(\w+(?: pid=\d+)?\) )?(?:WARNING|INFO) ")
_ERROR = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception|error)\b: \S")


_FOLLOWS = "Engine core initialization failed"


def why_it_ended(log: str) -> str:
    """The telling line of a log and what to do; without one the last line with an error, or the log's end."""
    telling = [line for line in log.splitlines() if not _HARMLESS.search(line)]
    lines = [_PREFIX.sub("", line).strip() for line in telling]
    for cause in CAUSES:
        told = [line for line in lines if cause.line.search(line)]
        if told:
            return f"{_as_sentence(told[-1])} {cause.remedy}."
    # What follows the engine's own error says only that there was one.
    errors = [line for line in lines if _ERROR.search(line) and _FOLLOWS not in line]
    if errors:
        return _as_sentence(errors[-1])
    return "its log ends with:\n" + "\n".join(lines[-TAIL:])


def _as_sentence(line: str) -> str:
    return shortened(line, 400).rstrip(".") + "."


def port_was_taken(log: str) -> bool:
    """Whether the server ended since another one has its port."""
    return "ddress already in use" in log
