"""spaCy pipelines for tests: tags and lemmas by a list of words, vectors of three numbers. spaCy itself is
all that they need.
"""

import numpy as np
import spacy
from spacy.language import Language

_SINGULAR = (
    "dog",
    "cat",
    "bus",
    "light",
    "fire",
    "hydrant",
    "baby",
    "elephant",
    "stove",
    "top",
    "oven",
    "toilet",
    "seat",
    "man",
    "puppy",
    "fox",
    "car",
    "cloud",
    "sky",
)
NOUNS = {
    **dict.fromkeys(_SINGULAR, "NN"),
    **dict.fromkeys(("dogs", "lights", "elephants"), "NNS"),
    "Rex": "NNP",
    "Smiths": "NNPS",
}
LEMMAS = {"dogs": "dog", "lights": "light", "elephants": "elephant", "Smiths": "Smith"}


@Language.component("tiny_tagger")
def tiny_tagger(doc):
    for token in doc:
        token.tag_ = NOUNS.get(token.text, "JJ")
        token.lemma_ = LEMMAS.get(token.text, token.text)
    return doc


def tiny_pipeline(vectors: dict[str, tuple[float, float, float]] | None = None) -> Language:
    pipeline = spacy.blank("en", meta={"name": "tiny", "version": "1.2.3"})
    pipeline.add_pipe("tiny_tagger")
    if vectors:
        pipeline.vocab.reset_vectors(width=3)
        for word, vector in vectors.items():
            pipeline.vocab.set_vector(word, np.array(vector, "float32"))
    return pipeline
