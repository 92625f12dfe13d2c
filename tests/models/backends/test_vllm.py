"""The backend for vLLM's offline engine, against a stand-in: vLLM itself needs an environment and a GPU of
its own.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Answer, Decoding, Question, load_model
from rlaifv_kedro.models.backends.vllm import VLLMModel
from rlaifv_kedro.params import VLLMParams

WARM = Decoding(temperature=0.7, max_new_tokens=16, top_p=0.9)


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


@dataclass
class OldSamplingParams:
    """The fields that every vLLM has; like the true one it refuses others with a TypeError."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    logprobs: int | None = None


@dataclass
class SamplingParams(OldSamplingParams):
    logprob_token_ids: list[int] | None = None


@dataclass
class Call:
    prompts: list[Any]
    settings: list[Any]
    options: dict[str, Any]


class LLM:
    """Records what it is asked. Token t has the probability 2^-(1 + t mod 8)."""

    def __init__(self, **options: Any):
        if "broken" in options["model"]:
            raise ValueError("unknown architecture")
        self.options, self.calls = options, []

    def generate(self, prompts: list[Any], settings: list[Any], *, use_tqdm: bool) -> list[RequestOutput]:
        assert len(prompts) == len(settings) and not use_tqdm
        self.calls.append(Call(prompts, settings, {}))
        return [self._output(k, s) for k, s in enumerate(settings)]

    def chat(
        self, messages: list[Any], settings: list[Any], use_tqdm: bool, **options: Any
    ) -> list[RequestOutput]:
        if messages[0][-1]["content"] == "too long":
            raise ValueError("The decoder prompt is longer than the maximum model length")
        outputs = self.generate(messages, settings, use_tqdm=use_tqdm)
        self.calls[-1].options = options
        return outputs

    def _output(self, number: int, settings: Any) -> RequestOutput:
        tokens = getattr(settings, "logprob_token_ids", None) or range(settings.logprobs or 0)
        logprobs = [{t: Logprob(-(1 + t % 8) * math.log(2)) for t in tokens}]
        return RequestOutput(
            [
                CompletionOutput(
                    f" answer {number}\n", [5, 6, 2], "length" if number == 1 else "stop", logprobs
                )
            ]
        )


@pytest.fixture(params=[SamplingParams, OldSamplingParams], ids=["logprob_token_ids", "top-k"])
def vllm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """A stand-in for the package, with new and old sampling parameters."""
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, request.param  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return request.param


def test_sampling(vllm: type, tiny: Path, pictures: list[Image.Image]) -> None:
    model = VLLMModel(tiny, VLLMParams(dtype="float16", top_logprobs=50))
    assert model.engine.options == {
        "model": str(tiny),
        "dtype": "float16",
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "max_logprobs": 50,
        "limit_mm_per_prompt": {"image": 1},
    }
    found = model.sample(
        [Question(pictures[0], "what?"), Question(pictures[1], "where?")], [[7, 2**64 + 8], [9]], WARM
    )
    assert [[a.text for a in row] for row in found] == [["answer 0", "answer 1"], ["answer 2"]]
    assert [(a.token_count, a.finish_reason, a.error) for row in found for a in row] == [
        (3, "stop", None),
        (3, "length", None),
        (3, "stop", None),
    ]
    (call,) = model.engine.calls
    assert [(s.temperature, s.top_p, s.max_tokens) for s in call.settings] == [(0.7, 0.9, 16)] * 3
    assert [(s.top_k, s.repetition_penalty) for s in call.settings] == [(-1, 1.0)] * 3
    assert [s.seed for s in call.settings] == [7, (2**64 + 8) % (2**63 - 1), 9]
    for prompt, text, image in zip(
        call.prompts, ["what?", "what?", "where?"], [pictures[0], pictures[0], pictures[1]]
    ):
        # As the transformers backend writes it, but with one token for the image.
        expected = load_model(tiny, device="cpu").encoder
        assert prompt["prompt_token_ids"] == expected.prompts([text], expected.placeholder(1))[0]
        assert prompt["prompt_token_ids"].count(expected.image_id) == 1
        np.testing.assert_array_equal(np.asarray(prompt["multi_modal_data"]["image"]), np.asarray(image))
    model.sample([Question(pictures[0], "what?")], [[7]], replace(WARM, top_k=50, repetition_penalty=1.1))
    [settings] = model.engine.calls[1].settings
    assert (settings.top_k, settings.repetition_penalty) == (50, 1.1)


def test_pictures_are_padded_before_the_engine_gets_them(
    vllm: type, tiny: Path, pictures: list[Image.Image]
) -> None:
    """The square gives the pixels that the transformers backend makes of the picture."""
    wide = pictures[0].crop((0, 0, 72, 40))
    model = VLLMModel(tiny, VLLMParams(image_aspect_ratio="pad"))
    model.sample([Question(wide, "what?")], [[7]], WARM)
    [prompt] = model.engine.calls[0].prompts
    square = prompt["multi_modal_data"]["image"]
    assert square.size == (72, 72)
    encoder = load_model(tiny, device="cpu", image_aspect_ratio="pad").encoder
    found, expected = (encoder.image(picture).inputs["pixel_values"] for picture in (square, wide))
    assert np.array_equal(found, expected)


def test_first_tokens(vllm: type, tiny: Path, pictures: list[Image.Image]) -> None:
    model = VLLMModel(tiny, VLLMParams(top_logprobs=100))
    words = [["yes"], ["no", "a"]]
    found = model.first_tokens(pictures[:3], [["b?", "c?"], [], ["d?"]], words)
    groups = load_model(tiny, device="cpu").encoder.first_tokens(words)
    known = range(100) if vllm is OldSamplingParams else [t for group in groups for t in group]
    row = [sum(2.0 ** -(1 + t % 8) for t in group if t in known) for group in groups]
    assert [len(replies) for replies in found] == [2, 0, 1]
    tokenizer = load_model(tiny, device="cpu").encoder.tokenizer
    likeliest = sorted(known, key=lambda t: t % 8)[:5]
    for reply in (reply for replies in found for reply in replies):
        np.testing.assert_allclose(reply.probs, row)
        expected = [(tokenizer.decode([t]), 2.0 ** -(1 + t % 8)) for t in likeliest]
        assert [token for token, _ in reply.likeliest] == [token for token, _ in expected]
        np.testing.assert_allclose([p for _, p in reply.likeliest], [p for _, p in expected])
    assert model.outside_top == 3 * sum(t not in known for group in groups for t in group)
    (call,) = model.engine.calls
    assert {(s.temperature, s.max_tokens) for s in call.settings} == {(0, 1)}
    if vllm is SamplingParams:
        assert (
            call.settings[0].logprob_token_ids == [t for group in groups for t in group]
            and call.settings[0].logprobs == 3
        )
    else:
        assert call.settings[0].logprobs == 100


def test_words_outside_the_likeliest_are_counted(
    tiny: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, OldSamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    model = VLLMModel(tiny, VLLMParams(top_logprobs=1))  # token 0, padding, is no word
    [[reply]] = model.first_tokens(pictures[:1], [["b?"]], [["yes"], ["no", "a"]])
    assert reply.probs == (0, 0) and reply.likeliest[0][0] == "<pad>"
    assert model.outside_top == 3


@pytest.mark.parametrize("number", [math.nan, math.inf, 2.0])
def test_numbers_that_are_none_are_no_reply(
    vllm: type, tiny: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    model = VLLMModel(tiny, VLLMParams(top_logprobs=5))
    spoiled = RequestOutput([CompletionOutput("", [5], "length", [{5: Logprob(number), 6: Logprob(0.0)}])])
    monkeypatch.setattr(model.engine, "_output", lambda number, settings: spoiled)
    [[reply]] = model.first_tokens(pictures[:1], [["b?"]], [["yes"], ["no"]])
    assert all(map(math.isnan, reply.probs)) and "NaN" in reply.error


def test_a_reply_that_is_broken_off_is_no_answer(
    vllm: type, tiny: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = VLLMModel(tiny, VLLMParams())
    broken = RequestOutput([CompletionOutput("half of it", [5], "abort")])
    monkeypatch.setattr(model.engine, "_output", lambda number, settings: broken)
    [[answer]] = model.sample([Question(pictures[0], "what?")], [[7]], WARM)
    assert (answer.text, answer.error) == ("", "vLLM broke the reply off: abort")


def test_chats(vllm: type, tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    model = VLLMModel(tiny, VLLMParams(chat_template=str(template)), dtype="float32")
    chats = [[{"role": "user", "content": f"{i}"}] for i in range(2)]
    assert [a.text for a in model.complete(chats, [1, 2], WARM)] == ["answer 0", "answer 1"]
    (call,) = model.engine.calls
    assert (
        call.prompts == chats
        and [s.seed for s in call.settings] == [1, 2]
        and model.engine.options["dtype"] == "float32"
    )
    assert call.options == {
        "chat_template": "{{ messages[0]['content'] }}",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert model.complete([], [], WARM) == []
    heard: dict[int, Answer] = {}
    assert model.complete(chats, [1, 2], WARM, heard.__setitem__) == [heard[0], heard[1]]
    with pytest.raises(UserError, match="vLLM refuses a prompt: The decoder prompt is longer"):
        model.complete([[{"role": "user", "content": "too long"}]], [1], WARM)


def test_what_it_cannot_do(vllm: type, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backend=vllm doesn't score given answers"):
        VLLMModel(tiny, VLLMParams()).branch_log_probs([], [])
    (tmp_path / "broken").symlink_to(tiny)
    with pytest.raises(UserError, match="broken: vLLM can't load the model: unknown architecture"):
        VLLMModel(tmp_path / "broken", VLLMParams())


def test_whatever_vllm_raises_while_it_loads_names_the_checkpoint(
    vllm: type, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("tensor parallel")

    monkeypatch.setattr(LLM, "__init__", fail)
    with pytest.raises(UserError, match="vLLM can't load the model: AssertionError: tensor parallel"):
        VLLMModel(tiny, VLLMParams())


def test_without_vllm(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        UserError,
        match=r"needs vLLM, which can't be imported.*pip install 'rlaifv_kedro\[vllm\]'.*backend=openai",
    ):
        VLLMModel(tiny, VLLMParams())
