"""The Overview in a real browser, against a real hub: sign-in, live changes, acknowledge, undo, keyboard, both themes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from wardround.learn.study import parse_study
from wardround.process.lake import Lake
from wardround.process.tables import TREND, TRENDS, day_of
from wardround.records import bucket_of
from wardround.store import AlertRecord, EdgeRecord, Happening, StudyRecord
from wardround.watch.alerts import AlertBook, Finding, Response

expect.set_options(timeout=15_000)
ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
HOUR_US = 3_600_000_000
STUDY = """
name = "ventricular-beats"
task = "ventricular-beats"
[rounds]
count = 24
edges_min = 3
"""

pytestmark = [
    pytest.mark.timeout(360),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def chromium_path() -> str:
    found = os.environ.get("WARDROUND_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium here: install the package chromium, or set WARDROUND_CHROMIUM to its path")
    return found


def furnish(site):
    """A hub with something to tell: four edges, a study, two faults."""
    store, now_us = site.store(), time.time_ns() // 1_000
    for name in ("icu-a", "icu-b", "cardio-1", "cardio-2"):
        store.put_edge(EdgeRecord(name, now_us, "1", now_us + 10**12, None))
    parse_study(STUDY, where="test")
    store.put_study(StudyRecord("ventricular-beats", STUDY, "requested", "", now_us, now_us))
    book = AlertBook()
    dead = Finding(
        kind="sensor-dead", title="ECG lead II of patch-1 at icu-a is a flat line", priority="medium", category="technical",
        since_us=now_us - 600_000_000, detected_us=now_us, edge="icu-a", device="patch-1",
        detail="No change for 30 s; the device sends its other signals.", action="Have patch-1 looked at.",
    )  # fmt: skip
    poisoned = Finding(
        kind="update-poisoned", title="cardio-1 sends updates far from its own history", priority="medium", category="model",
        since_us=now_us, detected_us=now_us, edge="cardio-1", study="ventricular-beats", detail="Score 9.4, threshold 6.0.",
    )  # fmt: skip
    responses = (
        Response(what="flagged as a flat line", person_too=True),
        Response(what="quarantined in round 15", undo="release:ventricular-beats:cardio-1"),
    )
    for finding, response in zip((dead, poisoned), responses, strict=True):
        alert = book.raise_(finding, now_us, response)
        store.put_alert(AlertRecord(alert.alert_id, alert.state.value, alert.raised_us, alert.changed_us, {}))
    store.save_state("alert-book", book.save())
    store.happened(Happening(now_us, "cardio-1 quarantined", "own-history score 9.4, threshold 6.0"))
    store.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def hub(site):
    furnish(site)
    site.password = site.sign_in()
    site.start_hub()
    site.address = f"http://127.0.0.1:{site.ports['console']}"
    return site


@pytest.fixture
def page(browser, hub):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith(hub.address) else opened.problems.append(f"asked {r.url}"))
    yield opened
    context.close()


def enter(page: Page, hub):
    page.goto(hub.address)
    page.get_by_label("Name").fill("oncall")
    page.get_by_label("Password").fill(hub.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#answer h1")).to_be_visible()
    page.wait_for_function("window.socket && window.socket.connected")


def test_nobody_sees_anything_before_signing_in(page, hub):
    for path in ("/", "/anything", "/openapi.json"):
        page.goto(hub.address + path)
        assert page.url == hub.address + "/login"
    assert "patch-1" not in page.content()
    page.get_by_label("Name").fill("oncall")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not fit")
    expect(page.get_by_label("Password")).to_have_value("")
    answer = page.request.post(
        hub.address + "/login", form={"name": "oncall", "password": hub.password}, headers={"origin": "http://evil.test"}
    )
    assert answer.status == 403
    answer = page.request.get(hub.address + "/login")
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_overview_answers_first_and_then_proves_it(page, hub, theme):
    page.emulate_media(color_scheme=theme)
    enter(page, hub)
    expect(page.locator("#answer h1")).to_contain_text("ECG lead II of patch-1 at icu-a is a flat line: it needs a person now.")
    expect(page.locator(".sim")).to_have_count(0)  # this site is not simulated
    for title in ("Collect", "Process", "Learn", "Watch"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(page.locator("#handled")).to_contain_text("cardio-1 sends updates far from its own history")
    expect(page.locator("#since")).to_contain_text("cardio-1 quarantined")
    before = page.locator("#now").inner_text()
    page.wait_for_function("(t) => document.getElementById('now').innerText !== t", arg=before)
    ARTIFACTS.mkdir(exist_ok=True)
    for width, height in ((1440, 900), (1024, 768)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=ARTIFACTS / f"overview-{theme}-{width}.png")
    assert page.evaluate("document.querySelectorAll('*').length") < 1_500
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(243, 245, 242)", "dark": "rgb(12, 17, 16)"}[theme]
    assert page.problems == []


def test_acknowledge_is_seen_by_everybody_and_survives_a_restart(page, hub, browser):
    enter(page, hub)
    other = browser.new_context().new_page()
    enter(other, hub)
    page.get_by_role("button", name="Acknowledge").click()
    for seen in (page, other):
        expect(seen.locator("#need")).to_contain_text("oncall is on it")
    expect(page.locator("#toast")).to_contain_text("you are on it")
    other.context.close()
    hub.hub.kill()
    page.wait_for_function("document.body.classList.contains('unreachable')")
    expect(page.get_by_text("The hub cannot be reached")).to_be_visible()
    expect(page.locator("#need")).to_contain_text("oncall is on it")  # the last picture stays
    hub.hub.start()
    hub.hub.wait_ready(150)
    enter(page, hub)
    expect(page.locator("#need")).to_contain_text("oncall is on it")


def test_undo_says_what_it_will_do_asks_why_and_keeps_the_reason(page, hub):
    enter(page, hub)
    page.get_by_role("button", name="Undo").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Let cardio-1 count again from round 1?")
    expect(dialog.get_by_role("listitem")).to_have_count(3)
    dialog.get_by_role("button", name="Let cardio-1 count again").click()
    expect(dialog).to_be_visible()  # a reason first
    dialog.get_by_label("Reason").fill("the cable was wrong")
    dialog.get_by_role("button", name="Let cardio-1 count again").click()
    expect(page.locator("#toast")).to_contain_text("Undone")
    expect(page.locator("#need")).to_contain_text("cardio-1 sends updates")  # nothing is done about it any more
    store = hub.store()
    [alert] = [a for a in store.alerts() if a.alert_id == "A-0002"]
    store.close()
    assert (alert.body["response"]["undone_by"], alert.body["response"]["reason"]) == ("oncall", "the cable was wrong")


def test_everything_works_by_keyboard(page, hub):
    enter(page, hub)
    page.keyboard.press("t")
    theme = page.evaluate("document.documentElement.dataset.theme")
    assert theme == "dark"
    page.keyboard.press(" ")
    expect(page.locator("#live-word")).to_have_text("Paused")
    before = page.locator("#now").inner_text()
    page.wait_for_timeout(2_500)
    assert page.locator("#now").inner_text() == before
    page.keyboard.press(" ")
    expect(page.locator("#live-word")).to_have_text("Live")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("g m ?")  # letters while typing
    assert page.url == hub.address + "/"
    page.keyboard.press("Enter")
    page.wait_for_url("**/find?q=g+m+%3F")
    expect(page.locator("#answer h1")).to_have_text("0 things fit g m ?.")
    page.wait_for_function("window.socket && window.socket.connected")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/automation")
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.wait_for_url(hub.address + "/")
    page.wait_for_function("window.socket && window.socket.connected")
    page.keyboard.press("u")
    page.get_by_label("Reason").fill("a t u ?")  # keys are letters while typing
    page.keyboard.press("Enter")  # never confirms
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    expect(page.locator("#need")).to_contain_text("oncall is on it")


def test_focus_survives_live_changes(page, hub):
    enter(page, hub)
    page.get_by_role("button", name="Undo").focus()
    page.wait_for_timeout(2_500)
    assert page.evaluate("document.activeElement.dataset.act") == "ask-undo"


def test_signing_out_ends_it(page, hub):
    enter(page, hub)
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    page.goto(hub.address)
    assert page.url == hub.address + "/login"


def test_completeness_shows_what_came_of_each_signal(page, hub):
    lake, now_us = Lake(hub.home / "lake"), time.time_ns() // 1_000
    hour_us = (now_us // HOUR_US - 2) * HOUR_US
    row = {"subject": "q7k4-m2xd", "code": "loinc:8867-4", "t_us": hour_us, "width_us": HOUR_US, "n": 900, "expected": 3600}
    row |= {"completeness": 0.25, "day": day_of(hour_us), "bucket": bucket_of("q7k4-m2xd"), "job": "trends", "part": "p"}
    lake.append(TREND, pa.Table.from_pylist([row], schema=TRENDS), app="test", version=0)
    enter(page, hub)
    page.get_by_role("link", name="Completeness").click()
    expect(page.locator("#answer h1")).to_contain_text(
        "1 signal of 1 came less than 80 % complete; the least, Heart rate (ECG) of q7k4-m2xd"
    )
    expect(page.locator("#signals tbody tr")).to_have_count(1)
    assert page.locator("#signals path.came").get_attribute("d").count("V") == 1
    assert page.locator("#signals path.not").get_attribute("d").count("h") == 2
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "completeness.png")
    assert page.problems == []
