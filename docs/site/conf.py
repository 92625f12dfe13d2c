"""Sphinx's settings of the site; ``build.py`` lays out its sources and calls it."""

import re
from itertools import pairwise

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish


class SearchEnglishAndChinese(SearchEnglish):
    """Finds Chinese words, too: Chinese has no blanks, so that Sphinx takes a whole clause for a word."""

    lang = "en_and_zh"

    def split(self, input: str) -> list[str]:
        """Splits a text into its words, and its Chinese also into pairs of neighbouring characters."""
        clauses = re.findall(r"[\u4e00-\u9fff]{3,}", input)
        return super().split(input) + [a + b for clause in clauses for a, b in pairwise(clause)]


def setup(app: Sphinx) -> None:
    """Tells Sphinx of the search."""
    app.add_search_language(SearchEnglishAndChinese)


project = "rlaifv_kedro"
html_title = "RLAIF-V on Kedro"
extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4  # as code hosts make them, so that page.md#heading is valid in both places
html_theme = "furo"  # all of its styles and scripts are files beside the pages
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_search_language = SearchEnglishAndChinese.lang
html_show_copyright = False
html_show_search_summary = False  # it asks a server for the pages
html_theme_options = {"navigation_with_keys": True}
