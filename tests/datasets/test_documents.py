"""Documents: the same bytes for the same content."""

import pytest
from kedro.io.core import Version

from rlaifv_kedro.datasets.documents import FigureDataset, JsonDataset, TextDataset
from rlaifv_kedro.errors import UserError


def test_json_keeps_the_order_and_has_no_nan(tmp_path):
    dataset = JsonDataset(filepath=str(tmp_path / "d.json"), version=Version("r", "r"))
    dataset.save({"b": float("nan"), "a": [1, float("inf"), "é"]})
    assert (
        tmp_path / "d.json/r/d.json"
    ).read_text() == '{\n  "b": null,\n  "a": [\n    1,\n    null,\n    "é"\n  ]\n}\n'
    assert dataset.load() == {"b": None, "a": [1, None, "é"]}
    (tmp_path / "d.json/r/d.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        dataset.load()


def test_text_is_bytes_for_bytes(tmp_path):
    dataset = TextDataset(filepath=str(tmp_path / "report.html"))
    dataset.save("<p>é\n</p>")
    assert (tmp_path / "report.html").read_bytes() == "<p>é\n</p>".encode()
    assert dataset.load() == "<p>é\n</p>"


def test_figures_have_the_same_bytes_without_software_name(tmp_path):
    figure_module = pytest.importorskip("matplotlib.figure")
    for name in ("a.png", "b.png"):
        figure = figure_module.Figure()
        figure.subplots().plot([1, 2])
        FigureDataset(filepath=str(tmp_path / name)).save(figure)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"atplotlib" not in (tmp_path / "a.png").read_bytes()
    assert FigureDataset(filepath=str(tmp_path / "a.png")).preview().startswith("iVBOR")
