"""A small tokenizer.model, trained with SentencePiece itself."""

import random
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

PIECES = 400
WORDS = (
    "A chat between curious human and an artificial intelligence USER ASSISTANT what is in this image "
    "describe it please Yes no dog cat table red"
)


def write_tokenizer_model(path: Path, pieces: int = PIECES) -> None:
    """Write a model as Llama's is: BPE, bytes for what it doesn't know, blanks kept, one put in front.

    Pieces of blanks only have the lowest score of all, as in Mistral's first tokenizer.
    """
    draw = random.Random(0)
    blanks = [" ", " ", "  ", "     "]
    lines = [
        "".join(word + draw.choice(blanks) for word in draw.choices(WORDS.split(), k=12)) for _ in range(300)
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(path.with_suffix("")),
        vocab_size=pieces,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
    spec = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    for piece in spec.pieces:
        if set(piece.piece) == {"▁"}:
            piece.score = -1e9
    path.write_bytes(spec.SerializeToString())
