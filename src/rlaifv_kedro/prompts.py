"""Files with prompts for text LLMs: placeholders are checked when the file is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaifv_kedro.doors import MOST_OF_SETTINGS, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError


@dataclass(frozen=True)
class PromptFile:
    """A prompt with placeholders such as ``{answer}``. Other braces in it are text."""

    text: str

    @classmethod
    def read(cls, path: str | Path, placeholders: Sequence[str]) -> "PromptFile":
        """Read a file, UTF-8.

        Raises:
            UserError: It can't be read, or lacks a placeholder.
        """
        try:
            text = regular_bytes(path, MOST_OF_SETTINGS).decode("utf-8-sig")
        except (OSError, ValueError) as error:  # the latter: no UTF-8, or NUL in the path
            raise UserError(f"{path}: can't read the prompt: {reason_of(error)}") from error
        missing = [f"{{{name}}}" for name in placeholders if f"{{{name}}}" not in text]
        if missing:
            raise UserError(
                f"{path}: the prompt lacks {' and '.join(missing)}, where the text to work on goes."
            )
        return cls(text.replace("\r\n", "\n").strip())

    def fill(self, **texts: str) -> str:
        """The prompt with the texts in place of their placeholders. Braces in a text stay as they are."""
        return re.sub(rf"\{{({'|'.join(texts)})\}}", lambda found: texts[found[1]], self.text)
