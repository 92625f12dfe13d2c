"""Token ids as SentencePiece gives them, from tokenizers that transformers has made."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def like_sentencepiece(backend: "Tokenizer", model: Path) -> "Tokenizer":
    """A tokenizer that transformers made of SentencePiece's model, with the ids that SentencePiece gives.

    transformers 5 reads such a model in its own way, which depends on ``legacy`` in the tokenizer's config,
    too. Models have learnt with SentencePiece's ids. Three corrections:

    - Every chunk between special tokens begins with a blank, even one that begins with a blank of its own (as
      in Llama's first tokenizer.json).
    - Special tokens are looked for in the text as it is. Some older configs say otherwise, and then ``</s>``
      is never found inside a text.
    - Pieces are merged in the order of their scores. transformers 5.23 takes that of their ids, which differs
      where pieces of blanks only have the lowest score of all (in Mistral's first tokenizer, for one): of two
      blanks before a word the second belongs to the word.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    described = json.loads(backend.to_str())
    described["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    described["pre_tokenizer"] = None
    for token in described["added_tokens"]:
        token["normalized"] = False
    if model.is_file():
        pieces = SentencePieceProcessor(model_file=str(model))
        scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(pieces.vocab_size())}
        # Of equal scores the leftmost is merged first, so a run of blanks grows from the left.
        described["model"]["merges"].sort(
            key=lambda pair: (-scores.get("".join(pair), -math.inf), -len(pair[0]), len(pair[1]))
        )
    return Tokenizer.from_str(json.dumps(described))
