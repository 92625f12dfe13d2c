"""What a run with checkpoints in their releases' layouts needs: tiny folders of both, a splitter's
replies, prompts, and an environment.
"""

import io
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import sentencepiece
from PIL import Image

from chat_server import Body, ChatServer, completion, question_of
from rlaifv_kedro.claims.llm_splitter import DIVIDE
from rlaifv_kedro.datasets import TableDataset
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.miniature.scenes import draw_scene
from rlaifv_kedro.models.llava.processor import SYSTEM as LLAVA_SYSTEM
from rlaifv_kedro.models.omnilmm.processing import SYSTEM as OMNILMM_SYSTEM
from whole_project import Project

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
ENVIRONMENT = "real_layouts"
PIECES = 320  # of both fixtures' tokenizers
QUESTIONS = [
    "What is in this image?",
    "<image>\nDescribe it.",
    "Describe the image.",
    "Is there a cup on the table?",
    "What colour is the dog?",
    "What is on the left?",
    "What is on the right?",
    "How many cups are there?",
]
PARAMETERS = """
compute: {{device: cpu, dtype: float32, threads: 1}}
loop: {{iterations: 1}}
models:
  splitter: {{backend: openai, url: "{url}", model: tiny, concurrency: 4, retries: 0}}
data_generation: {{prompts: 6, candidates: 4, temperature: 1.0, max_new_tokens: 12, cut_off: keep,
                  chunk_size: 4, batch_size: 3}}   # random weights seldom end an answer
feedback:
  splitter: llm
  question_template: "{{question}} Please answer yes or no."
  yes_words: ["yes", "Yes"]
  no_words: ["no"]   # with "No" random weights accept next to nothing
  min_verdict_mass: 0   # and say neither as a rule
  chunk_size: 4
  batch_size: 2
training:
  learning_rate: 1.0e-3
  beta: 0.1
  epochs: 1
  batch_size: 2
  micro_batch_size: 2
  warmup_ratio: 0
  gradient_checkpointing: true
  freeze: [vision_tower]
  checkpoint_every: 1
"""
CATALOG = """
base_policy: {{type: rlaifv_kedro.datasets.CheckpointDataset, filepath: {policy}}}
labeler: {{type: rlaifv_kedro.datasets.CheckpointDataset, filepath: {labeler}}}
prompt_pool: {{type: rlaifv_kedro.datasets.TableDataset, table: prompts, filepath: {prompts}}}
"""


@dataclass(frozen=True)
class RealLayouts(Project):
    """A project with an environment for a policy and a labeler as they are published, and a splitter
    behind an address.
    """

    def kedro(self, *arguments: str, expect: int = 0) -> str:
        """Run ``kedro run --env real_layouts ...``; returns what the terminal shows."""
        return self._run(self.command("kedro", "run", "--env", ENVIRONMENT, *arguments), expect)

    def table(self, name: str, run_id: str) -> pd.DataFrame:
        """A table of the catalog in one file or in chunks: ``name`` is its file or folder."""
        [path] = (self.path / "data").glob(f"*/iteration_1/{name}/{run_id}/{name}")
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)

    def checkpoint(self, run_id: str) -> Path:
        """The last one of a training."""
        folder = self.path / "data/06_models/iteration_1/checkpoints" / run_id / "checkpoints"
        return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))

    @property
    def policy(self) -> Path:
        return self.path / "models" / "llava"

    @property
    def labeler(self) -> Path:
        return self.path / "models" / "omnilmm"

    def furnish(self, url: str) -> None:
        """Write models, prompts and environment."""
        words = DIVIDE.read_text().splitlines()
        published(
            "llava_original",
            self.policy,
            [LLAVA_SYSTEM, "USER:", "ASSISTANT:", *QUESTIONS, *words],
            byte_fallback=False,
        )
        published(
            "omnilmm",
            self.labeler,
            [OMNILMM_SYSTEM, "<|system|>", "<|user|>", "<|assistant|>", "yes", "Yes", "no", "No"],
        )
        prompts = self.path / "prompt_pool.parquet"
        TableDataset(str(prompts), "prompts").save(prompt_pool())
        conf = self.path / "conf" / ENVIRONMENT
        conf.mkdir()
        (conf / "parameters.yml").write_text(PARAMETERS.format(url=url))
        (conf / "catalog.yml").write_text(
            CATALOG.format(policy=self.policy, labeler=self.labeler, prompts=prompts)
        )


def published(fixture: str, folder: Path, lines: list[str], byte_fallback: bool = True) -> None:
    """A folder as the release has it: config, weights, and a SentencePiece model as Llama's is, here trained
    on some lines.

    Without pieces for bytes, which would be most of so few, random weights write text rather than broken
    characters.
    """
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(PARITY / fixture / name, folder)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20),
        model_writer=model,
        vocab_size=PIECES,
        model_type="bpe",
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=-1,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def prompt_pool() -> pd.DataFrame:
    """Drawn scenes as PNG files of several sizes and modes."""
    rows = []
    for i, (question, mode) in enumerate(zip(QUESTIONS, ["RGB", "L", "RGBA", "P"] * 2)):
        picture = (
            Image.fromarray(draw_scene(7, "real layouts", i).pixels).resize((60 + 10 * i, 80)).convert(mode)
        )
        image = {"bytes": png_bytes(picture), "path": f"{i}.png"}
        rows.append((f"prompt {i}", question, image, i, "drawn", "detailed description"))
    return pd.DataFrame(
        rows, columns=["prompt_id", "question", "image", "image_id", "origin_dataset", "question_type"]
    )


def claims_of(answer: str) -> list[str]:
    """What the splitter makes of an answer: two claims, or three of one with many words."""
    words = answer.split()
    count = 2 + (len(words) > 3)
    return [
        f"Part {i + 1} of the image shows {' '.join(words[i::count]) or 'nothing'}." for i in range(count)
    ]


def question_about(claim: str) -> str:
    return f"Is it true: {claim.removesuffix('.')}?"


def splitter() -> ChatServer:
    """A server that divides answers and writes questions."""
    return ChatServer(reply=_split)


def _split(body: Body) -> Body:
    prompt = question_of(body)
    divide = re.search(r"<answer>\n(.*)\n</answer>", prompt, re.DOTALL)
    if divide:
        return completion(_list("Facts", claims_of(divide[1])))
    claims = [line.removeprefix("- ") for line in prompt.partition("The statements:\n")[2].split("\n")]
    return completion(_list("Questions", map(question_about, claims)))


def _list(heading: str, items: Iterable[str]) -> str:
    return "\n".join([f"### {heading}", *(f"- {item}" for item in items)])
