"""A DPO step, forward and backward: the vision tower frozen, projector and language model learning, reference
log-probs given, no optimiser.

Ours is one pack [prompt | answers] for all pairs of a prompt. "concatenation" is the original release's way:
each answer a row of its own with the prompt and its image, right-padded, log-softmax over all positions.
"TRL" is the loss of TRL's own ``DPOTrainer`` on the same token ids. Batches are made before the clock starts,
as a data loader makes them beside the training.
"""

import argparse
import copy
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from operations import Work
from release_way import concatenated_log_probs
from side_by_side import ROUNDED, Bench, Result, SavedActivations, compare, run, with_speed

from rlaifv_kedro.branching import PackedBatch, branch_log_probs, collate, pack
from rlaifv_kedro.branching.forward import BranchLogProbs
from rlaifv_kedro.preference.loss import Objective, preference_loss

BETA = 0.1
TARGETS = {
    "concatenation": ("≥ 1.7", "≥ 2.6"),
    "TRL": ("≥ 2.2", "≥ 3.2"),
    "TRL and reference": ("≥ 2.2", "≥ 3.2"),
}
EXACT = {"losses": 1e-4, "gradients": 5e-5}  # in float32


@dataclass(frozen=True)
class Pairs:
    """Pairs of one prompt: token ids, the image (1, 3, height, width), reference log-probs (pairs,)."""

    prompt: list[int]
    chosen: list[list[int]]
    rejected: list[list[int]]
    pixel_values: torch.Tensor
    pad: int
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor

    @property
    def rows(self) -> list[list[int]]:
        """Chosen answers, then rejected ones, each behind its prompt."""
        return [self.prompt + answer for answer in (*self.chosen, *self.rejected)]


def measure(bench: Bench) -> Iterator[Result]:
    cases = [draw(bench, count) for count in (1, 2)]
    bench.model.train()
    bench.model.model.vision_tower.requires_grad_(False)
    if bench.options.checkpointing:
        bench.model.activation_checkpointing_enable()
    for pairs in cases:
        yield from against(bench, pairs, "concatenation", concatenation(bench, pairs))
    with TemporaryDirectory() as folder:
        trainer = trl_trainer(bench, Path(folder))  # it patches the model's forward, so the others came first
        for pairs in cases:
            trainer.precompute_ref_logps = True
            yield from against(bench, pairs, "TRL", trl(trainer, bench, pairs))
            trainer.precompute_ref_logps = False
            yield from against(bench, at_start(bench, pairs), "TRL and reference", trl(trainer, bench, pairs))


def draw(bench: Bench, count: int) -> Pairs:
    texts = bench.texts(seed=count)
    prompt = texts.prompt(30)
    answers = texts.answers(bench.model, prompt, texts.lengths(2 * count, 90, 110))
    chosen, rejected = answers[:count], answers[count:]
    pairs = Pairs(
        prompt, chosen, rejected, texts.pixel_values, texts.pad_id, torch.zeros(count), torch.zeros(count)
    )
    with torch.no_grad():
        policy = branch_log_probs(bench.model, packed(bench, pairs), pixel_values=texts.pixel_values).sums
    # A reference near the policy, as in training: far away the loss is flat and its gradient nothing.
    offsets = torch.linspace(-4, 4, 2 * count, device=bench.device)
    near_chosen, near_rejected = (policy + offsets).split(count)
    return replace(pairs, reference_chosen=near_chosen, reference_rejected=near_rejected)


def at_start(bench: Bench, pairs: Pairs) -> Pairs:
    """With the policy itself as reference: TRL's reference model is a copy of it."""
    with torch.no_grad():
        policy = branch_log_probs(bench.model, packed(bench, pairs), pixel_values=pairs.pixel_values).sums
    chosen, rejected = policy.split(len(pairs.chosen))
    return replace(pairs, reference_chosen=chosen, reference_rejected=rejected)


def against(bench: Bench, pairs: Pairs, name: str, peer_loss: Callable[[], torch.Tensor]) -> Iterator[Result]:
    batch = packed(bench, pairs)
    learning = [p for p in bench.model.parameters() if p.requires_grad]

    def ours_loss() -> torch.Tensor:
        return loss_of(branch_log_probs(bench.model, batch, pixel_values=pairs.pixel_values), pairs)

    def step(loss_fn: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = loss_fn()
        loss.backward()
        return loss.detach(), [p.grad for p in learning]

    count = len(pairs.chosen)
    label = {
        "concatenation": "concatenation: a row an answer",
        "TRL": f"TRL {trl_version()} DPOTrainer, given the reference's log-probs",
        "TRL and reference": f"TRL {trl_version()} DPOTrainer, as it runs with images: with its reference "
        "model",
    }[name]
    result = compare(
        bench,
        f"DPO step, {count} pair{'s' * (count > 1)} of a prompt",
        label,
        lambda: step(ours_loss),
        lambda: step(peer_loss),
        differences,
        EXACT if bench.exact else ROUNDED,
        lambda: SavedActivations(bench.model, [pairs.pixel_values]),
        target=f"{TARGETS[name][count - 1]}, memory ≤ 0.5",
        before=lambda: bench.model.zero_grad(set_to_none=True),
    )
    prompt_pack, again = pack(pairs.prompt, [*pairs.chosen, *pairs.rejected]), bench.options.checkpointing
    answers = sum(map(len, prompt_pack.branches))
    ours = Work.packed([prompt_pack], answers)
    # TRL's head runs on the answers' positions only, on a GPU
    peer = Work.separate([prompt_pack], None if name == "concatenation" else answers)
    works = (w.operations(bench.shape, bench.vocabulary, "all", again) for w in (ours, peer))
    yield with_speed(bench, result, *works)


def differences(
    ours: tuple[torch.Tensor, list[torch.Tensor]], peer: tuple[torch.Tensor, list[torch.Tensor]]
) -> dict[str, float]:
    """Of losses absolute; of gradients the norm of the difference over the norm."""
    norms = [
        (torch.linalg.vector_norm((a - b).float()), torch.linalg.vector_norm(b.float()))
        for a, b in zip(ours[1], peer[1])
    ]
    apart, whole = (torch.linalg.vector_norm(torch.stack(column)) for column in zip(*norms))
    return {"losses": float((ours[0] - peer[0]).abs()), "gradients": float(apart / whole)}


def packed(bench: Bench, pairs: Pairs) -> PackedBatch:
    """Ours: the prompt once, behind it the chosen, then the rejected answers."""
    return collate([pack(pairs.prompt, [*pairs.chosen, *pairs.rejected])], pairs.pad).to(bench.device)


def padded(bench: Bench, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and mask of the answers' tokens, (rows, longest) each."""
    longest = max(map(len, pairs.rows))
    ids = torch.tensor([row + [pairs.pad] * (longest - len(row)) for row in pairs.rows], device=bench.device)
    mask = (ids != pairs.pad).long()
    answers = mask.clone()
    answers[:, : len(pairs.prompt)] = 0
    return ids, mask, answers


def concatenation(bench: Bench, pairs: Pairs) -> Callable[[], torch.Tensor]:
    """The original's way, with transformers' best attention for right-padded rows."""
    return lambda: loss_of(
        concatenated_log_probs(bench.model, packed(bench, pairs), pixel_values=pairs.pixel_values), pairs
    )


def loss_of(scored: BranchLogProbs, pairs: Pairs) -> torch.Tensor:
    """The DPO loss of the pairs, from the log-probs of the chosen and then the rejected answers."""
    chosen, rejected = scored.sums.split(len(pairs.chosen))
    references = pairs.reference_chosen, pairs.reference_rejected
    return preference_loss(chosen, rejected, *references, Objective(beta=BETA)).loss


def trl(trainer: Any, bench: Bench, pairs: Pairs) -> Callable[[], torch.Tensor]:
    """``DPOTrainer.compute_loss`` on a batch in the form of its vision collator: rows chosen then rejected,
    flush left, an image a row.

    Timed is the loss as TRL computes it, its metrics and all, and the backward pass. Not timed: its collator
    and the optimiser.
    """
    ids, mask, answers = padded(bench, pairs)
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "completion_mask": answers,
        "pixel_values": pairs.pixel_values.repeat(len(ids), 1, 1, 1),
        "ref_chosen_logps": pairs.reference_chosen,
        "ref_rejected_logps": pairs.reference_rejected,
    }
    return lambda: trainer.compute_loss(bench.model, batch)


def trl_trainer(bench: Bench, folder: Path) -> Any:
    """TRL's trainer around the model.

    TRL refuses ``precompute_ref_log_probs`` for data with images: each of its steps runs a reference model
    too. It is timed as it is, and, with the switch set after construction, reading the reference's log-probs
    from the batch as ours does. Dataset and processor are stubs; batches are made above.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # TRL would report that it was constructed
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from rlaifv_kedro.miniature.tiny_llava import build_processor

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # TRL still uses the former name of activation checkpointing
        arguments = DPOConfig(
            output_dir=str(folder),
            beta=BETA,
            bf16=False,
            use_cpu=bench.device == "cpu",
            report_to=[],
            max_length=None,
        )
    stub = Dataset.from_list([{"images": [], "prompt": "", "chosen": "", "rejected": ""}])
    reference = copy.deepcopy(bench.model).eval().requires_grad_(False)
    return DPOTrainer(
        bench.model, reference, arguments, train_dataset=stub, processing_class=build_processor()
    )


def trl_version() -> str:
    from importlib.metadata import version

    return ".".join(version("trl").split(".")[:2])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpointing", action="store_true", help="gradient checkpointing, for ours and peers"
    )


if __name__ == "__main__":
    run(__doc__, measure, add_options)
