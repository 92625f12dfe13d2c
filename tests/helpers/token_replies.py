"""What a server of vLLM answers to prompts in token ids, computed by the real model in this process.

The shapes are those of vLLM 0.32's ``/inference/v1/generate``, as its source has them and as it answered; the
numbers are forward passes of transformers with its own cache, without anything of ``branching``.
"""

import base64
import io
import threading
from typing import Any

import torch
from PIL import Image

from chat_server import status
from rlaifv_kedro.models.backends.transformers import TransformersModel


class TokenReplies:
    """Replies of one multimodal model whose image token stands once in a prompt, as LLaVA's does.

    Args:
        forgetful: Whether no picture is held for a later request.

    Attributes:
        held: The pictures that it was sent, by the name that each came with.
    """

    def __init__(self, model: TransformersModel, forgetful: bool = False):
        self.module, self.processor, self.image_id = model.module, model.processor, model.encoder.image_id
        self.held: dict[str, Image.Image] = {}
        self.forgetful = forgetful
        self._one_at_a_time = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._one_at_a_time, torch.no_grad():
            ids, pixels = self._expanded(body)
            settings = body["sampling_params"]
            reply, first = self._reply(ids, pixels, settings)
        ended = reply[-1] in settings.get("stop_token_ids", ())
        choice = {
            "index": 0,
            "finish_reason": "stop" if ended else "length",
            "token_ids": reply,
            "logprobs": _logprobs(reply[0], first, settings),
        }
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(reply)}
        shown = ids if body.get("return_token_ids") else None
        return {"request_id": "1", "choices": [choice], "usage": usage, "prompt_token_ids": shown}

    def cache_miss(self, body: dict[str, Any], before: int) -> Any:
        """The fault of a request that names a picture which isn't held; for a server's ``fault``."""
        for part in body.get("content_parts", ()):
            if part["url"] is None and (self.forgetful or part["uuid"] not in self.held):
                return status(400, "Cache miss for image at index 0 but data is not provided.")
        return None

    def _expanded(self, body: dict[str, Any]) -> tuple[list[int], dict[str, torch.Tensor]]:
        ids = body["token_ids"]
        if "content_parts" not in body:
            return ids, {}
        [part] = body["content_parts"]
        if part["url"] is not None:
            self.held[part["uuid"]] = Image.open(io.BytesIO(base64.b64decode(part["url"].split(",")[1])))
        picture = self.held[part["uuid"]]
        made = self.processor(text=self.processor.image_token, images=picture, return_tensors="pt")
        count = int((made["input_ids"] == self.image_id).sum())
        place = ids.index(self.image_id)
        whole = [*ids[:place], *[self.image_id] * count, *ids[place + 1 :]]
        return whole, {"pixel_values": made["pixel_values"].to(self.module.dtype)}

    def _reply(
        self, ids: list[int], pixels: dict[str, torch.Tensor], settings: dict[str, Any]
    ) -> tuple[list[int], torch.Tensor]:
        """The reply's tokens, and the log-probs at its first place."""
        generator = torch.Generator().manual_seed(settings.get("seed") or 0)
        out = self.module(input_ids=torch.tensor([ids]), use_cache=True, **pixels)
        first, reply = out.logits[0, -1].float().log_softmax(-1), list[int]()
        while len(reply) < settings["max_tokens"]:
            logits = out.logits[0, -1].float()
            for token, bias in settings.get("logit_bias", {}).items():
                logits[int(token)] += bias
            if settings["temperature"] == 0:
                reply.append(int(logits.argmax()))
            else:
                probs = (logits / settings["temperature"]).softmax(-1)
                reply.append(int(torch.multinomial(probs, 1, generator=generator)))
            if reply[-1] in settings.get("stop_token_ids", ()):
                break
            # Without the pixels: a drawn image token is a token like others.
            out = self.module(
                input_ids=torch.tensor([reply[-1:]]), past_key_values=out.past_key_values, use_cache=True
            )
        return reply, first


def _logprobs(sampled: int, first: torch.Tensor, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The sampled token before those asked for, each once, cut to as many as were asked for."""
    if "logprob_token_ids" not in settings:
        return None
    named = list(dict.fromkeys([sampled, *settings["logprob_token_ids"]]))[: settings["logprobs"]]
    top = [{"token_id": token, "logprob": float(first[token])} for token in named]
    return {"content": [{**top[0], "top_logprobs": top}]}
