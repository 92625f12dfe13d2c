"""COCO's annotation files as a stream: from a folder and an archive, in any order, and what is wrong with
damaged ones.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rlaifv_kedro.datasets import CocoAnnotations, CocoAnnotationsDataset
from rlaifv_kedro.datasets.coco_annotations import CocoDocuments
from rlaifv_kedro.errors import UserError

IMAGES = [{"id": 7, "file_name": "a.jpg", "height": 2}, {"id": 8, "file_name": "b.jpg"}]
POLYGON = [[1.5, 2, 3, 4.25, 5, 6]]
CROWD = {"counts": [3, 4, 5], "size": [2, 2]}
OBJECTS = [
    {
        "segmentation": POLYGON,
        "area": 3,
        "iscrowd": 0,
        "image_id": 8,
        "bbox": [1, 2, 3, 4],
        "category_id": 18,
        "id": 100,
    },
    {
        "segmentation": CROWD,
        "area": 3,
        "iscrowd": 1,
        "image_id": 7,
        "bbox": [1, 2, 3, 4],
        "category_id": 62,
        "id": 101,
    },
]
CATEGORIES = [
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "furniture", "id": 62, "name": "chair"},
]
INSTANCES = {
    "info": {"images": "none", "id": 3},
    "images": IMAGES,
    "licenses": [{"id": 9}],
    "annotations": OBJECTS,
    "categories": CATEGORIES,
}
CAPTIONS = {
    "info": {},
    "images": IMAGES,
    "annotations": [{"image_id": 7, "id": 5, "caption": "A café, “so”."}],
}


def write(folder: Path, instances: Any = INSTANCES, captions: Any = CAPTIONS, split: str = "val2014") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in (("instances", instances), ("captions", captions)):
        if content is not None:
            (folder / f"{kind}_{split}.json").write_text(
                content if isinstance(content, str) else json.dumps(content)
            )
    return folder


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.glob("*.json")):
            archive.write(file, f"annotations/{file.name}")
        archive.writestr("annotations/person_keypoints_val2014.json", "{}")
    return target


def read(annotations: CocoAnnotations, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return list(annotations.entries(kind, "val2014"))


@pytest.mark.parametrize("form", ["folder", "folder with annotations", "zip"])
def test_folder_and_archive_give_the_same(tmp_path: Path, form: str) -> None:
    folder = write(tmp_path / "a" / "annotations")
    path = {"folder": folder, "folder with annotations": folder.parent}.get(form) or zipped(
        folder, tmp_path / "a.zip"
    )
    annotations = CocoAnnotationsDataset(str(path)).load()
    assert annotations.splits == ["val2014"]
    images = [("images", {"id": 7, "file_name": "a.jpg"}), ("images", {"id": 8, "file_name": "b.jpg"})]
    assert read(annotations, "instances") == [
        *images,
        ("annotations", {"image_id": 8, "category_id": 18, "id": 100}),
        ("annotations", {"image_id": 7, "category_id": 62, "id": 101}),
        ("categories", {"id": 18, "name": "dog"}),
        ("categories", {"id": 62, "name": "chair"}),
    ]
    assert read(annotations, "captions") == [
        *images,
        ("annotations", {"image_id": 7, "id": 5, "caption": "A café, “so”."}),
    ]


def test_lists_in_another_order(tmp_path: Path) -> None:
    backwards = dict(reversed(INSTANCES.items()))
    entries = read(CocoAnnotations(write(tmp_path, backwards)), "instances")
    assert [part for part, _ in entries] == ["categories"] * 2 + ["annotations"] * 2 + ["images"] * 2


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (json.dumps(INSTANCES)[:-40], "is damaged"),
        ("<html>not found</html>", "is damaged"),
        ("", "is damaged"),
        ({k: v for k, v in INSTANCES.items() if k != "annotations"}, "has no 'annotations'"),
        ([], "has no 'images'"),
        (
            INSTANCES | {"annotations": [OBJECTS[0] | {"category_id": "18"}]},
            "the entry of id 100 has 'category_id' = '18', which should be a whole",
        ),
        (
            INSTANCES | {"annotations": [{"id": 100, "image_id": 7, "caption": "a dog"}]},
            "the entry of id 100 has 'category_id' = None",
        ),
        (
            INSTANCES | {"images": [{"id": 7, "file_name": None}]},
            "the entry of id 7 has 'file_name' = None, which should be text",
        ),
        (INSTANCES | {"annotations": [OBJECTS[0] | {"image_id": 7.5}]}, "'image_id' = 7.5"),
    ],
)
def test_damaged_files(tmp_path: Path, instances: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(CocoAnnotations(write(tmp_path, instances)), "instances")
    assert "instances_val2014.json" in error.value.message


def test_a_damaged_archive(tmp_path: Path) -> None:
    big = CAPTIONS | {
        "annotations": [
            {"image_id": 7, "id": i, "caption": f"caption {i * 7919 % 1009}"} for i in range(20000)
        ]
    }
    path = zipped(write(tmp_path / "a", captions=big), tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(UserError, match="captions_val2014.json is damaged"):
        read(CocoAnnotations(path), "captions")
    path.write_bytes(b"PK not really")
    with pytest.raises(UserError, match=r"no zip archive .* Give the folder or the archive"):
        CocoAnnotations(path)  # maybe a person's own file: nobody is told to delete it


def test_what_else_may_lie_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no instances_\*.json"):
        CocoAnnotations(write(tmp_path / "a", instances=None))
    with pytest.raises(UserError, match="but no captions_val2014.json"):
        CocoAnnotations(write(tmp_path / "b", captions=None))


@pytest.mark.parametrize("instances", [[], None, {}, {**INSTANCES, "images": None}, {**INSTANCES, "images": {}},
                                       {**INSTANCES, "annotations": [None]}, {**INSTANCES, "categories": ["dog"]}])  # fmt: skip
def test_documents_of_other_types(instances: Any) -> None:
    with pytest.raises(UserError, match="test_instances: "):
        list(CocoDocuments("test", instances, {}).entries("instances", "test"))
