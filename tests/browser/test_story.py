"""The whole story in one run of a real browser, against a hub and its edges as processes of their own (`make test-browser`).

An operator signs in with a second factor, invites an edge and watches it join; a clinician sees a patient's vital signs and is on
an alert that the edge has raised; a study is started; the new edge lies, is set aside, and counts again once somebody says so;
the study goes back a model; an edge is drained and used again, and the shift handed over; a data officer takes a model and the
patient's record away, erases the patient and reads the audit log. Whoever may not is refused, in the browser and at the API. Each
step leaves a numbered picture in artifacts/story.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile

import httpx
import numpy as np
import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect
from tests.browser.test_overview import ARTIFACTS, browser  # noqa: F401 - a fixture
from tests.browser.test_overview import pytestmark as marks
from tests.browser.test_screens import serious

from motion import hold_back, recording
from wardround.bedside.ledger import BedsideLedger
from wardround.bedside.watching import FOLDER
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.collect.storage import FolderStorage
from wardround.ports import free_port
from wardround.records import Consent
from wardround.trust import second_factor as totp
from wardround.watch.alerts import AlertBook, Finding

pytestmark = [
    *marks,
    pytest.mark.skipif("WARDROUND_STORY" not in os.environ, reason="minutes long: `make test-browser` runs it"),
    pytest.mark.timeout(1_800),
]
WAIT_MS = 240_000  # what a machine five times slower needs for its slowest step
PRESSES_MAX = 20  # of one button
EDGES = ("ward-1", "ward-2", "ward-3", "ward-4")
NEW = "ward-5"
PATIENT = "p-in-bed-3"
PEOPLE = {"olga": "operator", "cleo": "clinician", "dora": "data-officer", "vi": "viewer"}
CHANGES = {  # of the text that the console writes
    "count = 20": "count = 2000",
    "interval_s = 0.0": "interval_s = 0.5",
    "examples_min = 10 ": "examples_min = 5 ",
    "learning_rate = 0.02": "learning_rate = 0.002",
    "held_back = 0.2 ": 'held_back = 0.0\nheld_back_subjects = ["h-1", "h-2"] ',
}
RELEASE = """
[release]
canary_share = 0.34
hold_rounds = 2
examples_min = 10
score_margin = 1.0
worst_edge_margin = 1.0
ece_margin = 1.0
brier_margin = 2.0
models_kept = 500
"""
VITALS = (
    ("heart-rate", "/min", 96.0),
    ("spo2", "%", 93.0),
    ("respiratory-rate", "/min", 24.0),
    ("body-temperature", "Cel", 38.4),
)


class Story:
    """One person's browser, and the pictures of all."""

    shots = 0

    def __init__(self, browser, site, name):  # noqa: F811 - not the fixture
        self.site, self.name = site, name
        self.context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
        self.context.set_default_timeout(WAIT_MS)
        self.page, self.problems = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda r: None if r.url.startswith(site.address) else self.problems.append(f"asked {r.url}"))
        self.go("/login")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(site.passwords[name])
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.locator("#answer h1")).to_be_visible()

    def go(self, path):
        self.page.goto(self.site.address + path)

    def press(self, name, within=None):
        self.aim((within or self.page).get_by_role("button", name=name, exact=True))

    def aim(self, button):
        """Press it, and again where the page says that its rows moved just then: it acts at the pace of people."""
        for _ in range(PRESSES_MAX):
            self.page.evaluate("(document.getElementById('toast') || {}).textContent = ''")
            button.click()
            try:
                said = self.page.evaluate("(document.getElementById('toast') || {}).textContent || ''")
            except PlaywrightError:  # the press led to another page
                return
            if "press again" not in said:
                return
        raise AssertionError(f"the rows never stand still: {said}")

    @property
    def dialog(self):
        return self.page.get_by_role("dialog")

    def shoot(self, name):
        """A numbered picture, of a page that axe has nothing serious to say about."""
        Story.shots += 1
        folder = ARTIFACTS / "story"
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{Story.shots:02d}-{name}.png")
        assert serious(self.page) == [], name
        assert self.problems == []


def api(site, command, person, scope, method, path):
    """The status of one call with a token of this person's."""
    made = command("token", "new", f"of-{person}", "--person", person, "--scope", scope, "--json", "--home", str(site.home))
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)["token"]
    return httpx.request(method, site.address + path, headers={"Authorization": f"Bearer {token}"}, timeout=120).status_code


@pytest.fixture
def site(site):
    """A hub with four edges, each with rows to train on; two subjects held back, who are in the lake; one person of each role."""
    hold_back(site, {"h-1": EDGES[0], "h-2": EDGES[1]})
    site.passwords = {name: site.sign_in(name, role) for name, role in PEOPLE.items()}
    site.start_hub()
    site.address = f"http://127.0.0.1:{site.ports['console']}"
    for i, name in enumerate(EDGES):
        program = site.edge(name)
        site.keep(name, recording(f"p-{i}", name, i))
        if i == 0:
            site.secret, site.subject = site.device(name, "bed-3", Consent.RAW)
            found_worse(site.folder / name, name, site.subject)
        program.start()
        program.wait_ready(600)
    return site


def found_worse(home, edge, subject):
    """The edge's own watch has found the patient worse, and lets the hub say that somebody is on it."""
    toml = home / "edge.toml"
    toml.write_text(f"{toml.read_text()}[bedside]\nacknowledge_from_hub = true\n")
    (home / FOLDER).mkdir()
    ledger, book, now_us = BedsideLedger(FolderStorage(home / FOLDER)), AlertBook(prefix="B"), time.time_ns() // 1_000
    facts = {"title": "NEWS2 7 or more lasts", "priority": "high", "category": "physiological", "edge": edge}
    book.raise_(Finding(kind="news2", subject=subject, since_us=now_us, detected_us=now_us, **facts), now_us)
    ledger.keep(book, {})
    ledger.close()


@pytest.mark.usefixtures("browser")
def test_the_whole_story(browser, site, command):  # noqa: F811 - the fixtures
    expect.set_options(timeout=WAIT_MS)
    olga = Story(browser, site, "olga")
    an_operator_makes_a_second_factor(olga)
    an_edge_is_invited_and_joins(olga, command)
    cleo = Story(browser, site, "cleo")
    a_clinician_sees_vital_signs(cleo)
    a_clinician_is_on_an_alert_of_the_edge(cleo)
    a_study_is_started(olga)
    a_liar_is_set_aside_and_counts_again(olga)
    the_study_goes_back_a_model(olga)
    an_edge_is_drained_and_used_again(olga)
    the_shift_is_handed_over(olga)
    whoever_may_not_is_refused(Story(browser, site, "vi"), olga, command)
    dora = Story(browser, site, "dora")
    a_model_is_taken_away(dora)
    the_record_is_taken_away(dora)
    the_patient_is_erased(dora, cleo)
    the_audit_log_has_it_all(dora)
    expect.set_options(timeout=15_000)


def an_operator_makes_a_second_factor(olga):
    def code(later=0):
        store = olga.site.store()
        factor = store.second_factor("olga")
        store.close()
        return totp.code_at(factor.secret, totp.step_of(time.time_ns() // 1_000) + later)

    page = olga.page
    olga.shoot("overview")
    olga.go("/account")
    expect(page.get_by_role("img", name="QR code of the secret")).to_be_visible()
    page.get_by_label("The code it shows now").fill(code())
    olga.press("Turn it on")
    expect(page.get_by_role("listitem")).to_have_count(totp.RECOVERY_CODES)
    olga.context.clear_cookies()
    olga.go("/login")
    page.get_by_label("Name").fill("olga")
    page.get_by_label("Password").fill(olga.site.passwords["olga"])
    olga.press("Sign in")
    page.get_by_label("Code from your app").fill(code(later=1))  # each is taken once
    olga.shoot("second-factor")
    olga.press("Sign in")
    expect(page.locator("#answer h1")).to_be_visible()


def an_edge_is_invited_and_joins(olga, command):
    page, site, home = olga.page, olga.site, olga.site.folder / NEW
    page.get_by_role("link", name="Fleet", exact=True).click()
    expect(page.locator("#answer h1")).to_contain_text("4 of 4 edges are connected.")
    olga.press("Invite an edge")
    olga.dialog.get_by_label("Name of the edge").fill(NEW)
    olga.press("Make the token", olga.dialog)
    token = olga.dialog.locator("pre").nth(1).inner_text()
    joined = command("edge", "join", "-", "--mqtt-port", str(free_port()), "--home", str(home), stdin=token)
    assert joined.returncode == 0, joined.stderr
    expect(olga.dialog.locator("#invite-steps li.done")).to_have_count(2)
    olga.shoot("invited")
    site.keep(NEW, recording("p-new", NEW, 9))
    program = site._program(NEW, ["wardround.demo.edge_process", str(home)], home)
    program.start()
    expect(olga.dialog.locator("#invite-steps li.done")).to_have_count(3)  # while the dialog is open
    olga.press("Done", olga.dialog)
    expect(page.locator("#answer h1")).to_contain_text("5 of 5 edges are connected.")
    olga.shoot("joined")


def a_clinician_sees_vital_signs(cleo):
    """A device of an edge measures; over MQTT, spool, hub and jobs it comes to the screen."""
    site, page = cleo.site, cleo.page
    seen: list[int] = []
    link = DeviceLink(
        "bed-3", site.secret, boot="b", host="127.0.0.1", port=site.mqtt_port(EDGES[0]),
        authority=site.folder / EDGES[0] / "identity" / "ca.pem", on_receipted=seen.extend,
    )  # fmt: skip
    now_us = time.time_ns() // 1_000
    readings = [
        Reading(name=name, unit=unit, t_us=now_us - (60 - k) * 30_000_000, value=value + k % 3)
        for k in range(60)
        for name, unit, value in VITALS
    ]
    t = np.arange(2_500) / 250
    beats = np.round(1_000 * np.exp(-(((t % 0.66) - 0.2) ** 2) / 0.0004)).astype("<i2")
    readings.append(
        Reading(
            name="ecg-ii", unit="mV", t_us=now_us - 12_000_000, n=len(t), period_us=4_000.0, values=beats.tobytes(), scale=0.001
        )
    )
    for start in range(0, len(readings), 40):
        link.publish(encode_pack(readings[start : start + 40], base_name="urn:dev:wr:bed-3:", form="cbor"), timeout_s=120)
    link.drain(300)
    link.close()
    page.get_by_role("link", name="Ward", exact=True).click()
    row = page.locator("#ward-list li", has_text=site.subject[:9])
    news = page.locator("#ward-list a", has_text="stand elsewhere by now")  # an open page keeps its rows until one asks
    expect(row.or_(news).first).to_be_visible()
    if not row.count():
        news.click()
    expect(row).to_have_count(1)
    row.get_by_role("link").first.click()
    expect(page.locator(".vt", has_text="Heart rate")).to_contain_text("9")
    expect(page.locator(".vt", has_text="Respiratory rate")).to_be_visible()
    expect(page.get_by_role("img", name="ECG lead II (MLII), 8 seconds")).to_be_visible()
    cleo.shoot("vital-signs")


def a_clinician_is_on_an_alert_of_the_edge(cleo):
    """It comes by heartbeat, as consent lets it; that somebody is on it goes back the same way, and is said by the next ones."""
    site, page = cleo.site, cleo.page
    page.get_by_role("link", name="Bedside", exact=True).click()
    row = page.locator("#open tr", has_text="B-0001")
    expect(row).to_contain_text(site.subject)
    expect(row).to_contain_text("lasts")  # which score: the watch goes on
    cleo.shoot("bedside")
    cleo.aim(row.get_by_role("button", name="I am on it"))
    expect(row).to_contain_text("cleo at the hub is on it")
    cleo.shoot("on-it")


def a_study_is_started(olga):
    page = olga.page
    page.get_by_role("link", name="Studies", exact=True).click()
    page.get_by_role("link", name="New study").click()
    page.get_by_label("What an example is").select_option("activity")
    page.get_by_label("Name: a-z").fill("moves")
    olga.press("Write it")
    field = page.locator("main textarea")
    text = field.input_value()
    field.fill(text.replace("count = 20", "count = 0"))
    olga.press("Check it")
    expect(page.locator("#said")).to_contain_text("rounds.count")
    olga.shoot("study-wrong")
    for old, new in CHANGES.items():
        assert old in text, old
        text = text.replace(old, new)
    field.fill(text + RELEASE)
    olga.press("Check it")
    expect(olga.dialog).to_contain_text("5 are joined now")
    olga.shoot("study-asked")
    olga.press("Start moves", olga.dialog)
    page.wait_for_url("**/studies/moves")
    expect(page.locator("#part tbody tr")).to_have_count(5)
    expect(page.locator("#answer h1")).to_contain_text("moves scores accuracy")
    olga.shoot("study-running")


def a_liar_is_set_aside_and_counts_again(olga):
    page, lie = olga.page, olga.site.folder / NEW / "poison"
    lie.write_text("8")
    olga.go("/alerts")
    row = page.locator("#inbox li", has_text=NEW).first
    news = page.get_by_role("button", name="new, show")  # an open page keeps its rows until one asks: others may be there before
    for _ in range(20):
        expect(row.or_(news).first).to_be_visible()
        if row.count():
            break
        news.click()
    row.get_by_role("link").first.click()
    expect(page.locator("#detail")).to_contain_text("quarantined")
    olga.shoot("alert")
    olga.go("/studies/moves")
    liar = page.locator("#part tbody tr", has_text=NEW)
    expect(liar).to_contain_text("set aside")
    olga.shoot("set-aside")
    lie.unlink()  # it is repaired
    page.go_back()
    olga.aim(page.locator("#detail").get_by_role("button", name="Undo"))
    expect(olga.dialog).to_contain_text(f"Let {NEW} count again")
    olga.shoot("undo")
    olga.dialog.get_by_label("Reason").fill("its software was repaired")
    olga.press(f"Let {NEW} count again", olga.dialog)
    expect(page.locator("#toast")).to_contain_text("Undone")
    olga.go("/studies/moves")
    expect(liar.get_by_role("button", name="Set aside")).to_be_visible()
    olga.shoot("counts-again")


def the_study_goes_back_a_model(olga):
    page = olga.page
    expect(page.locator("#models")).to_contain_text("retired")
    olga.press("Pause")
    olga.dialog.get_by_label("Reason").fill("before going back")
    olga.press("Pause the study", olga.dialog)
    expect(page.locator("#answer .sub")).to_contain_text("paused")
    olga.press("Roll back")
    expect(olga.dialog).to_contain_text("Take moves back to the model of round")
    olga.shoot("roll-back")
    olga.dialog.get_by_label("Reason").fill("the liar was in it")
    olga.press(olga.dialog.get_by_role("button", name="Go back to round").inner_text(), olga.dialog)
    expect(page.locator("#models")).to_contain_text("rolled back")
    olga.shoot("rolled-back")


def an_edge_is_drained_and_used_again(olga):
    page = olga.page
    olga.go("/fleet")
    row = page.locator("#edges tr", has_text=EDGES[3])
    olga.aim(row.get_by_role("button", name="Drain"))
    expect(olga.dialog).to_contain_text("It gets no new work.")
    olga.press(f"Drain {EDGES[3]}", olga.dialog)
    expect(row.get_by_role("button", name="Use again")).to_be_visible()
    olga.shoot("drained")
    olga.aim(row.get_by_role("button", name="Use again"))
    expect(row.get_by_role("button", name="Drain")).to_be_visible()


def the_shift_is_handed_over(olga):
    page = olga.page
    page.get_by_role("link", name="Hand-over").click()
    expect(page.locator("#edges")).to_contain_text("moves is paused")
    expect(page.locator("#edges")).to_contain_text("the liar was in it")
    olga.press("Write the note")
    olga.dialog.get_by_label("The note").fill(f"{NEW} was repaired. moves stays paused until Ines has looked.")
    olga.press("Leave the note", olga.dialog)
    expect(page.locator("#note")).to_contain_text("until Ines has looked")
    olga.shoot("handed-over")


def whoever_may_not_is_refused(vi, olga, command):
    site = vi.site
    for one, path, words in (
        (vi, "/ward", "Patients are seen by clinicians."),
        (olga, f"/ward/{EDGES[0]}/{site.subject}", "Patients are seen by clinicians."),
        (vi, "/governance", "Governance is the data officer's."),
        (vi, "/new-study", "A study is started by an operator."),
        (vi, "/settings", "What the hub runs with is for operators."),
        (vi, "/hand-over", "The hand-over is for who is on call"),
        (olga, "/records", "Taking away a patient's record is for data officers."),
    ):
        one.go(path)
        expect(one.page.locator("#answer h1")).to_contain_text(words)
        assert site.subject not in one.page.content().replace(path, "")
    vi.shoot("refused")
    for path in ("/governance/audit.log", "/studies/moves/models/1.zip", f"/records/{site.subject}/everything.json"):
        assert vi.page.request.get(site.address + path).status == 403
    vi.go("/fleet")
    expect(vi.page.get_by_role("button", name="Invite an edge")).to_be_disabled()
    assert api(site, command, "olga", "read", "GET", "/api/v1/edges") == 200
    assert api(site, command, "olga", "read", "GET", "/fhir/Patient") == 403
    assert api(site, command, "olga", "read", "POST", f"/api/v1/edges/{NEW}/revocation") == 403


def a_model_is_taken_away(dora):
    page = dora.page
    dora.go("/studies/moves")
    with page.expect_download() as given:
        page.locator("#models").get_by_role("link", name="Export round").click()
    with zipfile.ZipFile(io.BytesIO(given.value.path().read_bytes())) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        card = next(archive.read(name) for name in archive.namelist() if name.endswith("card.md"))
    assert names == {"model.safetensors", "card.json", "card.md", "manifest.json", "predict.py"}
    assert b"no medical device" in card
    dora.shoot("exported")


def the_record_is_taken_away(dora):
    page, subject = dora.page, dora.site.subject
    dora.go("/governance")
    page.get_by_role("link", name="Take a record away").click()
    page.get_by_label("Pseudonym begins with").fill(subject)
    dora.press("Show")
    dora.shoot("records")
    with page.expect_download() as given:
        page.locator("#records tr", has_text=subject).get_by_role("link", name="Take away").click()
    bundle = json.loads(given.value.path().read_bytes())
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert kinds[:2] == ["Patient", "Device"]
    assert kinds.count("Observation") > len(VITALS)  # each has many samples
    assert "8867-4" in json.dumps(bundle)


def the_patient_is_erased(dora, cleo):
    page, subject = dora.page, dora.site.subject
    dora.go(f"/governance?find={subject}")
    dora.aim(page.locator("#register").get_by_role("button", name="Erase"))
    dora.dialog.get_by_label("Reason").fill("the patient asked")
    dora.dialog.get_by_label(f"Type {subject} to go on").fill(subject)
    dora.shoot("erase")
    dora.press("Erase the subject", dora.dialog)
    page.wait_for_url("**/governance/erasures/1")
    expect(page.locator("#erasure")).to_contain_text("6 of 6 places")
    dora.shoot("erased")
    with page.expect_download() as given:
        page.get_by_role("link", name="Receipt").click()
    assert "the patient asked" in given.value.path().read_text()
    cleo.go("/ward")
    expect(cleo.page.locator("#ward-list li", has_text=subject[:9])).to_have_count(0)
    cleo.shoot("ward-after")


def the_audit_log_has_it_all(dora):
    page = dora.page
    dora.go("/governance")
    expect(page.locator("#audit")).to_contain_text("whole")
    with page.expect_download() as given:
        page.locator("#audit").get_by_role("link", name="Download").click()
    log = given.value.path().read_text()
    for what in (
        "edge invited",
        "a patient's record opened at the console",
        "study started at the console",
        "response undone",
        "study: rollback",
        "alert at an edge acknowledged",
        "edge drained",
        "hand-over written",
        "model taken away at the console",
        "a patient's record taken away at the console",
        "erasure asked for at the console",
    ):
        assert what in log, what
    assert dora.site.subject not in log
    dora.shoot("audit")
