"""spaCy's pipelines for English, which a benchmark's protocol names.

They are no packages of the index, but of the model project's releases.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line

if TYPE_CHECKING:
    from spacy.language import Language

NOUNS = frozenset(("NN", "NNS", "NNP", "NNPS"))
"""Tags of nouns."""
_PUBLISHED = re.compile(r"[a-z]{2}_(core|dep|ent|sent)_\w+_(sm|md|lg|trf)")


@cache
def load_pipeline(name: str) -> "Language":
    """An installed pipeline by its name, or the folder of one.

    Raises:
        UserError: It isn't there, doesn't fit this spaCy, or neither tags nor lemmatises.
    """
    import spacy

    try:
        pipeline = spacy.load(name)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"The spaCy pipeline {name!r} can't be loaded: {first_line(error)} {_remedy(name)}"
        ) from error
    doc = pipeline("a dog")
    missing = [what for what in ("TAG", "LEMMA") if not doc.has_annotation(what)]
    if missing:
        raise UserError(
            f"The spaCy pipeline {name!r} sets no {' and no '.join(missing)}. Use one that tags and "
            "lemmatises, e.g. en_core_web_sm."
        )
    return pipeline


def label_of(pipeline: "Language") -> str:
    """Name and version, for reports: "en_core_web_trf 3.8.0"."""
    meta = pipeline.meta
    return f"{meta['lang']}_{meta['name']} {meta['version']}"


def _remedy(name: str) -> str:
    if not _PUBLISHED.fullmatch(name):
        return "Give the name of an installed pipeline, or the folder of one."
    from spacy import about

    version = ".".join(about.__version__.split(".")[:2]) + ".0"
    return (
        "Install it from spaCy's model project: pip install "
        f"{about.__download_url__}/{name}-{version}/{name}-{version}-py3-none-any.whl "
        "(not by its bare name: the package index has strangers' packages of such names). Or name another "
        "installed pipeline."
    )
