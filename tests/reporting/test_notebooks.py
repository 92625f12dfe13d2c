"""Tables as notebooks show them."""

import pandas as pd
from PIL import Image

from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.reporting.notebooks import shown


def test_pictures_are_shown_and_texts_are_whole_and_not_run():
    picture = png_bytes(Image.new("RGB", (8, 8)))
    frame = pd.DataFrame(
        {
            "image": [{"bytes": picture, "path": None}, {"bytes": b"none", "path": "a.png"}],
            "an_answer": ["<script>x</script>" + "字" * 300, None],
            "score": [0.123456, float("nan")],
            "accepted": pd.array([True, pd.NA], "boolean"),
        }
    )
    page = shown(frame, height=50).data
    assert "src='data:image/jpeg;base64," in page and "style='height:50px'" in page
    assert "a row: the image can&#x27;t be read (a.png" in page
    assert "&lt;script&gt;x&lt;/script&gt;" + "字" * 300 in page and "<script" not in page
    assert [text in page for text in (">an answer<", ">0.1235<", ">-<", ">True<")] == [True] * 4
    assert "NA" not in page and "None" not in page


def test_no_rows_are_the_head_alone():
    page = shown(pd.DataFrame(columns=["stage", "why"])).data
    assert ">why</th>" in page and "<td" not in page
