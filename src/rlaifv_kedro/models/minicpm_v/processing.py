"""Images and text for MiniCPM-Llama3-V 2.5: adaptive slicing, placeholders, Llama 3's chat template.

The classes have the names that the release's files call them by, so that ``AutoProcessor`` finds them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BaseImageProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_transforms import to_pil_image
from transformers.image_utils import ImageInput, make_flat_list_of_images

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.folder import PROCESSORS, CheckpointFolder
from rlaifv_kedro.models.minicpm_v.slicing import Slicing, slicing
from rlaifv_kedro.pixels import as_seen

# A message's parts are joined by newlines and trimmed, as the release's chat code does; an image is one
# placeholder until it is known.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['content'] is string %}{% set text = message['content'] | trim %}{% else %}"
    "{% set parts = namespace(all=[]) %}"
    "{% for part in message['content'] %}"
    "{% set parts.all = parts.all + [unk_token if part['type'] == 'image' else part['text']] %}"
    "{% endfor %}{% set text = parts.all | join('\n') | trim %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ text + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ text + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Ends an answer. The release's tokenizer has <|end_of_text|> as its end-of-sequence token, and its chat code
# stops at both.
END_OF_TURN = "<|eot_id|>"
# The release's tokenizer class has these as attributes; the file layout alone doesn't name them.
_MARKS = {"im_start": "<image>", "im_end": "</image>", "slice_start": "<slice>", "slice_end": "</slice>"}


class MiniCPMVImageProcessor(BaseImageProcessor):
    """Slices of images as rows of patches.

    Args:
        max_slice_nums, scale_resolution, patch_size: See
            :func:`rlaifv_kedro.models.minicpm_v.slicing.slicing`.
        image_feature_size: Features, and so placeholders, of a slice: ``query_num`` of the model.
        image_mean, image_std: For the normalisation of each colour; the release calls them ``norm_mean`` and
            ``norm_std``.

    Raises:
        UserError: The file is that of another MiniCPM-V.
    """

    model_input_names = ["pixel_values", "tgt_sizes", "slice_counts"]

    def __init__(
        self,
        max_slice_nums: int = 9,
        scale_resolution: int = 448,
        patch_size: int = 14,
        image_feature_size: int = 96,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        if str(kwargs.pop("version", "2.5")) != "2.5" or kwargs.pop("use_image_id", False):
            raise UserError(
                "this image processor is that of another MiniCPM-V; only MiniCPM-Llama3-V 2.5 is supported."
            )
        half = [0.5, 0.5, 0.5]
        self.image_mean = list(image_mean or kwargs.pop("norm_mean", half))
        self.image_std = list(image_std or kwargs.pop("norm_std", half))
        self.max_slice_nums, self.scale_resolution = max_slice_nums, scale_resolution
        self.patch_size, self.image_feature_size = patch_size, image_feature_size
        super().__init__(processor_class=kwargs.pop("processor_class", None))

    def slicing(self, size: tuple[int, int]) -> Slicing:
        """How an image of this (width, height) is cut."""
        return slicing(size, self.max_slice_nums, self.scale_resolution, self.patch_size)

    def slices(self, image: Image.Image) -> list[Image.Image]:
        """The overview and then the cells of the grid, row by row."""
        image = as_seen(image)
        plan = self.slicing(image.size)
        result = [image.resize(plan.overview, Image.Resampling.BICUBIC)]
        if plan.grid != (0, 0):
            refined = image.resize(plan.refined, Image.Resampling.BICUBIC)
            width, height = plan.slice_size
            corners = [
                (column * width, row * height)
                for row in range(plan.grid[1])
                for column in range(plan.grid[0])
            ]
            result += [refined.crop((left, top, left + width, top + height)) for left, top in corners]
        return result

    def preprocess(self, images: ImageInput, return_tensors: str | None = None) -> BatchFeature:
        """Encode images, each as a sample of its own.

        Returns:
            ``pixel_values`` float32 (slices of all images, 3, patch, patch * patches of the largest slice),
            ``tgt_sizes`` int64 (slices, 2) rows and columns of patches, ``slice_counts`` int64 (images,),
            ``image_grids`` int64 (images, 2) columns and rows of slices.
        """
        pictures = [
            i if isinstance(i, Image.Image) else to_pil_image(i) for i in make_flat_list_of_images(images)
        ]
        slices = [self.slices(picture) for picture in pictures]
        patched = [self._patches(cell) for cells in slices for cell in cells]
        width = max(p.shape[-1] for p in patched)
        data = {
            "pixel_values": np.stack(
                [np.pad(p, ((0, 0), (0, 0), (0, width - p.shape[-1]))) for p in patched]
            ),
            "tgt_sizes": np.array(
                [
                    (cell.height // self.patch_size, cell.width // self.patch_size)
                    for cells in slices
                    for cell in cells
                ]
            ),
            "slice_counts": np.array([len(cells) for cells in slices]),
            "image_grids": np.array([self.slicing(picture.size).grid for picture in pictures]),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def _patches(self, image: Image.Image) -> np.ndarray:
        """Normalised pixels of an image, its patches in a row: float32 (3, patch, patches * patch).

        Patches go from left to right and from top to bottom.
        """
        pixels = np.asarray(image, dtype=np.float32) / 255  # (height, width, 3)
        pixels = (pixels - np.float32(self.image_mean)) / np.float32(self.image_std)
        size = self.patch_size
        rows, columns = image.height // size, image.width // size
        cells = pixels.reshape(rows, size, columns, size, 3)  # (rows, y, columns, x, 3)
        return cells.transpose(4, 1, 0, 2, 3).reshape(3, size, -1)


def minicpm_images(config: Any) -> MiniCPMVImageProcessor:
    """The image processor of a release without ``preprocessor_config.json``, by its ``config.json``."""
    named = {
        n: v for n, v in (config.slice_config or {}).items() if n in ("max_slice_nums", "scale_resolution")
    }
    return MiniCPMVImageProcessor(
        patch_size=config.vision_config.patch_size, image_feature_size=config.query_num, **named
    )


class MiniCPMVProcessor(ProcessorMixin):
    """Image processor and tokenizer.

    In the text an image is one ``image_token``, ``<unk>``; it is expanded to the text of :meth:`image_text`,
    of which the model replaces every ``<unk>`` by a feature. Llama 3's byte-level tokenizer never makes that
    token of other text.

    Raises:
        UserError: The tokenizer lacks a token that stands for or marks images.
    """

    image_processor: MiniCPMVImageProcessor
    tokenizer: PreTrainedTokenizerBase
    images_kwargs = {"return_tensors": "pt"}

    def __init__(
        self,
        image_processor: MiniCPMVImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ):
        vocabulary = tokenizer.get_vocab()
        self.marks = {name: getattr(tokenizer, name, None) or text for name, text in _MARKS.items()}
        missing = [
            t
            for t in (tokenizer.unk_token or "<unk>", *self.marks.values(), END_OF_TURN)
            if t not in vocabulary
        ]
        if missing:
            raise UserError(
                f"the tokenizer lacks the tokens {', '.join(missing)}, which MiniCPM-Llama3-V 2.5 needs."
            )
        tokenizer.eos_token = END_OF_TURN
        self.image_token: str = tokenizer.unk_token
        self.image_token_id: int = tokenizer.unk_token_id
        # The tokenizer's own template lies under the same file name, and has no place for an image.
        super().__init__(
            image_processor,
            tokenizer,
            chat_template=chat_template if "image" in str(chat_template) else CHAT_TEMPLATE,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "MiniCPMVProcessor":
        """Load the processor as transformers does.

        A release without ``preprocessor_config.json`` has the image processor's values in ``config.json``.
        """
        folder = Path(pretrained_model_name_or_path)
        if CheckpointFolder(folder).has_any(PROCESSORS) or not folder.is_dir():
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(
            minicpm_images(AutoConfig.from_pretrained(folder)),
            AutoTokenizer.from_pretrained(folder),
            cls.get_processor_dict(folder)[0].get("chat_template"),
        )

    def image_text(self, grid: tuple[int, int]) -> str:
        """What stands for an image in a prompt.

        Args:
            grid: Columns and rows of its slices, (0, 0) if it has none:
                ``image_processor.slicing(image.size).grid``.
        """
        marks, (columns, rows) = self.marks, grid
        one = marks["im_start"] + self.image_token * self.image_processor.image_feature_size + marks["im_end"]
        cells = "\n".join([one * int(columns)] * int(rows))
        return one + (marks["slice_start"] + cells + marks["slice_end"] if cells else "")

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """transformers' name for what replaces the i-th image token of a call's texts."""
        return self.image_text(image_inputs["image_grids"][image_idx])

    def __call__(
        self, images: ImageInput | None = None, text: str | list[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Encode texts with one ``image_token`` for each of their images.

        Returns:
            ``input_ids``, ``attention_mask`` and the image inputs of
            :class:`rlaifv_kedro.models.minicpm_v.modeling.MiniCPMV`.
        """
        encoded = super().__call__(images=images, text=text, **kwargs)
        if images is not None and text is not None:  # a sample's slices are those of all images in its text
            per_text = [t.count(self.image_token) for t in ([text] if isinstance(text, str) else text)]
            per_image = torch.as_tensor(encoded["slice_counts"])
            encoded["slice_counts"] = torch.stack([counts.sum() for counts in per_image.split(per_text)])
        return encoded

    @property
    def unused_input_names(self) -> list[str]:
        """Of the image processor's outputs these only serve to write the text."""
        return ["image_grids"]
