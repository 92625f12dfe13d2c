"""What pictures and prompts become before a LLaVA sees them, and processors that leave something out."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from real_layouts import LLAVA_SYSTEM, QUESTIONS, published
from rlaifv_kedro import found_out
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.found_out import taken
from rlaifv_kedro.models import Question, load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.models.llava.processor import chat_template

SIDE = 72
CLIP = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "LlavaProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": SIDE},
}
"""The preprocessor_config.json that llava-hf published with LLaVA-1.5-7B in 2023, for smaller pictures."""
WITHOUT_SYSTEM = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}"
    "{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def change(folder: Path, name: str, **values: Any) -> None:
    """Set values of a JSON file, or take out those that are None."""
    content = {**json.loads((folder / name).read_text()), **values}
    (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "policy"))


@pytest.fixture
def old(folder: Path) -> Path:
    """As llava-hf published LLaVA-1.5 at first."""
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP))
    return folder


@pytest.fixture
def original(tmp_path: Path) -> Path:
    lines = [LLAVA_SYSTEM, "USER: ASSISTANT:", *QUESTIONS]
    published("llava_original", tmp_path / "original", lines, byte_fallback=False)
    return tmp_path / "original"


def pixels(model: TransformersModel, picture: Image.Image) -> torch.Tensor:
    return model.encoder.image(picture).inputs["pixel_values"]


WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 96, 3), dtype=np.uint8))


def by_hand(picture: Image.Image, padded: bool, side: int = SIDE) -> torch.Tensor:
    """The original's expand2square, then CLIP's processing: bicubic to the shorter side, the middle cut out."""
    if padded:
        square = Image.new("RGB", (max(picture.size),) * 2, (122, 116, 104))
        square.paste(picture, ((square.width - picture.width) // 2, (square.width - picture.height) // 2))
        picture = square
    scale = side / min(picture.size)
    resized = picture.resize([int(n * scale) for n in picture.size], Image.Resampling.BICUBIC)
    left, top = ((n - side) // 2 for n in resized.size)
    cut = np.asarray(resized.crop((left, top, left + side, top + side))) / 255
    values = (cut - np.array(CLIP["image_mean"])) / np.array(CLIP["image_std"])
    return torch.tensor(values, dtype=torch.float32).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("asked", "padded"), [(None, True), ("pad", True), ("crop", False)])
def test_a_published_llava_pads_unless_it_is_told_to_crop(
    old: Path, tmp_path: Path, asked: str | None, padded: bool
) -> None:
    """Its own processor would crop: 3/8 of this picture. What is saved gives the same pixels again."""
    model = load_model(old, device="cpu", image_aspect_ratio=asked)
    found = pixels(model, WIDE)
    torch.testing.assert_close(found, by_hand(WIDE, padded), atol=1e-5, rtol=0)
    assert not torch.allclose(found, by_hand(WIDE, not padded), atol=0.5)
    model.module.save_pretrained(tmp_path / "again")
    model.processor.save_pretrained(tmp_path / "again")
    assert torch.equal(pixels(load_model(tmp_path / "again", device="cpu"), WIDE), found)


@pytest.mark.parametrize(
    ("stated", "asked", "padded"),
    [
        ("pad", None, True),
        ("square", None, False),
        (None, None, False),
        ("square", "pad", True),
        ("pad", "crop", False),
    ],
)
def test_the_original_layout_states_how_it_sees_pictures(
    original: Path, tmp_path: Path, stated: str | None, asked: str | None, padded: bool
) -> None:
    """mm_utils.py pads for ``pad`` and else takes CLIP's processor as it is, which crops."""
    change(original, "config.json", image_aspect_ratio=stated)
    model = load_model(original, device="cpu", image_aspect_ratio=asked)
    found = pixels(model, WIDE)
    torch.testing.assert_close(found, by_hand(WIDE, padded, 336), atol=1e-5, rtol=0)
    model.module.save_pretrained(tmp_path / "again")
    model.processor.save_pretrained(tmp_path / "again")
    assert torch.equal(pixels(load_model(tmp_path / "again", device="cpu"), WIDE), found)


def test_tiles_are_refused(original: Path) -> None:
    change(original, "config.json", image_aspect_ratio="anyres")
    with pytest.raises(UserError, match="image_aspect_ratio is 'anyres': images are cut in tiles"):
        load_model(original, device="cpu")


def test_a_processor_that_neither_pads_nor_cuts_stays_as_it_is(
    folder: Path, pictures: list[Image.Image]
) -> None:
    """The miniature's resizes the whole picture; it can be told to pad, with its own colours."""
    model, padding = (load_model(folder, device="cpu", image_aspect_ratio=a) for a in (None, "pad"))
    assert type(model.processor.image_processor).__name__ == "CLIPImageProcessorPil"
    assert torch.equal(pixels(model, pictures[0]), pixels(padding, pictures[0]))  # squares are left alone
    corner = pixels(padding, WIDE)[0, :, 0, 0]
    torch.testing.assert_close(corner, torch.full((3,), (127 / 255 - 0.5) / 0.25), atol=1e-5, rtol=0)


def test_what_was_decided_is_said_once_and_kept(
    old: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    taken()  # of other tests
    monkeypatch.setattr(found_out, "_SAID", set())
    (old / "chat_template.jinja").write_text(WITHOUT_SYSTEM)
    own = [load_model(old, device="cpu") for _ in range(2)][0]
    named = load_model(old, device="cpu", chat_template="llava_v1", image_aspect_ratio="crop")
    said = [record.message for record in caplog.records if "pictures are" in record.message]
    assert said == [
        f"{old}: pictures are padded to a square with the mean colour; prompts are written by the "
        "checkpoint's own chat template",
        f"{old}: pictures are cut to a square, without the ends of their longer side; prompts are written by "
        "chat_template=llava_v1",
    ]
    assert taken() == {str(old): said[1].removeprefix(f"{old}: ")}
    assert own.encoder.prompt_text("What?") == "USER: <image>\nWhat? ASSISTANT:"
    assert named.encoder.prompt_text("What?") == f"{LLAVA_SYSTEM} USER: <image>\nWhat? ASSISTANT:"
    assert named.processor.chat_template == chat_template()


def test_only_llava_has_the_choice(folder: Path, tmp_path: Path) -> None:
    published("omnilmm", tmp_path / "omnilmm", [LLAVA_SYSTEM, "<|system|> <|user|> <|assistant|>"])
    with pytest.raises(UserError, match=r"image_aspect_ratio=pad, but only LLaVA-1\.5 has a choice"):
        load_model(tmp_path / "omnilmm", device="cpu", image_aspect_ratio="pad")


def without(name: str, key: str) -> Callable[[Path], None]:
    return lambda folder: change(folder, name, **{key: None})


def move_template(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", chat_template=text)


def name_template(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", chat_template=[{"name": "default", "template": text}])


def as_transformers_4(folder: Path) -> None:
    """One file for the image processor, and no word on how many tokens an image takes."""
    content = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(content["image_processor"]))
    (folder / "processor_config.json").unlink()


def with_mark(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@pytest.mark.parametrize(
    "age",
    [
        without("processor_config.json", "patch_size"),
        without("processor_config.json", "vision_feature_select_strategy"),
        without("processor_config.json", "num_additional_image_tokens"),
        as_transformers_4,
        move_template,
        name_template,
        with_mark,
        without("tokenizer_config.json", "eos_token"),
        without("tokenizer_config.json", "pad_token"),
        without("config.json", "image_seq_length"),
        lambda folder: (folder / "generation_config.json").unlink(),
        lambda folder: change(folder, "generation_config.json", temperature=0.9, top_p=0.6, do_sample=False),
    ],
)
def test_what_old_folders_leave_out_is_taken_from_the_config(
    folder: Path, tiny: Path, pictures: list[Image.Image], tmp_path: Path, age: Callable[[Path], None]
) -> None:
    """The same log-prob as of the whole folder; and a training could save it."""
    age(folder)
    asked = [Question(pictures[0], "is there a cup?")], [["yes"]]
    model, whole = (load_model(path, device="cpu") for path in (folder, tiny))
    assert model.branch_log_probs(*asked) == whole.branch_log_probs(*asked)
    model.module.save_pretrained(tmp_path / "again")


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def add_token(folder: Path) -> None:
    """A padding token that was added without a row in the embeddings."""
    described = json.loads((folder / "tokenizer.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    described["added_tokens"].append({**described["added_tokens"][0], "id": rows, "content": "<new>"})
    (folder / "tokenizer.json").write_text(json.dumps(described))


def no_end(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    change(folder, "tokenizer_config.json", eos_token=None)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = None
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: change(f, "processor_config.json", patch_size=8),
            "has 81 image tokens .* makes 36 features",
        ),
        (
            lambda f: change(f, "processor_config.json", vision_feature_select_strategy="full"),
            "has 37 image tokens .* makes 36 features",
        ),
        (
            lambda f: change(f, "config.json", image_token_index=5, image_token_id=5),
            r"0 image tokens \(id 5\)",
        ),
        (template("{% for m in messages %}a{% endfor %}"), "can't write a question about a picture"),
        (
            template("{% for m in messages %}"),
            "its chat template can't write a question with a picture: Unexpected",
        ),
        (template("{{ raise_exception('no pictures') }}"), "chat template can't write .*: no pictures"),
        (template("{{ messages.__class__.__mro__ }}"), "chat template can't write .* unsafe"),
        (template("{{ messages[9].content }}"), "chat template can't write"),
        (template("{{ nobody.knows }}"), "chat template can't write"),
        (template("{{ 1 / 0 }}"), "chat template can't write"),
        (template("{{ messages | nofilter }}"), "chat template can't write"),
        (template(""), "no chat template"),
        (template("<image> say something"), "chat template leaves out the question or the answer"),
        (
            template("<image>{% for m in messages if m.role == 'user' %}{{ m.content[1].text }}{% endfor %}"),
            "chat template leaves out the question or the answer",
        ),
        (
            lambda f: change(f, "generation_config.json", eos_token_id="2"),
            "eos_token_id is '2', which are no",
        ),
        (
            lambda f: change(f, "config.json", eos_token_id="2"),
            "config.json: eos_token_id is '2', which are no",
        ),
        (
            lambda f: change(f, "generation_config.json", suppress_tokens=[-1]),
            r"suppress_tokens is \[-1\], which are no token ids",
        ),
        (lambda f: change(f, "generation_config.json", suppress_tokens=5), "suppress_tokens is 5, which"),
        (add_token, "tokens for which the model has no embedding .*<new>"),
        (no_end, "names a token that ends an answer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "its processor or tokenizer can't be loaded"),
        (lambda f: (f / "processor_config.json").unlink(), "its processor or tokenizer can't be loaded"),
        (lambda f: (f / "tokenizer.json").write_bytes(b"\x00" * 99), "tokenizer.json is not JSON"),
        (
            lambda f: (f / "chat_template.jinja").write_text("version https://git-lfs.github.com/spec/v1\n"),
            "chat_template.jinja is a Git LFS pointer",
        ),
        (
            lambda f: change(f, "processor_config.json", processor_class="NobodysProcessor"),
            "has no whole processor",
        ),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=said):
        load_model(folder, device="cpu")


def test_words_that_a_tokenizer_does_not_know_apart_are_no_fault_of_the_template(old: Path) -> None:
    """A miniature that says Yes and No: "yes" and "no" are both unknown to it."""
    tokenizer = json.loads((old / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {
        word.replace("yes", "Yes").replace("no", "No"): i for word, i in words.items()
    }
    (old / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_model(old, device="cpu").encoder
    assert encoder.tokenizer.encode("yes") == encoder.tokenizer.encode("no")
