"""Sphinx's settings of the site; ``build.py`` lays out its sources and calls it."""

project = "rlaifv_kedro"
html_title = "RLAIF-V on Kedro"
extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4  # as code hosts make them, so that page.md#heading is valid in both places
html_theme = "furo"  # all of its styles and scripts are files beside the pages
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
