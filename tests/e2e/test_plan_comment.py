"""The comment on a pull request as a browser shows it.

`ECR_CATALOG_SCREENSHOTS=FOLDER` takes the picture of the documentation.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

CHROMIUM: Final = shutil.which("chromium")
FLAGS: Final = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
EXAMPLE: Final = Path(__file__).parents[1] / "data" / "plan-comment.md"
STYLE: Final = """
body { font: 14px/1.5 "DejaVu Sans", sans-serif; color: #1f2328; margin: 16px; width: 860px }
h3 { font-size: 18px; margin: 0 0 12px } h4 { margin: 20px 0 8px }
table { border-collapse: collapse } td, th { border: 1px solid #d1d9e0; padding: 5px 11px }
th { text-align: left } tr:nth-child(even) td { background: #f6f8fa }
code { font: 12px "DejaVu Sans Mono", monospace; background: #eff1f3; padding: 2px 5px;
  border-radius: 5px }
sub { color: #59636e }
"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)"
)


def test_a_browser_shows_the_comment_as_tables() -> None:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    html = markdown.render(EXAMPLE.read_text(encoding="utf-8"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 892, "height": 400})
        page.set_content(f"<!doctype html><style>{STYLE}</style>{html}")
        tables = page.locator("table").count()
        shown = page.locator("body").inner_text()
        if folder := os.environ.get("ECR_CATALOG_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / "plan-comment.png", full_page=True)
        browser.close()

    assert tables == 6
    assert shown.startswith("Container registry goldenpath")
    assert "It would be held for approval" in shown
    assert "ecr-catalog:plan" not in shown, "the first line is hidden"
    assert "|" not in shown
