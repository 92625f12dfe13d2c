"""Rules about the machine: GPU memory stage by stage, and the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlaifv_kedro.params import VLLMParams
from rlaifv_kedro.preflight import machine, sizes
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.preflight.sizes import ModelSize
from rlaifv_kedro.tags import Task


@dataclass(frozen=True)
class Need:
    """GPU memory that a stage takes.

    Attributes:
        bytes: Worked out, not measured.
        spread: Whether its models are spread over all GPUs.
    """

    stage: str
    bytes: int
    spread: bool = False


def memory_suffices(setup: RunSetup) -> Iterator[Finding]:
    """Each stage whose models are known fits the GPU."""
    gpus, device = machine.gpus(), setup.parameters.compute.device
    if device == "cuda" or (device == "auto" and gpus):
        for need in memory_needs(setup, setup.sizes):
            yield machine.check_memory(need.stage, need.bytes, gpus, spread=need.spread)


def disk_suffices(setup: RunSetup, folder: Path) -> Iterator[Finding]:
    """What the run writes fits on the disk of its data folder."""
    policy = setup.sizes.get("policy")
    image_bytes, iterations = setup.inputs.image_bytes, setup.iterations()
    parts = sizes.run_disk(setup.parameters, policy, image_bytes, iterations, setup.written)
    if parts:
        untold = setup.does(Task.TRAINING) and policy is None
        note = "Checkpoints are not counted: the policy's size can't be told before it is there."
        yield machine.check_disk(parts, folder, note if untold else "")


def memory_needs(setup: RunSetup, known: dict[str, ModelSize]) -> Iterator[Need]:
    """What each stage needs whose models' sizes are known.

    Args:
        known: Sizes by role.
    """
    parameters, asked = setup.parameters, setup.asked()
    generation, feedback, compute = parameters.data_generation, parameters.feedback, parameters.compute

    def dtype(role: str) -> str:
        return asked[role].dtype or compute.dtype

    def spread(*roles: str) -> bool:
        return all(getattr(asked[role], "device_map", None) for role in roles)

    served = {
        role: params for role, params in asked.items() if isinstance(params, VLLMParams) and role in known
    }
    if served:
        yield Need(
            "serving",
            max(
                sizes.serving_memory(known[role], params.serving, dtype(role))
                for role, params in served.items()
            ),
        )
    here = {role: size for role, size in known.items() if role not in served}
    if "policy" in here and setup.does(Task.SAMPLING):
        needed = sizes.sampling_memory(here["policy"], generation, dtype("policy"))
        yield Need("sampling", needed, spread("policy"))
    dividers = [role for role in ("splitter", "question_writer") if role in asked and role in here]
    if dividers and setup.does(Task.DIVIDING):
        loaded = [(here[role], dtype(role)) for role in dividers]
        needed = sizes.dividing_memory(
            loaded, feedback.splitter_batch_size, feedback.splitter_max_new_tokens, generation.max_new_tokens
        )
        yield Need("dividing", needed, spread(*dividers))
    role = "policy" if feedback.labeler == "self" else "labeler"
    if role in here and role in asked and setup.does(Task.LABELING):
        needed = sizes.labeling_memory(
            here[role], feedback.batch_size, compute.max_tokens_per_pack, dtype(role)
        )
        yield Need("labeling", needed, spread(role))
    policy = known.get("policy")
    if policy and setup.does(Task.TRAINING):
        needed = sizes.training_memory(policy, parameters.training, generation.max_new_tokens, compute.dtype)
        yield Need("training", needed)
