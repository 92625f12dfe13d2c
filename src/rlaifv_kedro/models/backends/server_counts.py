"""A server's count of a prompt's tokens against that of the checkpoint that it serves.

A server writes prompts by its own chat template. vLLM's adds no beginning-of-sequence token to it, and so was
silently off by one token for LLaVA-1.5.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from rlaifv_kedro.found_out import note
from rlaifv_kedro.pixels import as_seen

if TYPE_CHECKING:
    from PIL.Image import Image

    from rlaifv_kedro.models.backends.text_encoding import TextEncoder
    from rlaifv_kedro.models.encoding import ChatEncoder

log = logging.getLogger(__name__)


class OwnCounts:
    """Counts prompts' tokens by a checkpoint's files, and says once when a server counts others.

    Args:
        tokenizer: Folder or hub name of the checkpoint.
        where: Names the server.
    """

    def __init__(self, tokenizer: str, where: str):
        self.tokenizer, self.where = tokenizer, where

    @cached_property
    def _encoder(self) -> "ChatEncoder":
        from rlaifv_kedro.models.loading import load_encoder

        return load_encoder(self.tokenizer)

    @cached_property
    def _text_encoder(self) -> "TextEncoder":
        from rlaifv_kedro.models.backends.text import load_text_encoder

        return load_text_encoder(self.tokenizer)

    def of_picture(self, image: "Image", text: str) -> int:
        """Tokens of a question about an image, with the image's own."""
        blank = self._encoder.blank(as_seen(image).size)
        return len(self._encoder.prompts([text], blank)[0])

    def of_chat(self, chat: Sequence[Mapping[str, str]]) -> int:
        """Tokens of a chat up to where the reply begins."""
        return len(self._text_encoder.prompt(chat))

    def compare(self, own: int, counted: int) -> None:
        """Say that a server counts other tokens of a prompt, in the log and in the run's manifest."""
        if own == counted:
            return
        said = (
            f"{self.where} counts {counted} tokens of a prompt, and this checkpoint's own files make {own} "
            "of it: its chat template writes other prompts"
        )
        if note(self.tokenizer, said):
            log.warning(
                "%s (of %s). Start it with this checkpoint's template (vLLM: --chat-template, beginning with "
                "{{ bos_token }} where the tokenizer adds one), or take backend: vllm.",
                said,
                self.tokenizer,
            )
