"""Pairs and a processor for a model of random weights: what the real trainer needs, without any download."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from kedro.io.core import Version
from PIL import Image
from shapes import IMAGE_SIZE, PATCH, RESERVED

from rlaifv_kedro.datasets import Chunk, Complete, PairStore, PairStoreDataset
from rlaifv_kedro.datasets.pair_store import with_keys
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.miniature.tiny_llava import CHAT_TEMPLATE
from rlaifv_kedro.models import Decoding, Question
from rlaifv_kedro.models.backends.transformers import TransformersModel

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

_SPECIAL = ["<unk>", "<s>", "</s>"]


@dataclass(frozen=True)
class Pair:
    """An image, a question, and two answers to it."""

    image: Image.Image
    question: str
    chosen: str
    rejected: str


def store_of(folder: Path, pairs: Sequence[Pair]) -> PairStore:
    """The pairs as training reads them."""
    rows = [
        (i, {"bytes": png_bytes(p.image), "path": None}, p.question, p.chosen, p.rejected, "", None, "own", i)
        for i, p in enumerate(pairs)
    ]
    columns = ["idx", "image", "question", "chosen", "rejected", "origin_dataset", "origin_split"]
    frame = pd.DataFrame(rows, columns=[*columns, "source", "source_idx"])
    dataset = PairStoreDataset(str(folder / "pairs"), "training_pairs", Version("run", "run"))
    dataset.save(Chunk("00000", with_keys(frame)))
    dataset.save(Complete(["00000"]))
    return dataset.load()


def processor_of(vocabulary: int) -> "LlavaProcessor":
    """A processor with a tokenizer of the words w3, w4 and so on; image and padding have LLaVA-1.5's ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    words = [*_SPECIAL, *(f"w{i}" for i in range(len(_SPECIAL), vocabulary)), "<image>", "<pad>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side),
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def wrapped(module: "LlavaForConditionalGeneration", vocabulary: int) -> TransformersModel:
    """The model with its processor; its samples are words, and as long as they may be."""
    module.generation_config.suppress_tokens = [
        *range(len(_SPECIAL)),
        *range(vocabulary, vocabulary + RESERVED),
    ]
    return TransformersModel(module, processor_of(vocabulary), "a model of random weights", batch_size=1)


def sampled_pairs(model: TransformersModel, vocabulary: int, count: int, tokens: int) -> list[Pair]:
    """Pairs whose answers the model gave, as the method's are: random words would be far too unlikely."""
    random, pairs = np.random.default_rng(0), []
    for i in range(count):
        image = Image.fromarray(random.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8))
        question = " ".join(f"w{n}" for n in random.integers(3, vocabulary, 25))
        answers = model.sample([Question(image, question)], [[2 * i, 2 * i + 1]], Decoding(1.0, tokens))[0]
        pairs.append(Pair(image, question, answers[0].text, answers[1].text))
    return pairs
