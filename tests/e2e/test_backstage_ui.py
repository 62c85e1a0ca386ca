"""The entity's page in a real Backstage, in a real browser: the card and the tab of the plugin.

`ECR_CATALOG_SCREENSHOTS=docs/images` writes the README's picture.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from playwright.sync_api import Browser, CDPSession, Locator, Page, Route, expect, sync_playwright

from ecr_catalog_pipeline.demo.world import create_in_ecr, delete_in_ecr
from tests.e2e.running import RunningDemo, wait_for
from tests.e2e.test_browser import CHROMIUM, FLAGS, SLOW
from tests.integration.backstage import BACKSTAGE, DEMO_CONFIG, Backstage, running_backstage

PLUGINS: Final = BACKSTAGE / "plugins"
# Seconds of the processor from the entity's answer to the first rows, and for scrolling past 50.
# benchmarks/first_paint.py measures by the clock, on a machine that does nothing else.
PAINT_LIMIT: Final = 1
SCROLL_LIMIT: Final = 1

MARKUP: Final = "<img src=x onerror=window.ran=1><script>window.ran=1</script>"
SCRIPT: Final = "javascript:window.ran=1"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)"),
    pytest.mark.skipif(shutil.which("node") is None, reason="Node 20+ is not installed"),
    pytest.mark.skipif(
        not (PLUGINS / "app" / "dist" / "index.html").is_file(),
        reason="Backstage's pages are not built: run `make backstage-ui`",
    ),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(SLOW)
    expect.set_options(timeout=SLOW)
    yield page
    context.close()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backstage]:
    """A Backstage with two other registries: a large one, and one whose texts are hostile."""
    fields = ("name", "owner", "risk", "environment", "status", "uri", "requested")
    hostile = [dict.fromkeys(fields, text) for text in (MARKUP, SCRIPT)]
    entities = {
        "large": registry("large", repositories(1_000)),
        "hostile": registry("hostile", hostile),
    }
    with backstage_with(entities, tmp_path_factory.mktemp("others")) as backstage:
        yield backstage


def test_the_page_shows_the_demo_and_leads_from_the_card_to_the_table(
    running: RunningDemo, page: Page
) -> None:
    entity = served(running)
    printed = (running.folder / "run.log").read_text()
    assert f"Its page            {address(running)}\n" in printed
    page.goto(address(running))

    expect(fact(page, "Live")).to_have_text(str(len(entity["spec"]["repositories"])))
    for label, key in (
        ("Pending", "pending-count"),
        ("Ghosts", "ghost-count"),
        ("Orphans", "orphan-count"),
    ):
        expect(fact(page, label)).to_have_text(entity["metadata"]["annotations"][f"platform/{key}"])
    sha = entity["metadata"]["annotations"]["platform/source-sha"]
    expect(fact(page, "Governance commit")).to_have_text(sha[:12])
    page.locator("main, article").get_by_role("link", name="Repositories").last.click()

    expect(page).to_have_url(re.compile("/repositories$"))
    expect(rows(page).first).to_be_visible()
    assert names(page) == sorted(each["name"] for each in entity["spec"]["repositories"])
    assert names(page, 1) == sorted(each["name"] for each in entity["spec"]["pending"])
    shoot(page, "backstage")


def test_search_filters_and_sorting_work(running: RunningDemo, page: Page) -> None:
    repositories = served(running)["spec"]["repositories"]
    page.goto(address(running, "repositories"))
    expect(rows(page)).to_have_count(len(repositories))

    page.get_by_placeholder("Search").first.fill("base-images")
    expect(rows(page)).to_have_count(2)
    page.get_by_placeholder("Search").first.fill("")
    expect(rows(page)).to_have_count(len(repositories))

    choose(page, "owner", "app-team-payments")
    choose(page, "risk", "high")
    chosen = matching(repositories, owner="app-team-payments", risk="high")
    assert 0 < len(chosen) < len(repositories)
    expect(rows(page)).to_have_count(len(chosen))
    assert names(page) == chosen
    page.reload()
    choose(page, "status", "deprecated")
    chosen = matching(repositories, status="deprecated")
    expect(rows(page)).to_have_count(len(chosen))
    assert names(page) == chosen

    page.reload()
    risks = page.locator("table").first.locator("tbody tr td:nth-child(3)")
    page.locator("table").first.get_by_text("Risk", exact=True).click()
    expect(risks.first).to_have_text("low")
    page.locator("table").first.get_by_text("Risk", exact=True).click()
    expect(risks.first).to_have_text("high")


def test_a_uri_is_copied(running: RunningDemo, page: Page) -> None:
    uri = next(
        each["uri"]
        for each in served(running)["spec"]["repositories"]
        if each["name"] == "shop/cart"
    )
    page.goto(address(running, "repositories"))

    page.get_by_role("button", name="Copy the URI of shop/cart").click()

    page.wait_for_function("uri => navigator.clipboard.readText().then(t => t === uri)", arg=uri)


def test_an_owner_leads_to_its_group(running: RunningDemo, page: Page) -> None:
    page.goto(address(running, "repositories"))

    page.locator("table").first.get_by_role("link", name="app-team-shop").first.click()

    expect(page).to_have_url(re.compile("/catalog/default/group/app-team-shop$"))
    expect(page.get_by_role("heading", name="app-team-shop").first).to_be_visible()
    expect(page.get_by_text("Entity not found")).to_have_count(0)


def test_a_deleted_repository_is_gone_after_its_publication_and_a_reload(
    running: RunningDemo, page: Page
) -> None:
    page.goto(address(running, "repositories"))
    cell = page.locator("table").first.get_by_text("shop/checkout", exact=True)
    expect(cell).to_be_visible()

    delete_in_ecr(running.world, "shop/checkout")
    try:
        wait_for(lambda: "shop/checkout" not in listed(running), 180, "the publication")
        page.reload()
        expect(rows(page).first).to_be_visible()
        expect(cell).to_have_count(0)
    finally:
        create_in_ecr(running.world, "shop/checkout")
        wait_for(lambda: "shop/checkout" in listed(running), 180, "the publication")


def test_the_page_follows_the_theme(running: RunningDemo, page: Page) -> None:
    for scheme, is_light in (("light", True), ("dark", False)):
        page.emulate_media(color_scheme="light" if is_light else "dark")
        page.goto(address(running, "repositories"))
        cell = rows(page).first.locator("td").first
        expect(cell).to_be_visible()
        text, ground = page.evaluate(_COLOURS, cell.element_handle())
        assert (text < ground) is is_light, (scheme, text, ground)
        assert abs(text - ground) > 0.5, (scheme, text, ground)


def test_a_thousand_repositories_cost_the_browser_less_than_a_second_to_paint_and_to_scroll(
    others: Backstage, page: Page
) -> None:
    session = page.context.new_cdp_session(page)
    at_the_answer: list[float] = []

    def answer(route: Route) -> None:
        response = route.fetch()
        at_the_answer.append(processor_seconds(session))
        route.fulfill(response=response)

    page.route("**/api/catalog/entities/by-name/**", answer)
    page.add_init_script(FIRST_ROWS)
    page.goto(f"{others.url}/catalog/default/resource/large/repositories")
    page.wait_for_function("window.firstRows !== undefined")
    painted = processor_seconds(session)
    expect(rows(page)).to_have_count(50)
    expect(page.get_by_text("Repositories (1000)")).to_be_visible()
    page.get_by_role("button", name="Next page").first.click()
    expect(page.get_by_text("51-100 of 1000").last).to_be_visible()

    before = processor_seconds(session)
    position = scroll(page)
    scrolled = processor_seconds(session) - before

    assert position > 0
    assert 0 < painted - at_the_answer[0] <= PAINT_LIMIT
    assert 0 < scrolled <= SCROLL_LIMIT


def test_nothing_hostile_runs_as_markup_or_as_the_address_of_a_script(
    others: Backstage, page: Page
) -> None:
    for tab in ("", "repositories"):
        page.goto(f"{others.url}/catalog/default/resource/hostile/{tab}")
        expect(page.get_by_text("Ghosts")).to_be_visible()
    expect(rows(page)).to_have_count(2)

    assert page.get_by_text(MARKUP).count() > 0
    assert page.locator('img[src="x"], [onerror]').count() == 0
    assert page.locator('[href^="javascript" i], [src^="javascript" i]').count() == 0
    for text in page.get_by_text(SCRIPT).all():
        text.click()
    assert page.evaluate("window.ran") is None
    assert page.url.endswith("/hostile/repositories")


@contextmanager
def backstage_with(entities: Mapping[str, Mapping[str, Any]], folder: Path) -> Iterator[Backstage]:
    """A Backstage with its pages and these entities, by their names."""
    file = folder / "registries.yaml"
    file.write_text(yaml.safe_dump_all(entities.values()), encoding="utf-8")
    with running_backstage(
        folder,
        [DEMO_CONFIG, BACKSTAGE / "app-config.ui.yaml"],
        environment={
            "ECR_CATALOG_ENTITY_FILE": str(file),
            "ECR_CATALOG_UI": "1",
            "NODE_PATH": str(PLUGINS),
        },
    ) as backstage:
        for name in entities:
            wait_for(partial(_knows, backstage, name), 120, f"the registry {name}")
        yield backstage


def repositories(count: int) -> list[dict[str, str]]:
    return [
        {
            "name": f"team-{number % 20}/service-{number:04}",
            "owner": f"team-{number % 20}",
            "risk": ("low", "medium", "high")[number % 3],
            "environment": "prod",
            "status": "active",
            "uri": f"123456789012.dkr.ecr.eu-west-2.amazonaws.com/service-{number:04}",
        }
        for number in range(count)
    ]


def registry(name: str, lines: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """An entity as someone could write it by hand."""
    hostile = name == "hostile"
    return {
        "apiVersion": "backstage.io/v1alpha1",
        "kind": "Resource",
        "metadata": {
            "name": name,
            "annotations": {
                "platform/repo-count": MARKUP if hostile else str(len(lines)),
                "platform/source-sha": SCRIPT if hostile else "0" * 40,
                "platform/last-sync": MARKUP if hostile else "2026-01-09T23:03:13Z",
            },
        },
        "spec": {
            "type": "container-registry",
            "owner": "platform-team",
            "repositories": list(lines),
            "pending": list(lines) if hostile else [],
            **({"listed": {"url": SCRIPT, "count": 2}} if hostile else {}),
        },
    }


def _knows(backstage: Backstage, name: str) -> bool:
    return backstage.entity(f"resource:default/{name}") is not None


def address(demo: RunningDemo, tab: str = "") -> str:
    assert demo.mirror.backstage
    identity = demo.mirror.identity
    page = f"catalog/{identity.namespace}/resource/{identity.name}"
    return f"{demo.mirror.backstage.url}/{page}/{tab}".rstrip("/")


def served(demo: RunningDemo) -> dict[str, Any]:
    entity = demo.served()
    assert entity is not None
    return entity


def listed(demo: RunningDemo) -> set[str]:
    return {each["name"] for each in served(demo)["spec"]["repositories"]}


def matching(repositories: Sequence[Mapping[str, str]], **values: str) -> list[str]:
    return sorted(
        each["name"]
        for each in repositories
        if all(each.get(key) == value for key, value in values.items())
    )


def fact(page: Page, label: str) -> Locator:
    return page.locator(f"dt:text-is('{label}') + dd")


def rows(page: Page) -> Locator:
    """The rows of the live repositories; the table has empty rows, too."""
    return page.locator("table").first.locator("tbody tr:has(code)")


def names(page: Page, table: int = 0) -> list[str]:
    cells = page.locator("table").nth(table).locator("tbody tr td:first-child")
    return [text for text in cells.all_text_contents() if text]


def choose(page: Page, field: str, value: str) -> None:
    page.get_by_test_id(f"filter-{field}").get_by_role("button").click()
    page.get_by_role("option", name=value, exact=True).click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox")).to_have_count(0)


def processor_seconds(session: CDPSession) -> float:
    """What the page's main thread has used of the processor since it was first asked."""
    session.send("Performance.enable")
    metrics = {each["name"]: each for each in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["ThreadTime"]["value"])


def scroll(page: Page) -> float:
    """Scroll down and up again by the wheel; gives how far down it went, in pixels."""
    page.mouse.move(800, 600)
    positions = []
    for step in (600, 600, 600, 600, -600, -600, -600, -600):
        page.mouse.wheel(0, step)
        page.wait_for_timeout(50)
        positions.append(float(page.evaluate("document.scrollingElement.scrollTop")))
    return max(positions)


def shoot(page: Page, name: str) -> None:
    folder = os.environ.get("ECR_CATALOG_SCREENSHOTS")
    if folder:
        page.set_viewport_size({"width": 1440, "height": 1_240})
        page.wait_for_timeout(1_000)
        page.screenshot(path=Path(folder) / f"{name}.png")


# The first rows are painted in the frame after the one in which they come into the document.
FIRST_ROWS: Final = """
new MutationObserver((_, observer) => {
  if (document.querySelector('tbody tr code')) {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.firstRows = performance.now(); }));
  }
}).observe(document, {childList: true, subtree: true});
"""
# The brightness of a text and of what is behind it, from 0 to 1.
_COLOURS = """element => {
  const brightness = colour => {
    const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number);
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
  };
  let behind = element;
  const ground = each => getComputedStyle(each).backgroundColor;
  while (behind.parentElement && /, 0\\)$|transparent/.test(ground(behind))) {
    behind = behind.parentElement;
  }
  return [brightness(getComputedStyle(element).color), brightness(ground(behind))];
}"""
