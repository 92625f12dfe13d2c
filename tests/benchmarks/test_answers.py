"""What is looked at before a policy is loaded."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from rlaifv_kedro.benchmarks.answers import answer_items
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.params import BenchmarksParams, ComputeParams, ModelsParams
from rlaifv_kedro.schemas import table


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"<html>gone</html>", "chair item 8"),
        (png_bytes(Image.new("RGB", (9, 9)))[:40], "chair item 8"),
        (None, "chair item 8 has no picture. Make the items with pictures"),
    ],
)
def test_a_damaged_picture_is_named_before_a_policy_is_loaded(
    tmp_path: Path, damaged: bytes | None, message: str
) -> None:
    """The policy's folder isn't there: to load it would be another error."""
    whole = png_bytes(Image.new("RGB", (9, 9)))
    images = [{"bytes": whole, "path": None}, damaged and {"bytes": damaged, "path": None}]
    rows = [("chair", str(7 + n), "Describe it.", image, 7 + n, None, "{}") for n, image in enumerate(images)]
    items = pd.DataFrame(rows, columns=table("benchmark_items").schema.names)
    answers = answer_items(
        items, {"a": tmp_path / "nowhere"}, BenchmarksParams(), ModelsParams(), ComputeParams()
    )
    with pytest.raises(UserError, match=message):
        next(answers)
