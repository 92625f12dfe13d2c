"""A text LLM that answers from a script."""

from collections.abc import Mapping, Sequence

from rlaifv_kedro.models import Answer, Decoding


class Scripted:
    """A text LLM that answers from a script: for each prompt that contains a key, one reply after the
    other, the last one for ever.
    """

    def __init__(self, script: Mapping[str, str | Answer | Sequence[str | Answer]]):
        self.script = {
            key: [replies] if isinstance(replies, str | Answer) else list(replies)
            for key, replies in script.items()
        }
        self.asked: list[tuple[str, int, int]] = []  # (key, seed, max_new_tokens)
        self.prompts: list[str] = []
        self.calls: list[Decoding] = []

    def complete(
        self, chats: Sequence[Sequence[Mapping[str, str]]], seeds: Sequence[int], decoding: Decoding
    ) -> list[Answer]:
        assert len(chats) == len(seeds) > 0
        self.calls.append(decoding)
        return [self._reply(chat, seed, decoding) for chat, seed in zip(chats, seeds)]

    def _reply(self, chat: Sequence[Mapping[str, str]], seed: int, decoding: Decoding) -> Answer:
        [message] = chat
        assert message["role"] == "user"
        self.prompts.append(message["content"])
        [key] = [key for key in self.script if key in message["content"]]
        earlier = sum(k == key for k, _, _ in self.asked)
        self.asked.append((key, seed, decoding.max_new_tokens))
        reply = self.script[key][min(earlier, len(self.script[key]) - 1)]
        return reply if isinstance(reply, Answer) else Answer(reply, 20, "stop")
