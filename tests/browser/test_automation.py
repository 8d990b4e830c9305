"""The Automation screen in a real browser, against a real hub: what runs by the clock, live."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from tests.browser.test_overview import ARTIFACTS, browser, enter, hub, page, pytestmark  # noqa: F401 - fixtures and marks


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_by_the_clock_has_its_line(page, hub, theme):  # noqa: F811 - the fixtures
    page.emulate_media(color_scheme=theme)
    enter(page, hub)
    page.get_by_role("link", name="Automation").click()
    expect(page).to_have_title("Automation - Wardround")
    expect(page.locator("#answer h1")).to_contain_text("Everything runs in its time.")
    for words in ("Clean, aligned signals", "Rows past their retention", "The hub's certificate", "Rounds of ventricular-beats"):
        expect(page.locator("#routines tr", has_text=words)).to_be_visible()
    job = page.locator("#routines tr", has_text="Clean, aligned signals")
    expect(job).to_contain_text("nothing was new", timeout=40_000)
    before = page.locator("#now").inner_text()
    page.wait_for_function("(t) => document.getElementById('now').innerText !== t", arg=before)
    ARTIFACTS.mkdir(exist_ok=True)
    for width, height in ((1440, 900), (1024, 768)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=ARTIFACTS / f"automation-{theme}-{width}.png")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("#step-collect")).to_be_visible()
    assert page.problems == []
