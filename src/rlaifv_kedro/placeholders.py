"""Words that stand for something else in a prompt: an image, the end of a turn. Texts of people lose them.

A question ``<image>\\nWhat is this?``, as published tables have it, would ask about two images, and an answer
that spells ``</s>`` would end there. So everything that a model is to read comes by here, whoever runs it.
"""

import re
from collections.abc import Collection

MEDIA = ("(<image>./</image>)", "(<video>./</video>)", "(<audio>./</audio>)", "<image>", "<video>", "<audio>")
"""What datasets and models write for a medium; the longer ones are MiniCPM-V's."""

TURNS = ("<|system|>", "<|user|>", "<|assistant|>")
"""What Zephyr's chat template, and so OmniLMM's, begins turns with; they aren't tokens there."""

# A server's tokenizer isn't known here: what chat formats mark turns and images with, in most families'
# spelling; the last two lines are those of SmolVLM, Gemma 3, InternVL, Pixtral and DeepSeek.
_CONTROL = (
    r"<\|[\w:.\-]{1,64}\|>|</?s>|<(?:unk|pad|bos|eos|mask)>|<(?:start|end)_of_(?:turn|image)>|\[/?INST\]"
    r"|<end_of_utterance>|<fake_token_around_image>|<image_soft_token>|<IMG_CONTEXT>|\[IMG(?:_BREAK|_END)?\]"
    r"|<｜[^\s<>｜]{1,64}｜>"
)


class Cleaner:
    """Takes placeholders out of texts, as often as taking some out leaves others (``<im<image>age>``).

    Of the blanks around a placeholder one stays; a text that had one loses the blanks at its ends too, as in
    LLaVA's own reading of its data (``preprocess_multimodal``). Any other text stays as it is, but for halves
    of surrogate pairs, which no tokenizer takes: they become U+FFFD.

    Args:
        tokens: Words beside :data:`MEDIA`: the special tokens of a tokenizer.
        pattern: A regular expression for further ones.
    """

    def __init__(self, tokens: Collection[str] = (), pattern: str = ""):
        words = sorted({*MEDIA, *tokens} - {""}, key=lambda word: (-len(word), word))
        self._longest = 1 + max(64 + len("<||>"), *map(len, words))  # with the blank
        one = "|".join([*map(re.escape, words), *([pattern] if pattern else [])])
        self._pattern = re.compile(rf" (?:{one})(?=\s|$)|{one}")

    @classmethod
    def for_servers(cls) -> "Cleaner":
        """For texts that a server tokenizes: it takes out what marks turns in most chat formats."""
        return cls(pattern=_CONTROL)

    def __call__(self, text: str) -> str:
        """The text without placeholders."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        found = self._pattern.search(text)
        if found is None:
            return text
        while found is not None:
            text = text[: found.start()] + text[found.end() :]
            # What comes together now began at most one word before.
            found = self._pattern.search(text, max(0, found.start() - self._longest))
        return text.strip()
