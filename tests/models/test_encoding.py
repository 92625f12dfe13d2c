"""Token ids by a model's own chat template."""

import copy

import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlavaConfig, LlavaProcessor

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.pretraining import IGNORE, Encoder
from rlaifv_kedro.miniature.tiny_llava import IMAGE_TOKENS, build_processor
from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage
from rlaifv_kedro.models.llava.processor import llava_images
from rlaifv_kedro.models.minicpm_v.processing import MiniCPMVImageProcessor
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
from rlaifv_kedro.models.omnilmm.processing import omnilmm_images

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
