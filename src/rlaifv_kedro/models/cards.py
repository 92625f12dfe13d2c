"""Model cards that tell whether they are whole: completed later, they are not in manifests' hashes."""

import hashlib
import re
from pathlib import Path

from rlaifv_kedro.files import write_atomically
from rlaifv_kedro.models.folder import CARD, SAVED

_SEAL = re.compile(r"\n<!-- sha256 of the above and saved.json: ([0-9a-f]{64}) -->\n\Z")


def write_card(folder: Path, text: str) -> None:
    """Puts a card into a checkpoint's folder, with a last line that no page shows; an equal one stays.

    The file is replaced: the old one may be a hard link of another folder's.

    Args:
        text: The card; the last line of an earlier one counts for nothing.
    """
    text = _SEAL.sub("", text)
    content = f"{text}\n<!-- sha256 of the above and saved.json: {_sha256(folder, text)} -->\n".encode()
    if not (folder / CARD).is_file() or (folder / CARD).read_bytes() != content:
        write_atomically(folder / CARD, content)


def has_whole_card(folder: Path) -> bool:
    """Whether a checkpoint's card is there, as :func:`write_card` wrote it, and its own."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    seal = _SEAL.search(text)
    return seal is not None and seal[1] == _sha256(folder, text[: seal.start()])


def _sha256(folder: Path, text: str) -> str:
    """Of the card with what proves its checkpoint whole, so that another's card is not taken for it."""
    proof = (folder / SAVED).read_bytes() if (folder / SAVED).is_file() else b""
    return hashlib.sha256(text.encode() + proof).hexdigest()
