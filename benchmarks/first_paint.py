"""How soon a browser shows the repositories of a large registry in Backstage, and how it scrolls.

    make backstage-ui                                  # once
    .venv/bin/python -m benchmarks.first_paint         # 1,000 and 10,000 repositories

Opens the tab of a registry in a real Backstage five times, by the clock, each time in a browser
with an empty cache. First paint is the time from the entity's answer to the first rows on the
screen; the longest frame is measured while the page is scrolled. The table says the median and the
longest. Fails when a median is over 1 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from tests.e2e.test_backstage_ui import (
    FIRST_ROWS,
    backstage_with,
    registry,
    repositories,
    scroll,
)
from tests.e2e.test_browser import CHROMIUM, FLAGS
from tests.integration.backstage import Backstage

TIMES: Final = 5
LIMIT_MS: Final = 1_000


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repositories", type=int, nargs="*", default=[1_000, 10_000])
    entities = {
        f"registry-{count}": registry(f"registry-{count}", repositories(count))
        for count in parser.parse_args().repositories
    }
    over = False
    print("| registry | first paint | longest frame |")
    print("|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        backstage_with(entities, Path(folder)) as backstage,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name in entities:
            paints, frames = zip(*visits(browser, backstage, name), strict=True)
            print(f"| {name} | {figures(paints)} | {figures(frames)} |", flush=True)
            over |= max(statistics.median(paints), statistics.median(frames)) > LIMIT_MS
        browser.close()
    if over:
        sys.exit(f"over the limit of {LIMIT_MS} ms")


def visits(browser: Browser, backstage: Backstage, name: str) -> Iterator[tuple[float, float]]:
    """Open the page again and again; give first paint and longest frame, in milliseconds."""
    for _ in range(TIMES):
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.add_init_script(FIRST_ROWS)
        page.goto(f"{backstage.url}/catalog/default/resource/{name}/repositories")
        page.wait_for_function("window.firstRows !== undefined")
        paint = float(page.evaluate(_SINCE_THE_ANSWER))
        page.evaluate(_WATCH_FRAMES)
        scroll(page)
        yield paint, float(page.evaluate("window.longestFrame"))
        page.close()


def figures(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.0f} ms, at most {max(values):.0f} ms"


_SINCE_THE_ANSWER: Final = """() => {
  const answers = performance.getEntriesByType('resource')
    .filter(each => /\\/api\\/catalog\\/entities\\/by-name/.test(each.name))
    .map(each => each.responseEnd);
  return window.firstRows - Math.min(...answers);
}"""
_WATCH_FRAMES: Final = """() => {
  let last = performance.now();
  window.longestFrame = 0;
  const watch = now => {
    window.longestFrame = Math.max(window.longestFrame, now - last);
    last = now;
    requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
}"""


if __name__ == "__main__":
    main()
