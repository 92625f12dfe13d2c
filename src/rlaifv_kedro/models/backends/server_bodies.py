"""What is sent to an OpenAI-compatible server: images, messages and settings."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.models.interface import Decoding
from rlaifv_kedro.pixels import as_seen
from rlaifv_kedro.placeholders import Cleaner

if TYPE_CHECKING:
    from PIL.Image import Image

Body = dict[str, Any]

_clean = Cleaner.for_servers()


def server_seed(seed: int) -> int:
    """A seed from 1 to 2^31 - 1, made of one of any size.

    Some servers hold 32 bits with a sign, and for some 0 or -1 means a random seed.
    """
    return 1 + seed % (2**31 - 1)


def data_urls(images: "Sequence[Image]") -> list[str]:
    """Each image as the data URL of a PNG file; one that comes again is encoded once."""
    different = {id(image): image for image in images}
    with ThreadPoolExecutor() as pool:
        urls = dict(zip(different, pool.map(_data_url, different.values())))
    return [urls[id(image)] for image in images]


def _data_url(image: "Image") -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(as_seen(image))).decode()


def about_image(url: str, text: str) -> dict[str, Any]:
    """The user's message about an image.

    The image comes first, so that the questions about it share a prefix.
    """
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": _clean(text)}],
    }


def text_message(role: str, text: str) -> dict[str, Any]:
    """A message without an image."""
    return {"role": role, "content": _clean(text)}


def generation(messages: list[dict[str, Any]], seed: int, decoding: Decoding) -> Body:
    """The body of a request for an answer.

    ``top_k`` and ``repetition_penalty`` are vLLM's additions to OpenAI's interface, so they are sent only
    where they do something.
    """
    more: Body = {} if decoding.top_k is None else {"top_k": decoding.top_k}
    if decoding.repetition_penalty != 1:
        more["repetition_penalty"] = decoding.repetition_penalty
    return {
        **({"extra_body": more} if more else {}),
        "messages": messages,
        "seed": seed,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "max_tokens": decoding.max_new_tokens,
    }
