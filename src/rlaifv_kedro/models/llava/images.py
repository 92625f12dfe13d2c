"""How LLaVA-1.5 sees a picture: padded to a square, or with its longer side cut off.

Its original code pads with the mean colour where the config says ``image_aspect_ratio: pad``, as those of
LLaVA-1.5 and RLAIF-V-7B do, and else cuts the picture's ends off as CLIP's own processor does
(github.com/haotian-liu/LLaVA: ``mm_utils.py``, ``process_images``). The processors that llava-hf published
with the same weights always cut: a quarter of a 4:3 picture.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import LlavaConfig, LlavaImageProcessorPil

PAD, CROP = "pad", "crop"
_KEPT = ("image_mean", "image_std", "resample", "do_rescale", "rescale_factor", "do_normalize")


def llava_images(
    config: "LlavaConfig", aspect_ratio: str | None = None, like: Any = None
) -> "LlavaImageProcessorPil":
    """An image processor that pads or crops; bit for bit the original's pixels.

    Args:
        config: The model's.
        aspect_ratio: ``pad`` or ``crop``; without it, as the config states in the original's word, and pad
            where it states nothing.
        like: An image processor whose colours it takes over; without it, CLIP's.
    """
    from transformers import LlavaImageProcessorPil

    side = config.vision_config.image_size
    said = aspect_ratio or getattr(config, "image_aspect_ratio", PAD)
    chosen = PAD if said == PAD else CROP
    kept = {name: getattr(like, name) for name in _KEPT if getattr(like, name, None) is not None}
    return LlavaImageProcessorPil(
        do_pad=chosen == PAD,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_aspect_ratio=chosen,  # saved with the processor, so that the same pixels come of it again
        **kept,
    )


def chosen_images(images: Any, config: "LlavaConfig", aspect_ratio: str | None) -> Any:
    """The image processor to use in place of a checkpoint's own.

    Args:
        images: The checkpoint's own.
        aspect_ratio: What is asked for; without it, what the checkpoint states; where it states nothing, one
            that would cut the picture's sides off pads instead, as the method does. One that does neither,
            such as SigLIP's or the miniature's, stays as it is.
    """
    stated = getattr(images, "image_aspect_ratio", None)
    if aspect_ratio is None and stated is None and getattr(images, "do_center_crop", False):
        aspect_ratio = PAD
    if aspect_ratio in (None, stated):
        return images
    return llava_images(config, aspect_ratio, images)


def as_prepared(picture: "Image", processor: Any) -> "Image":
    """The picture in the size and form in which a LLaVA's pixels are made of it; of others itself.

    Whoever prepares it again, as vLLM does with another version of transformers, changes nothing more.
    """
    import numpy as np
    from PIL import Image
    from transformers import LlavaProcessor

    if not isinstance(processor, LlavaProcessor):
        return picture
    made = processor.image_processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = np.asarray(made["pixel_values"])[0]  # (3, height, width)
    return Image.fromarray(pixels.transpose(1, 2, 0).round().astype(np.uint8))


def told(images: Any) -> str:
    """What becomes of a picture that is not square, in words."""
    if getattr(images, "do_pad", False):
        return "padded to a square with the mean colour"
    if getattr(images, "do_center_crop", False):
        return "cut to a square, without the ends of their longer side"
    return "resized to a square"
