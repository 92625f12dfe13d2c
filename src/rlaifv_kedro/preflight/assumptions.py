"""What the dry run can't know and has to assume.

Each figure has its source and can be replaced, and all of them are shown with the result.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Params
from rlaifv_kedro.params.messages import explain


class Assumptions(Params):
    """Lengths, counts and speeds.

    Those with "H200" were measured on one, with LLaVA-1.5-7B's shape in bfloat16 (perf/gpu_check.py;
    docs/performance.md). That machine's CPU took 30 µs to start a kernel, which sets what is least a layer.
    """

    answer_tokens: float = Field(
        100,
        gt=0,
        description="tokens of an answer, at most max_new_tokens. The method's beta of 0.1 is for such "
        "answers",
    )
    longest: float = Field(
        2, ge=1, description="the longest answer of a batch over the mean one: the whole batch waits for it"
    )
    claims: float = Field(
        6, gt=0, description="claims an answer. Release: about 60 questions an image with 10 candidates"
    )
    claim_tokens: float = Field(
        15, gt=0, description="tokens of a claim, or of its question, in a splitter's list"
    )
    question_tokens: float = Field(
        25, gt=0, description="tokens of a yes/no question with what the template puts around it"
    )
    tokens_per_word: float = Field(1.3, gt=0, description="of the splitter's prompts")
    pairs_per_prompt: float | None = Field(
        None,
        gt=0,
        description="pairs kept a prompt. Without it all of feedback.pairs_per_prompt: the most there can be",
    )
    selection_prompts: int = Field(
        300,
        ge=1,
        description="prompts to choose checkpoints on, where their table is missing (docs/recipes.md: 300)",
    )
    test_prompts: int = Field(
        400, ge=1, description="prompts to report on, where their table is missing (docs/recipes.md: 400)"
    )
    probes_per_prompt: float = Field(
        6, gt=0, description="yes/no questions about a test image, where their table is missing"
    )
    image_bytes: float = Field(
        120_000, ge=0, description="bytes of an image, where the prompt pool is missing"
    )
    mfu_prefill: float = Field(
        0.35,
        gt=0,
        le=1,
        description="share of the GPU's peak with many tokens at once. H200: 0.30 to 0.38",
    )
    mfu_train: float = Field(
        0.3,
        gt=0,
        le=1,
        description="the same in training. H200: 0.28 to 0.34",
    )
    bandwidth_share: float = Field(
        0.6, gt=0, le=1, description="share of the memory's peak bandwidth that decoding reaches"
    )
    layer_ms: float = Field(
        0.9, ge=0, description="least ms a layer of a decoding step. H200: 0.75 with 10 samples, 0.92 with 80"
    )
    train_layer_ms: float = Field(
        3.6, ge=0, description="least ms a layer of a forward pass with its backward pass. H200: 3.6"
    )
    lora_layer_ms: float = Field(
        13.5, ge=0, description="the same with adapters, whose matrices are many and small. H200: 13.5"
    )
    disk_gb_s: float = Field(
        1, gt=0, description="GB/s of reading and writing checkpoints, while the GPU waits"
    )

    def described(self) -> list[tuple[str, Any, str]]:
        """(name, value, what it is and where it is from)."""
        return [
            (name, getattr(self, name), field.description or "")
            for name, field in type(self).model_fields.items()
        ]


def assumed(given: dict[str, Any]) -> Assumptions:
    """The assumptions with some replaced.

    Raises:
        UserError: One is unknown or impossible.
    """
    try:
        return Assumptions.model_validate(given)
    except ValidationError as error:
        lines = [f"  - {explain(problem, Assumptions)}" for problem in error.errors()]
        raise UserError("--assume: not usable:\n" + "\n".join(lines)) from error


@dataclass(frozen=True)
class GPU:
    """A GPU by its vendor's data sheet.

    Attributes:
        title: As people write it.
        flops: Peak operations a second in bfloat16 with float32 sums, without sparsity.
        bandwidth: Peak bytes a second from its memory.
        memory: Bytes.
    """

    title: str
    flops: float
    bandwidth: float
    memory: float


GPUS = {
    "a100-80gb": GPU("A100 80 GB SXM", 312e12, 2.039e12, 80e9),
    "h100": GPU("H100 SXM", 989e12, 3.35e12, 80e9),
    "h200": GPU("H200 SXM", 989e12, 4.8e12, 141e9),
    "l40s": GPU("L40S", 362e12, 0.864e12, 48e9),
    "rtx4090": GPU("RTX 4090", 165e12, 1.008e12, 24e9),
}
"""NVIDIA's data sheets (for the RTX 4090 appendix A of the Ada whitepaper); where these give figures with
sparsity, half of them.
"""
