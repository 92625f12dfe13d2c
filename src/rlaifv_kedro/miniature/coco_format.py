"""Drawn scenes as COCO annotation files, so that the miniature is judged by the same code as COCO2014.

Format: https://cocodataset.org/#format-data. Masks are of what can be *seen*: an object drawn later hides
what is behind it.
"""

from typing import Any

import contourpy
import numpy as np

from rlaifv_kedro.miniature.scenes import CATEGORIES, Scene

Json = dict[str, Any]


def file_name(split: str, image_id: int) -> str:
    """The name of a picture, as COCO forms them: the image id in 12 digits."""
    return f"COCO_miniature_{split}_{image_id:012d}.png"


def coco_annotations(
    scenes: list[Scene], captions: list[list[str]], split: str, first_image_id: int
) -> tuple[Json, Json]:
    """The instances file and the captions file of a split, ready for ``json.dump``.

    Args:
        scenes: Drawn scenes.
        captions: The captions of each scene.
        split: Name of the split; part of the file names.
        first_image_id: Image id of the first scene; the others follow one by one.

    Returns:
        (instances, captions). Annotation ids count from 1 in each file. An object that is wholly hidden has
        no annotation. Areas are in pixels, boxes (x, y, width, height) in pixels from the top left corner.

    Raises:
        ValueError: If there are not as many lists of captions as scenes.
    """
    images: list[Json] = []
    objects: list[Json] = []
    texts: list[Json] = []
    for image_id, (scene, scene_captions) in enumerate(
        zip(scenes, captions, strict=True), start=first_image_id
    ):
        height, width = scene.labels.shape
        images.append(
            {"id": image_id, "file_name": file_name(split, image_id), "width": width, "height": height}
        )
        for instance, visible in zip(scene.instances, visible_masks(scene), strict=True):
            if visible.any():
                objects.append(
                    {"id": len(objects) + 1, "image_id": image_id, **_annotation(instance.category, visible)}
                )
        for caption in scene_captions:
            texts.append({"id": len(texts) + 1, "image_id": image_id, "caption": caption})
    header = {
        "info": {"description": f"rlaifv_kedro miniature world, {split}"},
        "licenses": [],
        "images": images,
    }
    categories = sorted(
        (
            {"id": number, "name": name, "supercategory": above}
            for name, (number, above) in CATEGORIES.items()
        ),
        key=lambda category: category["id"],
    )
    return {**header, "annotations": objects, "categories": categories}, {**header, "annotations": texts}


def visible_masks(scene: Scene) -> list[np.ndarray]:
    """The part of each instance that no later one hides: bool arrays (height, width), in order of drawing."""
    hidden = np.zeros(scene.labels.shape, dtype=bool)
    masks: list[np.ndarray] = []
    for instance in reversed(scene.instances):
        masks.append(instance.mask & ~hidden)
        hidden |= instance.mask
    return masks[::-1]


def _annotation(category: str, visible: np.ndarray) -> Json:
    rows, columns = np.nonzero(visible)
    x, y = int(columns.min()), int(rows.min())
    return {
        "category_id": CATEGORIES[category][0],
        "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
        "area": int(visible.sum()),
        "iscrowd": 0,
        "segmentation": trace_polygons(visible),
    }


def trace_polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO's polygons of a mask: one list [x0, y0, x1, y1, ...] a connected part.

    In pixels: pixel (row, column) spans the unit square from x = column, y = row. COCO has no holes in
    polygons: a ring is cut open by a line from the outer ring's start to the hole and back, which encloses
    nothing.

    Args:
        mask: bool array (height, width).
    """
    padded = np.pad(mask, 1).astype(float)  # so that rings close at the border of the image
    y, x = (np.arange(side) - 0.5 for side in padded.shape)  # centres of the pixels
    contours = contourpy.contour_generator(x, y, padded, fill_type=contourpy.FillType.OuterOffset)
    polygons = []
    for points, offsets in zip(
        *contours.filled(0.5, 1.5), strict=True
    ):  # points (n, 2); rings start at the offsets, the outer ring first
        rings = np.split(points, offsets[1:-1])
        path = np.concatenate([rings[0], *(np.concatenate([hole, rings[0][:1]]) for hole in rings[1:])])
        polygons.append(path.ravel().tolist())
    return polygons
