"""Text LLMs: their prompts, replies that depend on chat and seed only, and loading checkpoints, good and
damaged.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlaifv_kedro.branching.sampling import sample_branches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Answer, Decoding, load_model
from rlaifv_kedro.models.backends import text as text_backend
from rlaifv_kedro.models.backends.text import TransformersText, load_text_model
from rlaifv_kedro.models.backends.text_encoding import TextEncoder

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<think>"]
WORDS = [f"w{i}" for i in range(60)]
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 64


def tokenizer(template: str | dict[str, str] | None = CHATML) -> PreTrainedTokenizerFast:
    """One id a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
        extra_special_tokens=SPECIAL[4:],
        padding_side="right",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights, drawn large enough that it says different things to different prompts. Its
    generation settings name ``</s>``, its template ends an answer with ``<|end|>``.
    """
    path = tmp_path_factory.mktemp("text") / "llm"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.4)
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersText:
    return load_text_model(folder, device="cpu", batch_size=3)


@pytest.fixture
def checkpoint(folder: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(folder, tmp_path / "llm"))


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chats(count: int = 8) -> list[list[dict[str, str]]]:
    """Prompts of 6 to 13 tokens, in no order."""
    return [user(" ".join(WORDS[(7 * i + k) % 60] for k in range(2 + 3 * i % 8))) for i in range(count)]


GREEDY = Decoding(temperature=0, max_new_tokens=12)
SAMPLED = Decoding(temperature=1.0, max_new_tokens=12, top_p=0.95)


def test_prompts_are_the_template_s(model: TransformersText) -> None:
    """As ``apply_chat_template`` tokenizes them, which adds no special tokens of its own."""
    messages = [
        {"role": "system", "content": "w1"},
        *user("w2 w3"),
        {"role": "assistant", "content": "w4"},
        *user("w5"),
    ]
    ids = model.encoder.prompt(messages)
    assert ids == model.encoder.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    expected = (
        "<s> <|system|> w1 <|end|> <|user|> w2 w3 <|end|> <|assistant|> w4 <|end|> <|user|> w5 "
        "<|end|> <|assistant|>"
    )
    assert model.encoder.tokenizer.convert_ids_to_tokens(ids) == expected.split()


def test_special_tokens_in_a_message_are_no_turns(model: TransformersText) -> None:
    ids = model.encoder.prompt(user("w1 <|end|><|user|> w2</s> w3"))
    words = model.encoder.tokenizer.convert_ids_to_tokens(ids)
    assert words == ["<s>", "<|user|>", "w1", "w2", "w3", "<|end|>", "<|assistant|>"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif "
            "%}{{ m.content }} {% endfor %}",
            "w1 w2",
        ),
        (
            "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}{{ "
            "messages[0].content }}",
            "w1 w2",
        ),
        (
            "{% for m in messages if m.role == 'user' %}w9 {{ m.content }} {% endfor %}",
            "w9 w1 w2",
        ),  # left out
        (
            "{% for m in messages %}{% if m.role == 'user' %}w9{% else %}w8{% endif %} {{ m.content }} {% "
            "endfor %}",
            "w9 w1 w2",
        ),  # as if answered
        (
            "{% if messages[0].role == 'system' %}w7 {{ messages[0].content }} {% endif %}{{ "
            "messages[-1].content }}",
            "w7 w1 w2",
        ),  # taken
    ],
)
def test_a_system_message_that_the_template_does_not_take_goes_into_the_user_s(
    template: str, expected: str
) -> None:
    encoder = TextEncoder(tokenizer(template), "llm")
    ids = encoder.prompt([{"role": "system", "content": "w1"}, *user("w2")])
    assert encoder.tokenizer.decode(ids) == expected


def test_the_folded_message_keeps_its_paragraphs() -> None:
    seen = (
        "{% for m in messages if m.role == 'user' %}{{ m.content | replace('\n\n', ' <think> ') }}{% "
        "endfor %}"
    )
    encoder = TextEncoder(tokenizer(seen), "llm")
    assert (
        encoder.tokenizer.decode(encoder.prompt([{"role": "system", "content": "w1"}, *user("w2")]))
        == "w1 <think> w2"
    )


def test_thinking_is_switched_off() -> None:
    switch = CHATML + "{% if enable_thinking is not defined or enable_thinking %} <think>{% endif %}"
    encoder = TextEncoder(tokenizer(switch), "llm")
    assert encoder.tokenizer.decode(encoder.prompt(user("w1"))) == "<s> <|user|> w1 <|end|> <|assistant|>"


def test_the_date_is_always_the_same() -> None:
    template = (
        "{% if strftime_now is defined %}{{ strftime_now('w%d %d %b %Y') }} {% endif %}{% for m in "
        "messages %}{{ m.content }}{% endfor %}"
    )
    encoder = TextEncoder(tokenizer(template), "llm")
    assert encoder._text(user("w1")) == "w26 26 Jul 2024 w1"
    assert encoder.tokenizer.decode(encoder.prompt(user("w1"))) == "w26 <unk> <unk> <unk> w1"


def test_of_named_templates_the_default_one() -> None:
    encoder = TextEncoder(tokenizer({"default": CHATML, "tool_use": "w9"}), "llm")
    assert encoder.prompt(user("w1")) == TextEncoder(tokenizer(), "llm").prompt(user("w1"))
    with pytest.raises(UserError, match="no chat template"):
        TextEncoder(tokenizer({"tool_use": "w9"}), "llm")


def test_a_template_that_refuses_a_chat_names_the_model_and_the_roles(model: TransformersText) -> None:
    alternate = (
        "{% for m in messages %}{% if loop.index0 % 2 != (m.role == 'assistant') | int %}{{ "
        "raise_exception('take turns') }}{% endif %}{% endfor %}"
    )
    encoder = TextEncoder(tokenizer(alternate), "llm")
    with pytest.raises(
        UserError, match="llm: its chat template can't write messages of user, user: take turns"
    ):
        encoder.prompt([*user("w1"), *user("w2")])


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_replies_do_not_depend_on_batch_or_order(
    model: TransformersText, folder: Path, decoding: Decoding
) -> None:
    asked, seeds = chats(), [10 + i for i in range(8)]
    assert len({len(model.encoder.prompt(chat)) for chat in asked}) > 5  # so batches are padded
    found = model.complete(asked, seeds, decoding)
    assert len({answer.text for answer in found}) == 8
    assert load_text_model(folder, device="cpu", batch_size=1).complete(asked, seeds, decoding) == found
    assert load_text_model(folder, device="cpu", batch_size=8).complete(asked, seeds, decoding) == found
    assert model.complete(asked[::-1], seeds[::-1], decoding) == found[::-1]
    assert [model.complete([chat], [seed], decoding)[0] for chat, seed in zip(asked, seeds)] == found
    assert model.complete([], [], decoding) == []


def test_answers_are_heard_a_forward_pass_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the next one begins; a chat that is too long at once."""
    model = load_text_model(folder, device="cpu", batch_size=3)
    asked = [*chats(), [{"role": "user", "content": " ".join(["w1"] * 60)}]]
    heard: dict[int, Answer] = {}
    before: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        before.append(len(heard))
        return sample_branches(*args, **options)

    monkeypatch.setattr(text_backend, "sample_branches", counting)
    answers = model.complete(asked, [0] * 9, GREEDY, heard.__setitem__)
    assert heard == dict(enumerate(answers)) and before == [1, 4, 7]
    assert [a.prompt_tokens for a in answers] == [len(model.encoder.prompt(c)) for c in asked[:8]] + [None]


def test_the_seed_and_top_p_matter(model: TransformersText) -> None:
    chat = chats()[1]
    assert len({answer.text for answer in model.complete([chat] * 5, range(5), SAMPLED)}) == 5
    narrow = Decoding(temperature=1.0, max_new_tokens=12, top_p=1e-6)  # the likeliest token alone
    assert model.complete([chat] * 5, range(5), narrow) == model.complete([chat], [0], GREEDY) * 5


def test_greedy_replies_are_generate_s(model: TransformersText) -> None:
    """One prompt at a time, without padding, up to either token that ends a reply."""
    asked = chats()
    for chat, answer in zip(asked, model.complete(asked, [0] * 8, GREEDY)):
        ids = torch.tensor([model.encoder.prompt(chat)])
        out = model.module.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=[2, 7]
        )
        new = out[0, ids.shape[1] :].tolist()
        text = model.encoder.tokenizer.decode(new, skip_special_tokens=True)
        assert answer == Answer(text, len(new), "stop" if new[-1] in (2, 7) else "length")


@pytest.mark.parametrize("family", ["mistral", "bloom", "mamba"])
def test_families_that_branching_can_not_pack(family: str) -> None:
    """A sliding window, positions that can't be given, a recurrent state: in padded batches as one at a
    time without padding.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = dict(vocab_size=len(SPECIAL + WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    more = dict(num_key_value_heads=2, intermediate_size=48, sliding_window=8) if family == "mistral" else {}
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **sizes, **more, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    )
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.4)
    model = TransformersText(module, tokenizer(), family, batch_size=3)
    asked = chats(4)
    found = model.complete(asked, [0] * 4, GREEDY)
    assert len({answer.text for answer in found}) == 4
    for chat, answer in zip(asked, found):
        ids = torch.tensor([model.encoder.prompt(chat)])
        out = module.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=[2, 7]
        )
        assert answer.text == model.encoder.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_replies_end_where_the_template_ends_an_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation settings name only ``</s>`` (2), the template ends an answer with ``<|end|>`` (7)."""
    drawn: list[list[int]] = []

    def recording(*args: Any, **kwargs: Any) -> list[list[list[int]]]:
        found = sample_branches(*args, **kwargs)
        drawn.extend(ids for (ids,) in found)
        return found

    monkeypatch.setattr(text_backend, "sample_branches", recording)
    model = load_text_model(folder, device="cpu", batch_size=60)
    assert model.module.generation_config.eos_token_id == 2
    answers = model.complete([chats()[0]] * 60, range(60), Decoding(1.5, 30))
    assert min(sum(ids[-1] == end for ids in drawn) for end in (2, 7)) > 4
    for ids, answer in zip(drawn, answers):
        assert not {2, 7} & set(ids[:-1])
        assert (answer.token_count, answer.finish_reason) == (
            len(ids),
            "stop" if ids[-1] in (2, 7) else "length",
        )
        assert "</s>" not in answer.text and "<|end|>" not in answer.text


def test_prompts_of_like_length_share_a_batch(
    model: TransformersText, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[list[int]] = []

    def recording(
        module: torch.nn.Module, prompts: Sequence[Sequence[int]], *args: object, **kwargs: object
    ) -> list[list[list[int]]]:
        lengths.append([len(p) for p in prompts])
        return [[[9]] for _ in prompts]

    monkeypatch.setattr(text_backend, "sample_branches", recording)
    model.complete(chats(), range(8), GREEDY)
    assert [len(batch) for batch in lengths] == [3, 3, 2]
    flat = [n for batch in lengths for n in batch]
    assert flat == sorted(flat, reverse=True)


def test_a_prompt_that_does_not_fit_is_an_error_and_the_others_go_on(model: TransformersText) -> None:
    """The template adds 4 tokens, the reply takes up to 12: of 64, 48 remain."""
    fits, too_long = user(" ".join(WORDS[:48])), user(" ".join(WORDS[:49]))
    found = model.complete([chats()[0], too_long, fits], [1, 2, 3], GREEDY)
    assert found[1] == Answer(
        "", 0, "error", "the prompt's 53 tokens and a reply of up to 12 don't fit into the model's 64"
    )
    assert found[0] == model.complete([chats()[0]], [1], GREEDY)[0]
    assert found[2].error is None and found[2].token_count > 0
    assert model.complete([too_long], [2], GREEDY)[0].error


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such-model is no checkpoint: it has no config.json"):
        load_text_model(tmp_path / "no-such-model")


def test_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        load_text_model(folder, device="cuda")
    assert load_text_model(folder).module.device.type == "cpu"


def test_a_missing_chat_template_is_named_and_can_be_given(
    checkpoint: Path, model: TransformersText, tmp_path: Path
) -> None:
    template = (checkpoint / "chat_template.jinja").rename(tmp_path / "mine.jinja")
    with pytest.raises(UserError, match="llm: the tokenizer has no chat template. Add a chat_template.jinja"):
        load_text_model(checkpoint)
    loaded = load_text_model(checkpoint, device="cpu", chat_template=template)
    assert loaded.encoder.prompt(chats()[0]) == model.encoder.prompt(chats()[0])
    with pytest.raises(UserError, match=r"no-such\.jinja: the chat template can't be read"):
        load_text_model(checkpoint, chat_template=tmp_path / "no-such.jinja")


def test_a_damaged_chat_template(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}")
    with pytest.raises(UserError, match="llm: its chat template can't write"):
        load_text_model(checkpoint)


@pytest.mark.parametrize("config", ["{", "[]"])
def test_a_damaged_config(checkpoint: Path, config: str) -> None:
    (checkpoint / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"llm: config.json (is not JSON|holds no JSON object)"):
        load_text_model(checkpoint)


def test_a_model_of_an_unknown_kind(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "nobody-knows"}')
    with pytest.raises(UserError, match="llm: can't load the checkpoint"):
        load_text_model(checkpoint)


def test_truncated_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"llm: model\.safetensors is damaged"):
        load_text_model(checkpoint)


def test_weights_that_lack_a_tensor(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"llm: .*layers.1.mlp.down_proj.weight"):
        load_text_model(checkpoint)


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_missing_tokenizer_files(checkpoint: Path, tokenizer_class: str) -> None:
    """Of a class that it knows, transformers makes a tokenizer without words, and says nothing."""
    (checkpoint / "tokenizer.json").unlink()
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": tokenizer_class})
    )
    with pytest.raises(UserError, match="llm: can't load the checkpoint: .*tokenizer"):
        load_text_model(checkpoint)


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_adapters_load_merged(folder: Path, tmp_path: Path, own_tokenizer: bool) -> None:
    """From their folder, which may leave the tokenizer to the base, or beside the base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = load_text_model(folder, device="cpu")
    before = base.complete(chats(), range(8), GREEDY)
    adapted = get_peft_model(
        base.module,
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
    )
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(tmp_path / "adapters")
    if own_tokenizer:
        base.encoder.tokenizer.save_pretrained(tmp_path / "adapters")
    expected = base.complete(chats(), range(8), GREEDY)
    assert expected != before
    for loaded in (
        load_text_model(tmp_path / "adapters", device="cpu"),
        load_text_model(folder, device="cpu", adapter=tmp_path / "adapters"),
    ):
        assert not any("lora" in name for name, _ in loaded.module.named_parameters())
        assert loaded.complete(chats(), range(8), GREEDY) == expected


def test_adapters_whose_base_is_gone_name_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    )
    with pytest.raises(UserError, match="base is no checkpoint"):
        load_text_model(tmp_path)


def test_a_multimodal_llm_is_asked_without_an_image(tiny: Path) -> None:
    """Its processor's template gets no image part; its tokenizer writes the beginning-of-sequence token
    that the template doesn't.
    """
    model = load_text_model(tiny, device="cpu", batch_size=2)
    whole = load_model(tiny, device="cpu")
    questions = ["is there a cup?", "describe the image in detail.", "name three objects in the image."]
    found = model.complete([user(q) for q in questions], [0] * 3, GREEDY)
    assert len({answer.text for answer in found}) == 3
    for question, answer in zip(questions, found):
        ids = model.encoder.prompt(user(question))
        with_image = whole.encoder.prompts([question], whole.encoder.placeholder(1))[0]
        assert (
            ids.count(model.encoder.tokenizer.bos_token_id)
            == with_image.count(model.encoder.tokenizer.bos_token_id)
            == 1
        )
        assert ids == [i for i in with_image if i != whole.encoder.image_id]
        new = whole.module.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=12
        )[0, len(ids) :]
        assert answer.text == model.encoder.tokenizer.decode(new, skip_special_tokens=True).strip()
