"""Signing in with a second factor in a real browser, against a real hub: it is made, asked for, and reset on the command line."""

from __future__ import annotations

import time

from playwright.sync_api import expect
from tests.browser.test_overview import ARTIFACTS, browser, enter, hub, page, pytestmark  # noqa: F401 - fixtures and marks

from wardround.trust import second_factor as totp


def code(hub, later: int = 0) -> str:  # noqa: F811 - a fixture elsewhere
    """The app's code now, or some half minutes later."""
    store = hub.store()
    factor = store.second_factor("oncall")
    store.close()
    return totp.code_at(factor.secret, totp.step_of(time.time_ns() // 1_000) + later)


def test_a_second_factor_is_made_and_then_asked_for(page, hub, command):  # noqa: F811 - the fixtures
    ARTIFACTS.mkdir(exist_ok=True)
    enter(page, hub)
    page.get_by_role("link", name="oncall, operator").click()
    expect(page.get_by_role("img", name="QR code of the secret")).to_be_visible()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.screenshot(path=ARTIFACTS / f"second-factor-{theme}.png", full_page=True)
    page.get_by_label("The code it shows now").fill("1")
    page.get_by_role("button", name="Turn it on").click()
    expect(page.get_by_role("alert")).to_contain_text("does not fit")
    page.get_by_label("The code it shows now").fill(code(hub))
    page.get_by_role("button", name="Turn it on").click()
    expect(page.get_by_role("listitem")).to_have_count(totp.RECOVERY_CODES)
    recovery = page.get_by_role("listitem").first.inner_text()
    page.screenshot(path=ARTIFACTS / "recovery-codes.png", full_page=True)
    page.get_by_role("link", name="I have kept them").click()
    expect(page.locator("#answer h1")).to_be_visible()  # the session went over to a new token
    for shown in (None, recovery):
        page.context.clear_cookies()
        page.goto(hub.address)
        page.get_by_label("Name").fill("oncall")
        page.get_by_label("Password").fill(hub.password)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_label("Code from your app")).to_be_focused()
        page.goto(hub.address + "/automation")  # the password alone opens nothing
        assert page.url == hub.address + "/login"
        page.goto(hub.address + "/login/code")
        page.screenshot(path=ARTIFACTS / "code.png")
        page.get_by_label("Code from your app").fill(shown or code(hub, later=1))
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#answer h1")).to_be_visible()
    command("user", "reset-factor", "oncall", "--home", str(hub.home))
    page.wait_for_url("**/login")  # the open page's session ended with it
    assert page.problems == []
