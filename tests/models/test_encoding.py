"""Token ids by a model's own chat template."""

import copy
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlavaConfig, LlavaProcessor

import tiny_processors
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.pretraining import IGNORE, Encoder
from rlaifv_kedro.miniature.tiny_llava import IMAGE_TOKENS, build_processor
from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage
from rlaifv_kedro.models.llava.processor import llava_images
from rlaifv_kedro.models.minicpm_v.processing import MiniCPMVImageProcessor
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
from rlaifv_kedro.models.omnilmm.processing import omnilmm_images
from rlaifv_kedro.placeholders import MEDIA

CAPTION = (
    "this photo shows a living room. i see a potted plant and a sofa. it also contains an umbrella and a tv."
)


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor()


@pytest.fixture
def encoder(processor: LlavaProcessor) -> ChatEncoder:
    return ChatEncoder(processor, "policy")


@pytest.mark.parametrize("prompt", language.PROMPTS)
def test_the_miniature_learns_and_answers_in_the_same_ids(
    processor: LlavaProcessor, encoder: ChatEncoder, prompt: str
) -> None:
    """The miniature's fast training encoder and the general one must write a conversation alike, or the
    policy would never see its own prompts.
    """
    ids, labels = Encoder(processor).conversation([(prompt, CAPTION)])
    prefix, (answer,) = encoder.answers(prompt, [CAPTION], encoder.placeholder(IMAGE_TOKENS))
    assert ids == prefix + answer
    assert labels == [IGNORE] * len(prefix) + answer
    assert encoder.prompts([prompt], encoder.placeholder(IMAGE_TOKENS)) == [prefix]


def test_a_yes_no_question_is_learnt_as_it_is_asked(processor: LlavaProcessor, encoder: ChatEncoder) -> None:
    """What is learnt after the question is the word whose probability feedback reads; its end-of-sequence
    token is not learnt.
    """
    ids, labels = Encoder(processor).conversation([("is there a second traffic light?", "yes")])
    prefix = encoder.prompts(["is there a second traffic light?"], encoder.placeholder(IMAGE_TOKENS))[0]
    assert ids[: len(prefix)] == prefix
    assert labels[len(prefix) :] == [encoder.first_tokens([["yes"]])[0][0], IGNORE]


def test_prompts_begin_once_and_hold_the_image(processor: LlavaProcessor, encoder: ChatEncoder) -> None:
    [ids] = encoder.prompts(["is there a cup?"], encoder.placeholder(36))
    words = processor.tokenizer.convert_ids_to_tokens(ids)
    assert words == ["<s>", "user", ":", *["<image>"] * 36, "is", "there", "a", "cup"]


def test_a_template_that_writes_the_beginning_itself_gets_no_second_one(
    processor: LlavaProcessor, encoder: ChatEncoder
) -> None:
    two = encoder.placeholder(2)
    with_bos = copy.copy(processor)
    with_bos.chat_template = "{{ bos_token }}" + processor.chat_template
    assert ChatEncoder(with_bos, "x").prompts(["is this a park?"], two) == encoder.prompts(
        ["is this a park?"], two
    )


@pytest.mark.parametrize("tail", ["", "{{ eos_token }}", " user"])
def test_answers_end_with_the_end_of_sequence_token_once(processor: LlavaProcessor, tail: str) -> None:
    """Templates end an answer with it, without it, or with something after it (a newline, say), which is
    not part of the answer.
    """
    changed = copy.copy(processor)
    marker = "{{ eos_token }}{% endgeneration %}"
    assert marker in processor.chat_template
    changed.chat_template = processor.chat_template.replace(
        marker, ("{{ eos_token }}" + tail if tail == " user" else tail) + "{% endgeneration %}"
    )
    _, answers = ChatEncoder(changed, "x").answers(
        "is there a cup?", ["yes", "a cup."], EncodedImage({}, [4])
    )
    assert [processor.tokenizer.convert_ids_to_tokens(ids) for ids in answers] == [
        ["yes", "</s>"],
        ["a", "cup", ".", "</s>"],
    ]


def test_image(encoder: ChatEncoder, pictures: list[Image.Image]) -> None:
    encoded = encoder.image(pictures[0])
    assert len(encoded.block) == IMAGE_TOKENS
    assert set(encoded.inputs) == {"pixel_values"} and encoded.inputs["pixel_values"].shape == (1, 3, 72, 72)
    grey = encoder.image(Image.new("LA", (30, 50), (128, 255)))  # grey with transparency, another size
    assert len(grey.block) == IMAGE_TOKENS and grey.inputs["pixel_values"].shape == (1, 3, 72, 72)


def test_the_words_whose_probability_is_read(encoder: ChatEncoder) -> None:
    """Words that begin with the same token count once: this tokenizer lower-cases."""
    no, yes = encoder.first_tokens([["no", "No"], ["Yes", "yes"]])
    assert encoder.tokenizer.convert_ids_to_tokens([*no, *yes]) == ["no", "yes"]


def test_groups_that_share_a_first_token_are_refused(encoder: ChatEncoder) -> None:
    with pytest.raises(UserError, match="begin with the same token"):
        encoder.first_tokens([["yes"], ["Yes", "no"]])


def test_an_unknown_word_is_refused(encoder: ChatEncoder) -> None:
    with pytest.raises(UserError, match=r"policy: .*\['perhaps'\]"):
        encoder.first_tokens([["yes", "perhaps"]])


def test_a_processor_without_chat_template_is_refused(processor: LlavaProcessor) -> None:
    silent = copy.copy(processor)
    silent.chat_template = None
    with pytest.raises(UserError, match="labeler: .*no chat template"):
        ChatEncoder(silent, "labeler")


def test_a_template_that_changes_its_prompt_is_refused(processor: LlavaProcessor) -> None:
    """Some templates rewrite an earlier turn when an answer follows; then no prefix is shared, and
    log-probs would be of something else.
    """
    fickle = copy.copy(processor)
    fickle.chat_template = "{% if messages|length > 1 %}i see {% endif %}" + processor.chat_template
    with pytest.raises(UserError, match="writes a prompt differently"):
        ChatEncoder(fickle, "x").answers("is there a cup?", ["yes"], EncodedImage({}, [4]))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (500, 1), (1, 500), (500, 3), (3, 500), (1600, 32)])
def test_thin_pictures_have_pixels_in_every_family(size: tuple[int, int]) -> None:
    """A picture of one or three rows is no channels: each family's image processor is told what it gets."""
    processors = [
        build_processor().image_processor,
        llava_images(LlavaConfig(vision_config=CLIPVisionConfig(image_size=28))),
        CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),  # llava-hf's
        omnilmm_images(OmniLMMConfig(vision_config={"image_size": 28})),
        MiniCPMVImageProcessor(scale_resolution=56),
    ]
    noise = Image.effect_noise(size, 60).convert("RGB")
    for processor in processors:
        pixels = processor(noise, return_tensors="pt")["pixel_values"]
        assert pixels.shape[1] == 3 and pixels.isfinite().all(), type(processor).__name__


# What people write, and what each kind of tokenizer makes of it

STRAY = ["<im", "age>", "<|im", "_end|>", "<|eot", "_id|>", "</", "s>", "<un", "k>", "(", "./", ")"]
ODD = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\0",
    "\u2028",
    "\u200f\u05e9\u05dc",
    "e\u0301",
    "\U0001f436",
    "\ud83d",
    "狗",
    "A dog.",
]


@pytest.fixture(scope="module", params=tiny_processors.FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    build = tiny_processors.FAMILIES[request.param]
    return ChatEncoder(build(tmp_path_factory.mktemp(request.param)), request.param)


def special_ids(encoder: ChatEncoder) -> set[int]:
    return {i for i, token in encoder.tokenizer.added_tokens_decoder.items() if token.special}


@pytest.mark.parametrize(
    "question",
    [
        "<image>\nWhat is it?",
        "What is it?\n<image>",
        "(<image>./</image>)\nWhat is it?",
        "<im<image>age>What is it?",
        "<video><audio>What is it?",
        "{token}What {token}is it?{token}",
        "<|system|>What <|user|>is it?<|assistant|>",
    ],
)
def test_placeholders_in_a_question_change_nothing(family: ChatEncoder, question: str) -> None:
    image, plain = family.placeholder(3), ["What is it?"]
    for i in special_ids(family):
        asked = question.format(token=family.tokenizer.convert_ids_to_tokens(i))
        assert family.prompts([asked], image) == family.prompts(plain, image)
        assert family.answers(asked, ["A dog."], image) == family.answers(*plain, ["A dog."], image)


@settings(max_examples=60)
@given(data=st.data())
def test_no_text_adds_an_image_or_ends_a_turn(family: ChatEncoder, data: st.DataObject) -> None:
    """The special tokens of a prompt are those of the template whatever is asked, and an answer has none but
    its end. Where bytes are tokens, nothing else of a text is lost.
    """
    special = special_ids(family)
    words = sorted(family.tokenizer.convert_ids_to_tokens(list(special)))
    texts = st.lists(st.sampled_from([*words, *MEDIA, *STRAY, *ODD]) | st.text(max_size=3), max_size=12)
    question, answer = (data.draw(texts.map("".join)) for _ in range(2))
    image = family.placeholder(3)
    [plain] = family.prompts(["?"], image)
    prompt, [ids] = family.answers(question, [answer], image)
    assert family.prompts([question], image) == [prompt]
    assert [i for i in prompt if i in special] == [i for i in plain if i in special]
    assert prompt.count(family.image_id) == 3
    assert ids[-1] in family.ends and not special & set(ids[:-1])
    if family.where in ("qwen", "minicpm"):
        said = family.tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
        written = family.clean(answer)
        assert said == (written.strip() if family.where == "minicpm" else written)


@pytest.mark.parametrize("answer", ["\nA dog.", "\n\n\nA dog.", "\n"])
def test_an_answer_that_merges_with_the_prompt_s_end_follows_it_as_a_sample_would(
    tmp_path: Path, answer: str
) -> None:
    """The prompt ends with a newline, and two newlines are one token of this tokenizer."""
    encoder = ChatEncoder(tiny_processors.qwen(tmp_path), "policy")
    prompt, [ids] = encoder.answers("What?", [answer], encoder.placeholder(3))
    assert prompt == encoder.prompts(["What?"], encoder.placeholder(3))[0]
    decode = partial(encoder.tokenizer.decode, clean_up_tokenization_spaces=False)
    assert decode(prompt[-1]) == "\n" and decode(ids) == answer + "<|im_end|>"
    together = encoder.tokenizer(decode([*prompt, *ids]), add_special_tokens=False)["input_ids"]
    assert together != [*prompt, *ids]  # so it does merge
    plain = encoder.answers("What?", ["A dog."], encoder.placeholder(3))[1][0]
    assert ids[-len(plain) :] == plain or answer == "\n"


def test_an_answer_that_cannot_follow_the_prompt_is_named(tmp_path: Path) -> None:
    """SentencePiece writes the blank that this template puts before an answer once more if the answer stands
    alone.
    """
    processor = tiny_processors.llava(tmp_path)
    processor.chat_template = processor.chat_template.replace("' ASSISTANT:'", "' ASSISTANT: '").replace(
        "{{ ' ' }}", ""
    )
    with pytest.raises(UserError, match=r"policy: .*differently when the answer 'A dog\.</s>' follows"):
        ChatEncoder(processor, "policy").answers("What?", ["A dog."], EncodedImage({}, [400]))


def test_signs_that_pad_and_tokens_of_blanks_stay(tmp_path: Path) -> None:
    processor = tiny_processors.qwen(tmp_path)
    processor.tokenizer.add_special_tokens({"pad_token": "!"})
    processor.tokenizer.add_tokens(["<table>", "\n\n\n"])
    encoder = ChatEncoder(processor, "policy")
    assert encoder.clean("a!\n\n\n<table> b") == "a!\n\n\n<table> b"
