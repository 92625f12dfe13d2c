"""Agreement with known verdicts, worked by hand, and what its command reads and prints."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from rlaifv_kedro.benchmarks.judging.calibration import calibrate, read_verdicts
from rlaifv_kedro.commands import cli
from rlaifv_kedro.datasets.tables import table_content
from rlaifv_kedro.errors import UserError


def verdicts(values: Sequence[str | None]) -> pd.Series:
    return pd.Series(list(values), index=[str(i) for i in range(len(values))], dtype=object)


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


def test_two_classes_worked_by_hand() -> None:
    """[[20, 5], [10, 15]]: p = 35 / 50; c = (25 x 30 + 25 x 20) / 2500 = 0.5; kappa = 0.2 / 0.5; errors
    sqrt(0.7 x 0.3 / 50), and twice that.
    """
    found = calibrate(
        verdicts(["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15), verdicts(["a"] * 25 + ["b"] * 25)
    )
    assert (found.n, found.missing, found.unknown) == (50, 0, 0)
    assert (found.agreement, found.kappa) == pytest.approx((0.7, 0.4))
    assert (found.agreement_error, found.kappa_error) == pytest.approx(
        (math.sqrt(0.0042), 2 * math.sqrt(0.0042))
    )
    assert found.confusion.to_dict(orient="index") == {"a": {"a": 20, "b": 5}, "b": {"a": 10, "b": 15}}
    assert math.isnan(found.weighted_kappa) and math.isnan(found.mean_difference) and found.notes == []


def test_ratings_worked_by_hand() -> None:
    """Reference 0 0 3 6, judge 0 3 3 6. p = 3 / 4, c = (2 x 1 + 1 x 2 + 1 x 1) / 16, kappa = (12 - 5) / (16 -
    5).

    Squared differences: observed 9; expected (rows 2 1 1, columns 1 2 1, over 4) 9 x 4/4 + 36 x 2/4 + 9 x 1/4
    + 9 x 1/4 + 36 x 1/4 + 9 x 2/4 = 45. Differences 0 3 0 0: mean 0.75, s = 1.5, error 1.5 / 2.
    """
    found = calibrate(verdicts(["0", "3", "3", "6"]), verdicts(["0", "0", "3", "6"]))
    assert (found.agreement, found.kappa, found.weighted_kappa) == pytest.approx((3 / 4, 7 / 11, 1 - 9 / 45))
    assert (found.mean_difference, found.mean_difference_error) == pytest.approx((0.75, 0.75))
    swapped = calibrate(verdicts(["0", "0", "3", "6"]), verdicts(["0", "3", "3", "6"]))
    assert (swapped.kappa, swapped.weighted_kappa) == pytest.approx((found.kappa, found.weighted_kappa))
    assert swapped.mean_difference == pytest.approx(-0.75)


@pytest.mark.parametrize(
    ("judge", "reference", "kappa", "weighted"),
    [
        (["0", "2", "6"], ["0", "2", "6"], 1, 1),
        (["6", "0"], ["0", "6"], -1, -1),
        (["6", "6"], ["0", "0"], 0, 0),
        (["0", "6", "0", "6"], ["0", "0", "6", "6"], 0, 0),
    ],
)
def test_agreement_at_its_ends(judge: list[str], reference: list[str], kappa: float, weighted: float) -> None:
    found = calibrate(verdicts(judge), verdicts(reference))
    assert (found.kappa, found.weighted_kappa) == pytest.approx((kappa, weighted))


def test_one_class_only_has_no_kappa() -> None:
    found = calibrate(verdicts(["3", "3"]), verdicts(["3", "3"]))
    assert (found.agreement, found.mean_difference) == (1, 0)
    assert math.isnan(found.kappa) and math.isnan(found.kappa_error) and math.isnan(found.weighted_kappa)
    assert found.notes == [
        "All verdicts of both are 3, so chance alone would agree as well: kappa is not defined."
    ]
    assert found.as_json()["kappa"] is None and found.as_json()["weighted_kappa"] is None


def test_a_reference_of_one_class_says_little() -> None:
    found = calibrate(verdicts(["a", "a", "b"]), verdicts(["a", "a", "a"]))
    assert found.kappa == pytest.approx(0)
    assert found.notes == [
        "All verdicts of the reference are a, so chance alone would agree as often: kappa is 0 however "
        "often they agree."
    ]


def test_what_is_missing_is_counted_and_left_out() -> None:
    """Items 0-3 by the judge, of which 1 has no verdict; the reference has 0-2 and x."""
    found = calibrate(
        verdicts(["a", None, "b", "a"]), pd.Series(["a", "a", "a", "b"], index=["0", "1", "2", "x"])
    )
    assert (found.n, found.missing, found.unknown, found.agreement) == (2, 2, 1, 0.5)


def test_capitals_make_no_other_verdict() -> None:
    """The reference's way of writing it counts."""
    found = calibrate(verdicts(["YES", "yes", "No"]), verdicts(["Yes", "no", "NO"]))
    assert found.agreement == pytest.approx(2 / 3)
    assert found.confusion.to_dict(orient="index") == {"Yes": {"Yes": 1, "no": 0}, "no": {"Yes": 1, "no": 1}}


def test_a_single_item_has_no_error() -> None:
    found = calibrate(verdicts(["2"]), verdicts(["3"]))
    assert (found.n, found.mean_difference, found.kappa) == (1, -1, 0) and math.isnan(
        found.mean_difference_error
    )


def test_ratings_are_in_the_order_of_their_numbers() -> None:
    assert list(calibrate(verdicts(["10", "2", "C"]), verdicts(["2", "2", "A"])).confusion.index) == [
        "2",
        "10",
        "A",
        "C",
    ]


@pytest.mark.parametrize(
    ("judge", "reference", "message"),
    [
        (
            verdicts(["a"]),
            pd.Series(["a"], index=["x"]),
            "Of 1 items of the reference and 1 with a verdict by the judge, none is the same",
        ),
        (
            verdicts(["True", "False", "True"]),
            verdicts(["yes", "no", "no"]),
            r"judge's verdicts \(False, True\) are none of the reference's \(no, yes\). Write both in the same",
        ),
        (verdicts([None]), verdicts(["a"]), "Of 1 items of the reference and 0 with a verdict"),
        (verdicts(["a", "a"]), verdicts(["a", None]), "The reference has no verdict for the item 1"),
    ],
)
def test_nothing_to_compare(judge: pd.Series, reference: pd.Series, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibrate(judge, reference)


class TestFiles:
    def test_numbers_and_ids_are_the_same_however_they_are_written(self, tmp_path: Path) -> None:
        rows = [
            {"item_id": "007", "verdict": "3.0"},
            {"item_id": 8.0, "verdict": " [[A]] "},
            {"item_id": "9", "verdict": None},
            {"item_id": 10, "verdict": ["cat"]},
            {"item_id": 11, "verdict": ""},
        ]
        found = read_verdicts(jsonl(tmp_path / "v.jsonl", rows))
        assert found.to_dict() == {"7": "3", "8": "[[A]]", "9": None, "10": '["cat"]', "11": None}
        pd.DataFrame({"item_id": [7, 8], "verdict": [3.0, float("nan")]}).to_parquet(tmp_path / "v.parquet")
        assert read_verdicts(tmp_path / "v.parquet").to_dict() == {"7": "3", "8": None}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"item_id": 1, "verdict": 2}\n{"item_id"', "v.jsonl, line 2: not JSON"),
            ("3", "v.jsonl, line 1: 3 is no JSON object"),
            ('{"id": 1, "verdict": 2}', "v.jsonl, line 1: 'item_id' should be a text .* but is missing"),
            ('{"item_id": 1, "rating": 2}', "there is no column `verdict`, only item_id, rating"),
            ("", "v.jsonl is empty"),
            ("[]", "v.jsonl holds no record"),
            (
                '{"item_id": 1, "verdict": 2}\n{"item_id": 1, "verdict": 2}',
                "v.jsonl, line 2: the item 1 comes twice, first line 1. Leave one out",
            ),
            (None, "Cannot read .*No such file.*Give a file with a JSON object a line, or a table"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, content: str | None, message: str) -> None:
        if content is not None:
            (tmp_path / "v.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            read_verdicts(tmp_path / "v.jsonl")

    def test_a_parquet_file_that_is_none(self, tmp_path: Path) -> None:
        for content, message in (("no", "line 1: not JSON"), ("PAR1no", "is damaged or not a parquet file")):
            (tmp_path / "v.parquet").write_text(content)
            with pytest.raises(UserError, match=message):
                read_verdicts(tmp_path / "v.parquet")

    def test_one_reader_for_lists_tables_and_any_separator_in_a_text(self, tmp_path: Path) -> None:
        """A JSON list, and CSV; U+2028 in a text ends no line."""
        rows = [{"item_id": 1, "verdict": "yes", "note": "a\u2028b\x85c"}, {"item_id": 2, "verdict": "no"}]
        (tmp_path / "v.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1))
        (tmp_path / "v.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\r\n" for r in rows))
        (tmp_path / "v.csv").write_text('\ufeffitem_id,verdict,note\n1,yes,"a\n\u2028b"\n02,no,\n')
        for name in ("v.json", "v.jsonl", "v.csv"):
            assert read_verdicts(tmp_path / name).to_dict() == {"1": "yes", "2": "no"}, name


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        """Judgements of two steps, and a reference for one of them."""
        rows = [
            {
                "policy": "a policy",
                "benchmark": "refomb",
                "item_id": f"{i}",
                "step": step,
                "prompt_hash": "0",
                "asked_model": "judge",
                "returned_model": None,
                "reply": "r",
                "verdict": verdict,
                "error": None if verdict else "cut",
                "replies": 1,
                "prompt_tokens": None,
                "reply_tokens": 3,
            }
            for step, verdicts in (("overall", ["A", "A", "B", None]), ("trust", ["B", "B", "B", "B"]))
            for i, verdict in enumerate(verdicts)
        ]
        (tmp_path / "judgements.parquet").write_bytes(table_content("judgements", pd.DataFrame(rows), "here"))
        jsonl(tmp_path / "reference.jsonl", [{"item_id": i, "verdict": v} for i, v in enumerate("ABBB")])
        return [
            "calibrate",
            "--judgements",
            str(tmp_path / "judgements.parquet"),
            "--reference",
            str(tmp_path / "reference.jsonl"),
        ]

    def test_json(self, files: list[str]) -> None:
        """A A B against A B B: p = 2/3, c = (1 x 2 + 2 x 1) / 9, kappa = (6 - 4) / (9 - 4)."""
        done = CliRunner().invoke(cli, [*files, "--benchmark", "refomb", "--step", "overall", "--json"])
        found = json.loads(done.stdout)
        assert (found["n"], found["missing"], found["agreement"]) == (3, 1, pytest.approx(2 / 3))
        assert found["kappa"] == pytest.approx(0.4) and found["weighted_kappa"] is None
        assert found["confusion"] == {"A": {"A": 1, "B": 0}, "B": {"A": 1, "B": 1}}

    def test_policies_of_one_table(self, files: list[str]) -> None:
        """Two policies' answers were judged: rows of one are chosen, and the message says so."""
        path = Path(files[2])
        rows = pd.read_parquet(path)
        rows = rows[rows["step"] == "overall"]
        other = rows.assign(policy="other", verdict="B")
        path.write_bytes(table_content("judgements", pd.concat([rows, other], ignore_index=True), "here"))
        done = CliRunner().invoke(cli, [*files, "--step", "overall"])
        assert "(policy a policy and other). Choose rows with --policy." in " ".join(done.stderr.split())
        done = CliRunner().invoke(cli, [*files, "--policy", "other", "--json"])
        assert json.loads(done.stdout)["agreement"] == 3 / 4

    def test_text(self, files: list[str]) -> None:
        done = CliRunner().invoke(cli, [*files, "--step", "overall"])
        assert done.stdout.splitlines() == [
            "3 items with both verdicts; 1 of the reference without one by the judge, 0 that the reference "
            "lacks",
            "agreement      0.667 ± 0.272",
            "Cohen's kappa  0.400 ± 0.490",
            "",
            "reference (rows) by judge (columns)",
            "   A  B",
            "A  1  0",
            "B  1  1",
        ]

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (
                [],
                "row 4 (from 0): the item 0 comes twice, first row 0 (from 0) (step overall and trust). "
                "Choose rows with --step.",
            ),
            (["--policy", "another"], "there is no row with policy another"),
            (["--step", "rating"], "there is no row with step rating"),
            (["--benchmark", "x"], "no row with benchmark x"),
        ],
    )
    def test_rows_must_be_chosen(self, files: list[str], more: list[str], message: str) -> None:
        done = CliRunner().invoke(cli, [*files, *more])
        assert done.exit_code == 1 and message in " ".join(done.stderr.split())
