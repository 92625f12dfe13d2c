"""The viewer's pages in headless Chromium, from file://: what is shown, filters, keys, and foreign texts."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaifv_kedro.viewer.write import write_viewer
from viewed_runs import CHINESE, PROMPTS, REFUSED, viewed_run

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or name it by $CHROMIUM")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is of the extra dev")
expect = playwright.expect


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    project = tmp_path_factory.mktemp("project")
    people = project / "people.jsonl"
    labels = [
        {"item_id": f"p{n}/{k}/0", "verdict": ("yes", "no")[k == 1]} for n in range(3) for k in range(3)
    ]
    people.write_text("".join(json.dumps(label) + "\n" for label in labels))
    other = viewed_run(project, "other", wrong=3)
    return write_viewer(project, viewed_run(project), project / "out", other, people).page.as_uri()


class Looked:
    """A page that has been opened, with what its console said."""

    def __init__(self, browser: Any, address: str, width: int = 1200, scheme: str = "light"):
        self._context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page, self.said, self._address = self._context.new_page(), [], address
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda asked: self.said.append(asked.url) if "://" in asked.url[5:] else None)

    def at(self, hash_: str, waits_for: str) -> Any:
        """Goes to an address within the viewer."""
        self.page.goto(f"{self._address}{hash_}")
        self.page.wait_for_selector(waits_for)
        return self.page

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def looked(browser: Any, address: str) -> Iterator[Looked]:
    one = Looked(browser, address)
    yield one
    one.close()
    assert one.said == []


PAGES = {
    "#run": ".chart svg",
    "#prompts": ".list li",
    "#prompts?id=p0": ".candidate",
    "#answers?id=t1": ".side",
    "#answers?b=mmhal&id=m1": ".judgement",
    "#rejects": "table.rows td",
    "#labeler": ".chart svg",
    "#compare?id=loop/iteration_1/chair_s/t1": ".side",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("hash_", "waits_for"), PAGES.items())
def test_a_page_says_nothing_to_the_console_and_fits_a_phone(
    browser: Any, address: str, hash_: str, waits_for: str, scheme: str
) -> None:
    for width in (390, 1280):
        one = Looked(browser, address, width, scheme)
        page = one.at(hash_, waits_for)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        one.close()
        assert (wide, one.said) == (0, [])


def test_a_script_in_an_answer_is_shown_and_not_run(looked: Looked) -> None:
    page = looked.at("#prompts?id=p0", ".candidate")
    assert any("<script>window.harmed = true</script>" in text for text in looked.texts(".answer"))
    assert any("</script>" in text for text in looked.texts(".side.rejected p"))
    assert page.evaluate("window.harmed") is None
    assert page.locator("article script, article img[onerror]").count() == 0


def test_claims_have_sign_and_probabilities(looked: Looked) -> None:
    looked.at(f"#prompts?id={REFUSED}", ".claim.unread")
    assert (
        "p(yes) 0.100" in looked.texts(".claim.unread")[0]
        and "neither 0.800" in looked.texts(".claim.unread")[0]
    )
    looked.page.keyboard.press("k")
    looked.page.keyboard.press("k")
    looked.page.wait_for_selector(".claim.accepted")
    assert looked.texts(".claim .sign") == ["✓", "✓", "✗"]
    marks = ["▲ chosen", "least sure", "in truth false", "▼ rejected", "in truth true"]  # people's labels
    assert looked.texts(".candidates .mark") == marks


def test_differing_words_are_underlined(looked: Looked) -> None:
    looked.at("#prompts?id=p2", ".side")
    assert looked.texts(".side.chosen .differs") == ["cat"]
    assert looked.texts(".side.rejected .differs") == ["dog", "red"]
    looked.at("#prompts?id=p1", f"text={CHINESE}")


@pytest.mark.parametrize(
    ("hash_", "count"),
    [
        ("#prompts?v=unread", 1),
        ("#prompts?v=accepted", 0),
        ("#prompts?v=rejected", PROMPTS - 2),
        ("#prompts?g=1", PROMPTS - 2),
        ("#prompts?g=2", 0),
        ("#prompts?pair=yes", 3),
        ("#prompts?t=list", PROMPTS // 2),
        ("#prompts?t=list&pair=yes", 1),
        ("#prompts?w=the+image+can%27t+be+read", 1),
        ("#prompts?x=wrong", 3),
        ("#answers?c=down", 1),
        ("#answers?c=same", 2),
    ],
)
def test_filters(looked: Looked, hash_: str, count: int) -> None:
    page = looked.at(hash_, "[role=status]")
    expect(page.locator("[role=status]")).to_have_text(re.compile(rf"^{count} of \d+"))


def test_a_filter_is_chosen_by_hand_and_stands_in_the_address(looked: Looked) -> None:
    page = looked.at("#prompts", ".candidate")
    page.locator("select[name=v]").select_option("unread")
    page.wait_for_selector(".claim.unread")
    assert "v=unread" in page.url
    assert page.locator(".list li").count() == 1


def test_the_least_sure_come_first(looked: Looked) -> None:
    looked.at("#prompts?s=unsure", ".claim.unread")  # |p(yes) - p(no)| is 0


def test_text_is_searched_in_all_chunks(looked: Looked) -> None:
    page = looked.at("#prompts", ".candidate")
    page.keyboard.press("/")
    page.keyboard.type("NUMBER 69")
    expect(page.locator("[role=status]")).to_have_text(f"1 of {PROMPTS}")
    page.wait_for_selector("text=a cat number 69 on a sofa")
    page.keyboard.press("Escape")
    page.keyboard.press("j")  # there is no next
    assert "number 69" in page.locator(".candidates").inner_text()


def test_keys_go_to_the_next_and_the_previous_also_over_pages(looked: Looked) -> None:
    page = looked.at("#prompts?id=p39", "text=What is in p39?")
    assert page.locator(".list li").count() == 40
    page.keyboard.press("j")
    page.wait_for_selector(".asked >> text=What is in p40?")
    assert page.locator(".list li").count() == PROMPTS - 40
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".asked >> text=What is in p39?")


def test_a_picture_that_cannot_be_read_is_said(looked: Looked) -> None:
    looked.at("#prompts?id=p3", ".asked .no-picture")
    assert "the image can't be read" in looked.texts(".asked")[0]


def test_policies_stand_side_by_side_with_the_judge(looked: Looked) -> None:
    looked.at("#answers?id=t1", ".side")
    assert [text.split()[0] for text in looked.texts(".side h3")] == ["base", "iteration"]
    assert looked.texts(".found") == ["not there: cat"]
    looked.at("#answers?b=mmhal&id=m2", ".judgement")
    assert "the reply holds no verdict" in looked.texts(".judgement")[0]


def test_every_row_behind_a_reason_leads_to_its_prompt(looked: Looked) -> None:
    page = looked.at("#rejects", "table.rows td")
    page.get_by_role("link", name="the labeler's reply is neither yes nor no").click()
    expect(page.locator("table.rows tbody tr")).to_have_count(3)
    page.locator("table.rows a").first.click()
    page.wait_for_selector(".claim.unread")


def test_the_first_page_names_what_differs_from_the_defaults(looked: Looked) -> None:
    page = looked.at("#run", ".chart svg")
    assert page.locator("tr", has_text="training.beta").inner_text().split() == [
        "training.beta",
        "0.1",
        "0.5",
    ]
    assert "33.3 ± 20.0" in page.locator("table").first.inner_text()
    assert "0.50 ± 0.50" in page.locator("table", has_text="MMHal-Bench, 3 items").inner_text()
    assert page.locator("tr", has_text="feedback").first.inner_text().split() == ["feedback", "3.5", "s"]


def test_the_labeler_stands_against_peoples_labels(looked: Looked) -> None:
    page = looked.at("#labeler", ".chart svg")
    row = page.locator("tr", has_text="all").first.inner_text().split("\t")
    assert row[:3] == ["all", "9", "33.3 ± 15.7"]  # of three claims of each prompt one is rightly accepted
    assert [int(count) for count in row[-4:]] == [3, 3, 3, 0]
    page.locator("a", has_text="p0").first.click()
    page.wait_for_selector(".candidate")


def test_flipped_items_stand_beside_their_picture(looked: Looked) -> None:
    page = looked.at("#compare?id=loop/iteration_1/chair_s/t1", ".side")
    expect(page.locator("[role=status]")).to_have_text("2 of 2")
    assert "▲ better" in page.locator(".asked").inner_text()
    assert page.locator(".asked img").evaluate("(image) => image.naturalWidth") == 24
    assert looked.texts(".found") == ["not there: cat"]
    page.locator("select[name=w]").select_option("worse")
    expect(page.locator("[role=status]")).to_have_text("0 of 2")


def test_a_lost_data_file_is_said(browser: Any, tmp_path: Path) -> None:
    written = write_viewer(tmp_path, viewed_run(tmp_path), tmp_path / "out")
    (tmp_path / "out/data/prompts/1/0.js").unlink()
    one = Looked(browser, written.page.as_uri())
    one.at("#prompts?id=p0", ".error")
    assert "rlaifv view" in one.texts(".error")[0]
    one.close()
