"""The miniature as COCO files, read back by pycocotools."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from rlaifv_kedro.miniature.coco_format import coco_annotations, trace_polygons, visible_masks
from rlaifv_kedro.miniature.scenes import Instance, Scene, draw_scene

SIDE = 20


def square(category: str, x: int, y: int, side: int) -> Instance:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return Instance(category, mask)


def scene_of(*instances: Instance) -> Scene:
    return Scene(
        "park", instances, np.zeros((SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), dtype=np.int16)
    )


def load(instances: dict, folder: Path) -> COCO:
    path = folder / "instances.json"
    path.write_text(json.dumps(instances), encoding="utf-8")
    return COCO(str(path))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return (a & b).sum() / (a | b).sum()


def test_ids_names_boxes_and_areas() -> None:
    # The cat hides the lower right 2 x 2 pixels of the dog's 6 x 6; the bench is wholly behind the dog.
    hiding = scene_of(square("bench", 3, 4, 2), square("dog", 2, 3, 6), square("cat", 6, 7, 4))
    instances, captions = coco_annotations(
        [hiding, scene_of(square("tv", 0, 0, 5))], [["one", "two"], ["three"]], "val2014", 500
    )
    assert [image["file_name"] for image in instances["images"]] == [
        "COCO_miniature_val2014_000000000500.png",
        "COCO_miniature_val2014_000000000501.png",
    ]
    assert [(image["width"], image["height"]) for image in instances["images"]] == [(SIDE, SIDE)] * 2
    found = [
        (a["id"], a["image_id"], a["category_id"], a["bbox"], a["area"], a["iscrowd"])
        for a in instances["annotations"]
    ]
    assert found == [
        (1, 500, 18, [2, 3, 6, 6], 32, 0),
        (2, 500, 17, [6, 7, 4, 4], 16, 0),
        (3, 501, 72, [0, 0, 5, 5], 25, 0),
    ]
    assert captions["annotations"] == [
        {"id": 1, "image_id": 500, "caption": "one"},
        {"id": 2, "image_id": 500, "caption": "two"},
        {"id": 3, "image_id": 501, "caption": "three"},
    ]
    assert captions["images"] == instances["images"]
    assert {"id": 64, "name": "potted plant", "supercategory": "furniture"} in instances["categories"]


def test_polygon_of_one_pixel_lies_around_its_centre() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[2, 3] = True
    (polygon,) = trace_polygons(mask)
    points = {tuple(point) for point in np.reshape(polygon, (-1, 2))}
    assert points == {(3.5, 2.0), (4.0, 2.5), (3.5, 3.0), (3.0, 2.5)}


def test_parts_are_polygons_of_their_own_and_holes_stay_open(tmp_path: Path) -> None:
    ring, hole, far = square("dog", 1, 1, 12), square("cat", 4, 4, 5), square("dog", 15, 15, 4)
    two_holes = square("cat", 10, 2, 2)
    scene = scene_of(Instance("dog", ring.mask | far.mask), hole, two_holes)
    instances, _ = coco_annotations([scene], [[]], "val2014", 1)
    assert len(instances["annotations"][0]["segmentation"]) == 2
    coco = load(instances, tmp_path)
    read = coco.annToMask(coco.anns[1]).astype(bool)
    assert not read[6, 6] and not read[14, 14] and read[2, 2] and read[16, 16]
    assert overlap(read, visible_masks(scene)[0]) > 0.9


def test_pycocotools_reads_the_visible_masks_of_drawn_scenes(tmp_path: Path) -> None:
    scenes = [draw_scene(3, "coco-test", i) for i in range(40)]
    instances, _ = coco_annotations(scenes, [[] for _ in scenes], "train2014", 1000)
    coco = load(instances, tmp_path)
    assert Counter(coco.cats[a["category_id"]]["name"] for a in coco.anns.values()) == Counter(
        instance.category
        for scene in scenes
        for instance, mask in zip(scene.instances, visible_masks(scene), strict=True)
        if mask.any()
    )
    for image_id, scene in enumerate(scenes, start=1000):
        masks = [mask for mask in visible_masks(scene) if mask.any()]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert (sum(masks) == (scene.labels > 0)).all()  # each pixel of an object belongs to one instance
        for annotation, mask in zip(annotations, masks, strict=True):
            assert annotation["area"] == mask.sum()
            if annotation["area"] > 50:
                assert overlap(coco.annToMask(annotation).astype(bool), mask) > 0.85


def test_each_scene_needs_its_captions() -> None:
    with pytest.raises(ValueError, match="zip"):
        coco_annotations([scene_of()], [], "val2014", 1)
