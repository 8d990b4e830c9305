"""The browser's half of the console alone, without a hub: focus, keys and presses while rows come, go and move."""

from __future__ import annotations

import datetime as dt

import pytest
from playwright.sync_api import expect
from tests.browser.test_overview import browser  # noqa: F401 - a fixture
from tests.browser.test_overview import pytestmark as marks

from wardround.console import frame, parts
from wardround.console.model import Overview
from wardround.console.server import STATIC

pytestmark = marks
WAIT_MS = 60_000  # a busy machine draws slowly
VIEW = Overview(0, "hub-1", "1.0", "Northmoor", simulated=True, subjects=0)
SITE = "http://console.test"
MAIN = """
<ul id="rows"></ul><table><tbody id="body"></tbody></table>
<details><summary>More</summary><p id="more">Told.</p></details><div id="command"></div>"""


@pytest.fixture
def page(browser):  # noqa: F811 - a fixture
    """One page whose clock stands still until a test moves it on."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.set_default_timeout(WAIT_MS)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    head = "".join(f'<link rel="stylesheet" href="/{name}.css">' for name in ("tokens", "console", "screens"))
    now = '<script>document.getElementById("now").textContent = "Fri 27 Nov, 09:10:38 UTC"</script>'
    html = f"<!doctype html><title>t</title>{head}{frame.page(VIEW, who='kim', role='operator', here='/', main=MAIN)}"
    html += f'<script src="/console.js"></script>{now}'

    def serve(route):
        file = STATIC / route.request.url.rpartition("/")[2]
        if file.suffix in (".css", ".js"):
            route.fulfill(path=file)
        else:
            route.fulfill(body=html, content_type="text/html")

    opened.route("**/*", serve)
    opened.clock.install(time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    opened.goto(SITE)
    opened.clock.pause_at(dt.datetime(2026, 1, 1, 1, tzinfo=dt.UTC))
    opened.evaluate("() => { window.sent = []; wr.connect((f) => { if (f.act !== 'here') window.sent.push(f); }); }")
    yield opened
    context.close()
    assert problems == []


def row(name, *, button=True):
    """A row as the Overview has them: a link, and perhaps a button."""
    press = f'<button data-act="acknowledge" data-alert="{name}" style="display:block;height:40px">On it</button>'
    return f'<li data-key="{name}" style="height:60px"><a href="#{name}">{name}</a>{press if button else ""}</li>'


def patch(page, **sections):
    page.evaluate("(s) => wr.patch(s)", sections)


def focused(page):
    return page.evaluate("(document.activeElement.closest('[data-key]') || document.body).dataset.key || ''")


def test_a_row_keeps_the_focus_when_others_come_go_and_change_places(page):
    patch(page, rows=row("a") + row("b") + row("c"))
    page.locator("[data-alert=b]").focus()
    for names in ("bc", "zbc", "bzc", "czb", "b"):
        patch(page, rows="".join(map(row, names)))
        assert focused(page) == "b"
        assert page.evaluate("document.activeElement.dataset.act") == "acknowledge"
        assert page.locator("#rows li").evaluate_all("all => all.map((one) => one.dataset.key).join('')") == names


def test_when_a_button_is_gone_its_row_has_the_focus_and_without_a_row_nobody(page):
    patch(page, rows=row("a") + row("b"))
    page.locator("[data-alert=a]").focus()
    patch(page, rows=row("a", button=False) + row("b"))
    assert focused(page) == "a"
    assert page.evaluate("document.activeElement.tagName") == "A"
    patch(page, rows=row("b"))
    assert focused(page) == ""


def test_a_press_aimed_at_a_row_that_has_just_moved_does_nothing_and_says_so(page):
    patch(page, rows=row("a") + row("b"))
    box = page.locator("[data-alert=a]").bounding_box()
    at = (box["x"] + 10, box["y"] + 20)
    patch(page, rows=row("new") + row("a") + row("b"))
    page.mouse.click(*at)
    expect(page.locator("#toast")).to_contain_text("press again")
    assert page.evaluate("window.sent") == []
    page.clock.run_for(600)
    page.mouse.click(*at)
    assert page.evaluate("window.sent") == [{"act": "acknowledge", "alert": "new"}]
    patch(page, rows=row("b"))
    page.locator("[data-alert=b]").focus()
    page.keyboard.press("Enter")  # by key it is always the one that has the focus
    assert page.evaluate("window.sent[1].alert") == "b"


def test_a_press_right_after_a_change_that_moved_nothing_is_a_press(page):
    patch(page, rows=row("a"))
    patch(page, rows=row("a").replace("On it", "On it now"))
    page.locator("[data-alert=a]").click()
    assert page.evaluate("window.sent") == [{"act": "acknowledge", "alert": "a"}]


def test_space_opens_what_is_folded_and_pauses_elsewhere(page):
    page.locator("summary").focus()
    page.keyboard.press("Space")
    expect(page.locator("#more")).to_be_visible()
    expect(page.locator("#live-word")).to_have_text("Live")
    page.locator("#main").focus()
    page.keyboard.press("Space")
    expect(page.locator("#live-word")).to_have_text("Paused")


def test_who_listens_is_told_the_first_line_once_a_minute_at_most(page):
    told = page.locator("#told")
    patch(page, answer=parts.answer("Nothing needs a person."))
    expect(told).to_have_text("Nothing needs a person.")
    for seconds in (1, 2, 3):
        patch(page, answer=parts.answer(f"Gold is {seconds} s behind live."))
    assert told.inner_text() == "Nothing needs a person."
    page.clock.run_for(61_000)
    expect(told).to_have_text("Gold is 3 s behind live.")
    assert page.locator("#answer").get_attribute("aria-live") is None


def test_what_could_not_be_copied_is_not_said_to_be(page):
    patch(page, command=parts.to_copy("wardround doctor"))
    page.get_by_role("button", name="Copy").click()  # plain HTTP: the browser lets no page copy
    expect(page.locator("#toast")).to_contain_text("copy it by its key")
    assert page.evaluate("getSelection().toString()") == "wardround doctor"


def test_on_a_tablet_one_finds_by_a_button_and_the_key_goes_there_too(page):
    page.set_viewport_size({"width": 768, "height": 1024})
    expect(page.locator("#find")).to_be_hidden()
    expect(page.get_by_role("link", name=frame.FIND)).to_be_visible()
    page.keyboard.press("/")
    page.wait_for_url("**/find")
    page.set_viewport_size({"width": 1440, "height": 900})
    expect(page.locator("#find-page")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("#find")).to_be_focused()


@pytest.mark.parametrize("width", [768, 1024, 1440])
def test_the_first_line_and_the_bar_have_room_at_every_width(page, width):
    page.set_viewport_size({"width": width, "height": 1024})
    acts = "".join(f'<button class="btn">Something to do, number {k}</button>' for k in range(5))
    patch(page, answer=parts.answer("In 12 hours no alert was opened, none is still open.", "Who leaves writes a note.", acts))
    assert page.locator("#answer h1").bounding_box()["width"] > 200
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
