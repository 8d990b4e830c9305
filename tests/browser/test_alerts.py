"""Alerts in a real browser, against a real hub: open one by its address, acknowledge, silence and end it, and by whom."""

from __future__ import annotations

from playwright.sync_api import expect
from tests.browser.test_overview import ARTIFACTS, browser, enter, hub, page, pytestmark  # noqa: F401 - fixtures and marks


def pictures(page, name):  # noqa: F811 - a fixture elsewhere
    """The screen in both themes and two widths, none of which scrolls sideways."""
    ARTIFACTS.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width, height in ((1024, 768), (1440, 900)):
            page.set_viewport_size({"width": width, "height": height})
            page.screenshot(path=ARTIFACTS / f"{name}-{theme}-{width}.png")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelectorAll('*').length") < 1_500


def test_an_alert_is_opened_acknowledged_silenced_and_told_of_again(page, hub):  # noqa: F811 - the fixtures
    enter(page, hub)
    page.keyboard.press("g")
    page.keyboard.press("a")
    expect(page).to_have_title("Alerts - Wardround")
    expect(page.locator("#answer h1")).to_contain_text("Two alerts are open. One needs a person now; one was handled")
    page.wait_for_function("window.socket && window.socket.connected")
    pictures(page, "alerts")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")  # the second row
    page.wait_for_url("**/alerts/A-0002")
    expect(page.locator("#detail h2")).to_have_text("cardio-1 sends updates far from its own history")
    page.wait_for_function("window.socket && window.socket.connected")
    page.get_by_role("button", name="Silence").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Silence it").click()
    expect(dialog).to_be_visible()  # a reason first
    dialog.get_by_label("Reason").fill("cable is being changed")
    dialog.get_by_role("button", name="Silence it").click()
    expect(page.locator("#detail")).to_contain_text("Silenced by oncall until")
    expect(page.locator("#inbox")).to_contain_text("Silenced 1")
    page.locator("#toast").get_by_role("button", name="Undo").click()
    expect(page.locator("#inbox")).to_contain_text("Silenced 0")
    page.goto(hub.address + "/alerts/A-0001")
    page.wait_for_function("window.socket && window.socket.connected")
    page.keyboard.press("a")
    expect(page.locator("#inbox")).to_contain_text("oncall is on it")
    store = hub.store()
    store.put_person(store.person("oncall").__class__("vera", "viewer", store.person("oncall").password_hash, None))
    store.close()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Name").fill("vera")
    page.get_by_label("Password").fill(hub.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#answer h1")).to_be_visible()
    page.goto(hub.address + "/alerts/A-0002")
    expect(page.get_by_role("button", name="Silence")).to_be_disabled()
    expect(page.get_by_role("button", name="Silence")).to_have_attribute("title", "Needs the role clinician or operator or admin")
    page.wait_for_function("window.socket && window.socket.connected")
    page.evaluate(  # what the screen does not offer is sent all the same
        "document.querySelector('.wr-root').dispatchEvent(new CustomEvent('wr-act',"
        " {detail: {act: 'silence', alert: 'A-0002', minutes: '60', reason: 'x'}}))"
    )
    expect(page.locator("#said")).to_contain_text("vera (viewer) may not acknowledge an alert")
    expect(page.locator("#inbox")).to_contain_text("Silenced 0")
    assert page.problems == []
