"""Making the miniature's two checkpoints: a base policy that hallucinates and a labeler that sees.

    aligned -> grounded -> foundation -> base policy (careless captions)
                     \\--> labeler (yes/no questions on scenes of its own)

Each stage is a checkpoint in the work folder, so a killed run loses one stage at most. Its hash lies beside
it: a stage that was damaged since is trained again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.files import content_sha256, replacing_folder, write_atomically
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.pretraining import (
    Encoder,
    JointStage,
    align_patches,
    train_jointly,
)
from rlaifv_kedro.miniature.scenes import Scene
from rlaifv_kedro.miniature.tiny_llava import build_model, build_processor
from rlaifv_kedro.miniature.world import draw_split
from rlaifv_kedro.seeds import generator_for, seed_for

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from rlaifv_kedro.params import MiniatureParams

ALIGN_STEPS, LABELER_ALIGN_STEPS = 1800, 500
GROUND = JointStage(
    "ground", 1400, captions=24, questions=4, checklists=8, learning_rate=1.5e-3, vision_learning_rate=3e-4
)
FINISH = JointStage(
    "finish", 650, captions=32, questions=3, checklists=4, learning_rate=1.3e-3, vision_learning_rate=3e-4
)
CARELESS = JointStage(
    "careless", 300, captions=24, questions=2, checklists=4, learning_rate=1e-3, vision_learning_rate=0.0
)
LABEL = JointStage(
    "label", 600, captions=0, questions=10, checklists=14, learning_rate=1.5e-3, vision_learning_rate=4e-4
)


def make_checkpoints(seed: int, params: "MiniatureParams", folder: Path) -> dict[str, Path]:
    """Make every stage that isn't there yet.

    Returns:
        Stage name -> folder; ``base_policy`` and ``labeler`` in float16, the stages between them in float32.
    """
    stages = _Stages(seed, params, folder)
    aligned = stages.stage("aligned", stages.align)
    grounded = stages.stage("grounded", stages.ground, aligned)
    foundation = stages.stage("foundation", stages.finish, grounded)
    base_policy = stages.stage("base_policy", stages.careless, foundation, half=True)
    labeler = stages.stage("labeler", stages.label, grounded, half=True)
    return {
        "aligned": aligned,
        "grounded": grounded,
        "foundation": foundation,
        "base_policy": base_policy,
        "labeler": labeler,
    }


class _Stages:
    """The stages, each trained from the checkpoint of the one before it."""

    def __init__(self, seed: int, params: "MiniatureParams", folder: Path):
        self.seed, self.params, self.folder = seed, params, folder
        self.processor: LlavaProcessor = build_processor()
        self.encoder = Encoder(self.processor)

    def stage(self, name: str, train: Callable, start: Path | None = None, half: bool = False) -> Path:
        """The checkpoint of a stage: read if it is there as it was written, else trained from ``start``."""
        from transformers import LlavaForConditionalGeneration

        target, seal = self.folder / name, self.folder / f"{name}.sha256"
        if target.is_dir() and seal.is_file() and seal.read_bytes() == content_sha256(target).encode():
            return target
        if start:
            model = LlavaForConditionalGeneration.from_pretrained(start)
        else:
            model = build_model(self.processor, seed_for(self.seed, "weights"))
        train(model)
        with replacing_folder(target) as unfinished:
            (model.half() if half else model).save_pretrained(unfinished)
            self.processor.save_pretrained(unfinished)
        write_atomically(seal, content_sha256(target).encode())
        return target

    def align(self, model: "LlavaForConditionalGeneration") -> None:
        scenes, label = self._foundation_scenes, "aligning patches with words"
        steps = self._scaled(ALIGN_STEPS)
        align_patches(model, self.encoder, scenes, steps, 2e-3, seed=self.seed, label=label)

    def ground(self, model: "LlavaForConditionalGeneration") -> None:
        self._jointly(model, GROUND, self._foundation_scenes, careless=False)

    def finish(self, model: "LlavaForConditionalGeneration") -> None:
        self._jointly(model, FINISH, self._foundation_scenes, careless=False)

    def careless(self, model: "LlavaForConditionalGeneration") -> None:
        scenes = self._draw("careless", self.params.policy_scenes, self.params.training_double_share)
        self._jointly(model, CARELESS, scenes, careless=True)

    def label(self, model: "LlavaForConditionalGeneration") -> None:
        scenes = self._draw("labeler", self.params.training_scenes, self.params.labeler_double_share)
        steps, seed = self._scaled(LABELER_ALIGN_STEPS), seed_for(self.seed, "labeler")
        align_patches(model, self.encoder, scenes, steps, 1.5e-3, seed=seed, label="labeler: aligning")
        self._jointly(model, LABEL, scenes, careless=False)

    def _jointly(
        self,
        model: "LlavaForConditionalGeneration",
        stage: JointStage,
        scenes: list[Scene],
        *,
        careless: bool,
    ) -> None:
        captions = self._captions(scenes, careless) if stage.captions else []
        scaled = replace(stage, steps=self._scaled(stage.steps))
        train_jointly(model, self.encoder, scenes, captions, scaled, seed=self.seed)

    def _captions(self, scenes: list[Scene], careless: bool) -> list[list[tuple[str, str]]]:
        """Each scene's answer to each of the prompts, by a careful or a careless annotator."""
        rng = generator_for(self.seed, "captions", "careless" if careless else "careful")

        def mentions(scene: Scene, count: int) -> list[str]:
            if careless:
                return language.careless_mentions(scene, count, self.params.error_rate, rng)
            return language.true_mentions(scene, count, rng)

        return [
            [(p, language.caption(s.kind, mentions(s, count), rng)) for p, count in language.PROMPTS.items()]
            for s in scenes
        ]

    @cached_property
    def _foundation_scenes(self) -> list[Scene]:
        return self._draw("foundation", self.params.training_scenes, self.params.training_double_share)

    def _draw(self, split: str, count: int, double_share: float) -> list[Scene]:
        return draw_split(
            self.seed, split, count, fifth_share=self.params.training_fifth_share, double_share=double_share
        )

    def _scaled(self, steps: int) -> int:
        return max(1, round(steps * self.params.effort))
