"""A project with a recipe for real models, and tiny ones in their places."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PROMPTS = Path("data/01_raw/prompts")
POLICY, LABELER, SPLITTER = (
    Path("data/06_models") / name for name in ("llava-1.5-7b-hf", "OmniLMM-12B", "llama3_split")
)
CATEGORIES = ["dog", "cat", "car", "chair"]


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def make_recipe_project(project: Path, tiny: Path, pictures: list[Image.Image]) -> Path:
    """A project in which nothing is missing: its tables are what the examples in docs/recipes.md make of a
    tiny COCO.
    """
    shutil.copytree(ROOT / "conf", project / "conf")
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "src").mkdir()  # the code is imported from where the tests have it
    for folder in (POLICY, LABELER, SPLITTER, SPLITTER.with_name("llama3_changeq")):
        shutil.copytree(tiny, project / folder)
    (project / "coco/val2014").mkdir(parents=True)
    (project / "coco/annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(7)]
    for image in images:
        pictures[image["id"] % len(pictures)].save(project / "coco/val2014" / image["file_name"])
    instances = [{"id": i, "image_id": i, "category_id": i % 4} for i in range(7)]
    captions = [{"id": i, "image_id": i, "caption": "A dog on a chair."} for i in range(7)]
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES)]
    write_json(
        project / "coco/annotations/instances_val2014.json",
        {"images": images, "annotations": instances, "categories": categories},
    )
    write_json(
        project / "coco/annotations/captions_val2014.json", {"images": images, "annotations": captions}
    )
    write_json(
        project / "my_prompts.json",
        [{"id": str(i), "image": f"coco/val2014/{i % 7}.png", "question": "What is it?"} for i in range(8)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for example in re.findall(r"```python\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), re.DOTALL):
            exec(compile(example, "docs/recipes.md", "exec"), {})
    return project
