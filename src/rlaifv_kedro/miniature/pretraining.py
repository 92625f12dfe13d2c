"""How the tiny LLaVA learns: patches to words, then captions, questions and checklists together.

The order matters. Without the alignment of patches with words the language model learns the scenes'
statistics before it learns to look, and never grounds its words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.scenes import IMAGE_SIZE, NAMES, PRIOR, SCENES, Scene
from rlaifv_kedro.miniature.tiny_llava import IMAGE_TOKENS, PATCH
from rlaifv_kedro.progress import counted
from rlaifv_kedro.seeds import generator_for

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

IGNORE = -100
SCENES_A_STEP = 48  # where patches are aligned with words
Example = tuple[list[int], list[int]]  # token ids, labels


@dataclass(frozen=True)
class JointStage:
    """One stage of joint training.

    Attributes:
        captions, questions, checklists: Examples a step of each kind.
        learning_rate, vision_learning_rate: Peak rates of AdamW (cosine to 1 %).
    """

    name: str
    steps: int
    captions: int
    questions: int
    checklists: int
    learning_rate: float
    vision_learning_rate: float


class Encoder:
    """Token ids of the miniature's conversations, equal to what its LlavaProcessor gives.

    A test holds the two together.
    """

    def __init__(self, processor: "LlavaProcessor"):
        self.tokenizer = processor.tokenizer
        self.image = self.tokenizer.convert_tokens_to_ids("<image>")
        self._cache: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._cache[text]

    def opening(self) -> list[int]:
        """What every conversation begins with: the user's mark and the image."""
        return [self.tokenizer.bos_token_id, *self("USER:"), *[self.image] * IMAGE_TOKENS]

    def conversation(self, turns: list[tuple[str, str]]) -> Example:
        """Several turns about one image.

        A yes/no answer is learnt as its word alone, a caption with its end-of-sequence token.
        """
        ids = self.opening()
        labels = [IGNORE] * len(ids)
        for i, (question, answer) in enumerate(turns):
            asked = ([] if i == 0 else self("USER:")) + self(question)
            replied = self(answer)
            ids = [*ids, *asked, *replied, self.tokenizer.eos_token_id]
            end = self.tokenizer.eos_token_id if len(replied) > 1 else IGNORE
            labels = [*labels, *[IGNORE] * len(asked), *replied, end]
        return ids, labels

    def checklist(self, items: list[tuple[str, bool]]) -> Example:
        """``which of these objects are in the image? cup yes oven no ...``: many verdicts for one prefix."""
        ids = [*self.opening(), *self(language.CHECKLIST)]
        labels = [IGNORE] * len(ids)
        for word, present in items:
            asked, replied = self(word), self("yes" if present else "no")
            ids, labels = [*ids, *asked, *replied], [*labels, *[IGNORE] * len(asked), *replied]
        return ids, labels


def pixel_values(pixels: np.ndarray) -> torch.Tensor:
    """Pixels, uint8 (n, H, W, 3), as the model takes them, float32 (n, 3, H, W).

    The arithmetic is the image processor's, without its overhead for each image.
    """
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def patch_labels(scene: Scene) -> np.ndarray:
    """What each patch shows, int64 (IMAGE_TOKENS,).

    That is the category that covers most of it, if at least a fifth, else the kind of scene.
    """
    side = IMAGE_SIZE // PATCH
    patches = scene.labels.reshape(side, PATCH, side, PATCH).transpose(0, 2, 1, 3).reshape(IMAGE_TOKENS, -1)
    counts = np.stack([(patches == c + 1).sum(1) for c in range(len(NAMES))], axis=1)
    background = len(NAMES) + SCENES.index(scene.kind)
    return np.where(counts.max(1) >= 0.2 * PATCH**2, counts.argmax(1), background)


def _learning_rate(step: int, steps: int) -> float:
    """Share of the peak rate: 30 steps of warm-up, cosine to 1 %."""
    return min(1.0, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 0.01


def align_patches(
    model: "LlavaForConditionalGeneration",
    encoder: Encoder,
    scenes: list[Scene],
    steps: int,
    learning_rate: float,
    *,
    seed: int,
    label: str,
) -> None:
    """Teach the model that a patch's vector lies near the embedding of the word for what it shows.

    Vision tower, projector and embeddings learn.

    Args:
        learning_rate: Peak rate of AdamW (cosine to 1 %).
        label: How this is called where progress is shown.
    """
    pixels = np.stack([s.pixels for s in scenes])
    targets = torch.from_numpy(np.stack([patch_labels(s) for s in scenes]))
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    embeddings = model.model.language_model.embed_tokens
    weights = [*tower.parameters(), *projector.parameters(), *embeddings.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    rng = generator_for(seed, "align")
    model.train()
    for step in counted(range(steps), label):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _learning_rate(step, steps)
        rows = rng.integers(0, len(scenes), SCENES_A_STEP)
        layers = tower(pixel_values(pixels[rows]), output_hidden_states=True).hidden_states
        features = projector(layers[-1][:, 1:])  # (batch, patches, width)
        words = [str(rng.choice(language.words_for(c))) for c in NAMES] + list(SCENES)
        # (classes, width)
        labels = torch.stack([embeddings(torch.tensor(encoder(w))).mean(0) for w in words])
        logits = features @ labels.T / (0.1 * labels.shape[1] ** 0.5)  # (batch, patches, classes)
        loss = F.cross_entropy(logits.flatten(0, 1), targets[rows].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()


def question_turns(scene: Scene, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Yes/no questions about a scene with their true answers.

    They ask for the presence of an object (half are yes), for a second one, and for the kind of scene.
    """
    counts = scene.counts
    doubled = [c for c, n in counts.items() if n > 1]
    single = [c for c, n in counts.items() if n == 1]
    usual_absent = [c for c in PRIOR[scene.kind] if c not in counts]
    absent = [c for c in NAMES if c not in counts]
    turns = []
    for _ in range(count):
        draw = rng.random()
        if draw < 0.15:
            # Most of these answers are no, as in the world: a labeler that isn't sure of a second one should
            # say no.
            yes = bool(doubled) and rng.random() < 0.5
            noun = _noun(doubled if yes else single, rng)
            turns.append((language.second_question(noun), "yes" if yes else "no"))
        elif draw < 0.2:
            yes = rng.random() < 0.5
            kind = scene.kind if yes else str(rng.choice([k for k in SCENES if k != scene.kind]))
            turns.append((language.scene_question(kind), "yes" if yes else "no"))
        elif rng.random() < 0.5:
            turns.append((language.presence_question(_noun(list(counts), rng)), "yes"))
        else:
            if rng.random() < 0.3:
                pool = scene.absent_typical or usual_absent
            else:
                pool = usual_absent if rng.random() < 0.4 else absent
            turns.append((language.presence_question(_noun(pool or absent, rng)), "no"))
    return turns


def checklist_items(scene: Scene, rng: np.random.Generator) -> list[tuple[str, bool]]:
    """All that is there, five absent categories of this kind of scene, five others; shuffled."""
    usual_absent = [c for c in PRIOR[scene.kind] if c not in scene.counts]
    other = [c for c in NAMES if c not in scene.counts and c not in usual_absent]
    items = [(c, True) for c in scene.categories]
    items += [(str(c), False) for pool in (usual_absent, other) for c in rng.permutation(pool)[:5]]
    return [(_noun([items[i][0]], rng), items[i][1]) for i in rng.permutation(len(items))]


def _noun(categories: list[str], rng: np.random.Generator) -> str:
    words = language.words_for(categories[rng.integers(len(categories))])
    return words[rng.integers(len(words))]


def _collate(examples: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    length = max(len(ids) for ids, _ in examples)
    ids = torch.full((len(examples), length), pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, (tokens, targets) in enumerate(examples):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels[row, : len(tokens)] = torch.tensor(targets)
    return ids, mask, labels


def _joint_optimiser(model: "LlavaForConditionalGeneration", stage: JointStage) -> torch.optim.AdamW:
    """Two groups of weights, the vision tower's and the others, each with its peak rate."""
    vision = list(model.model.vision_tower.parameters())
    model.model.vision_tower.requires_grad_(stage.vision_learning_rate > 0)
    known = {id(p) for p in vision}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in known], "peak": stage.learning_rate},
        {"params": vision, "peak": stage.vision_learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=stage.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))


def train_jointly(
    model: "LlavaForConditionalGeneration",
    encoder: Encoder,
    scenes: list[Scene],
    captions: list[list[tuple[str, str]]],
    stage: JointStage,
    *,
    seed: int,
) -> None:
    """Train on captions, questions and checklists, one gradient of all three a step.

    Args:
        captions: For each scene its (prompt, caption) turns, of which one is drawn; may be empty if the stage
            asks for none.
    """
    pixels = np.stack([s.pixels for s in scenes])
    optimiser = _joint_optimiser(model, stage)
    rng = generator_for(seed, "joint", stage.name)

    def caption_example(i: int) -> Example:
        return encoder.conversation([captions[i][rng.integers(len(captions[i]))]])

    kinds: list[tuple[int, Callable[[int], Example]]] = [
        (stage.captions, caption_example),
        (stage.questions, lambda i: encoder.conversation(question_turns(scenes[i], 6, rng))),
        (stage.checklists, lambda i: encoder.checklist(checklist_items(scenes[i], rng))),
    ]
    model.train()
    for step in counted(range(stage.steps), f"training: {stage.name}"):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * _learning_rate(step, stage.steps)
        optimiser.zero_grad()
        for count, example in kinds:
            if count == 0:
                continue
            rows = rng.integers(0, len(scenes), count)
            ids, mask, labels = _collate([example(int(i)) for i in rows], encoder.tokenizer.pad_token_id)
            batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            model(**batch, pixel_values=pixel_values(pixels[rows])).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.requires_grad_(True)
