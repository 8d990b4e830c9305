"""The Ward in a real browser, against a real hub over a real lake: list, record, roles, links, spans, CSV."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect
from tests.browser.test_overview import ARTIFACTS, browser, page, pytestmark  # noqa: F401 - fixtures and marks

import ward_under_test as rows
from wardround.process.lake import Lake
from wardround.store import EdgeRecord
from wardround.trust.consent import ConsentRegister


@pytest.fixture
def hub(site):
    """A hub whose ward has fourteen subjects, a clinician and an operator."""
    now_us = time.time_ns() // 1_000
    who = rows.fill(Lake(site.home / "lake"), now_us, year=True)
    consents = ConsentRegister(site.home / "consent.sqlite")
    rows.allow(consents, who)
    consents.close()
    store = site.store()
    for name in ("resp-1", "surg-1"):
        store.put_edge(EdgeRecord(name, now_us, "1", now_us + 10**12, None))
    store.close()
    (site.home / "hub.toml").write_text("simulated = true\n" + (site.home / "hub.toml").read_text())
    site.passwords = {name: site.sign_in(name, role) for name, role in (("cleo", "clinician"), ("olga", "operator"))}
    site.start_hub()
    site.address = f"http://127.0.0.1:{site.ports['console']}"
    return site


def enter(page, hub, name):  # noqa: F811 - the fixtures
    page.goto(hub.address)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(hub.passwords[name])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#answer h1")).to_be_visible()


def test_a_clinician_sees_who_needs_somebody_and_opens_the_record(page, hub):  # noqa: F811
    enter(page, hub, "cleo")
    page.get_by_role("link", name="Ward", exact=True).click()
    expect(page).to_have_title("Ward - Wardround")
    expect(page.locator("#answer h1")).to_contain_text("1 subject on this page scores NEWS2 7 or more.")
    expect(page.locator("#ward-list li")).to_have_count(14)
    expect(page.locator("#answer")).to_contain_text("do not rely on Wardround for primary alarms")
    page.locator("#ward-list li a").first.click()
    expect(page.locator("#answer h1")).to_contain_text(f"{rows.WORSE} scores NEWS2 at least 7, up from")
    expect(page.locator("#ward-list li")).to_have_count(14)
    expect(page.locator("#ward-list [aria-current]")).to_contain_text("q7k4-m2xd")
    expect(page.locator(".vt", has_text="Respiratory rate")).to_contain_text("usual 16")
    expect(page.get_by_role("img", name="ECG lead II")).to_be_visible()
    ARTIFACTS.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width, height in ((1440, 900), (1024, 768)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=ARTIFACTS / f"ward-{theme}-{width}.png", full_page=True)
    assert page.evaluate("document.querySelectorAll('*').length") < 1_500
    page.get_by_role("link", name="1 year").click()
    expect(page.locator(".trends figure")).to_have_count(5)
    page.screenshot(path=ARTIFACTS / "ward-year.png", full_page=True)
    with page.expect_download() as given:
        page.get_by_role("link", name="CSV").first.click()
    assert given.value.path().read_text().startswith("time_utc,mean_/min,low,high")
    page.go_back()
    expect(page.locator(".seg [aria-current]")).to_have_text("12 h")
    page.goto(hub.address + f"/ward/resp-1/{rows.WORSE}?span=4h&at={time.time_ns() // 1_000 - 8 * rows.HOUR_US}")
    expect(page.get_by_role("link", name="Show now")).to_be_visible()
    assert page.problems == []
    audit = hub.home / "audit"
    found = b"".join(p.read_bytes() for p in audit.rglob("*") if p.is_file())
    assert b"a patient's record opened at the console" in found
    assert rows.WORSE.encode() not in found


def test_an_operator_sees_no_patient_in_page_or_file(page, hub):  # noqa: F811
    enter(page, hub, "olga")
    place = f"/ward/resp-1/{rows.WORSE}"
    for path in ("/ward", place, "/ward?find=q7k4"):
        page.goto(hub.address + path)
        expect(page.locator("#answer h1")).to_have_text("Patients are seen by clinicians.")
        assert "q7k4" not in page.locator("#main").inner_html()
    answer = page.request.get(hub.address + place + "/trend.csv?code=loinc:8867-4")
    assert answer.status == 403
    assert page.problems == []
