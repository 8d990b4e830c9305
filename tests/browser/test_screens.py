"""Ward, Fleet, Processing and Governance in a real browser, and axe over every page in both themes: one hub over a real lake."""

from __future__ import annotations

import json
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from tests.browser.test_overview import ARTIFACTS, STUDY, browser, furnish  # noqa: F401 - a fixture
from tests.browser.test_overview import pytestmark as marks

import ward_under_test as rows
from programs_under_test import Site
from wardround.collect.storage import FolderStorage
from wardround.learn.journal import Journal
from wardround.process.catalogue import JOBS
from wardround.process.lake import Lake
from wardround.store import ModelRecord, RoundRecord, StudyRecord
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import ErasureBook
from wardround.trust.join import parse

PAGES = (
    "/",
    "/alerts",
    "/bedside",
    "/ward",
    f"/ward/icu-a/{rows.WORSE}",
    "/fleet",
    "/fleet/icu-a",
    "/processing",
    "/studies",
    "/studies/ventricular-beats",
    "/studies/falls",
    "/new-study?task=activity",
    "/governance",
    "/completeness",
    "/automation",
    "/settings?show=all",
    "/records",
    "/hand-over",
    "/hand-over?part=technical&hours=24",
    "/hand-over/print?part=technical",
    "/account",
)
PEOPLE = {"ada": "admin", "olga": "operator", "cleo": "clinician", "dora": "data-officer", "vi": "viewer"}
SERIOUS = ("serious", "critical")
WAIT_MS = 60_000  # a busy machine draws slowly
pytestmark = [*marks, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with a ward, two faults, and somebody of each role."""
    site = Site(tmp_path_factory.mktemp("screens"))
    furnish(site)
    who = rows.fill(Lake(site.home / "lake"), time.time_ns() // 1_000, year=True)
    consents = ConsentRegister(site.home / "consent.sqlite")
    rows.allow(consents, who, edges=("icu-a", "icu-b"))
    consents.close()
    settings = site.home / "hub.toml"
    off = json.dumps([name for name in JOBS if not name.startswith("examples-")])  # what `fill` made stays as it is
    text = settings.read_text().replace("[processing]\n", f"[processing]\njobs_off = {off}\n")
    settings.write_text(f"simulated = true\n{text}")
    past(site)
    site.passwords = {name: site.sign_in(name, role) for name, role in PEOPLE.items()}
    site.who = who
    site.start_hub()
    site.address = f"http://127.0.0.1:{site.ports['console']}"
    yield site
    site.stop()


def past(site):
    """A study that has ended: its rounds, models, and an edge that was set aside."""
    store, now_us = site.store(), time.time_ns() // 1_000
    store.put_study(StudyRecord("falls", STUDY.replace("ventricular-beats", "falls", 1), "failed", "ended", now_us, now_us))
    edges = ("icu-a", "icu-b", "cardio-1", "cardio-2")
    models = []
    for n in range(1, 25):
        value = 0.9 - 0.3 / n
        by_edge = {e: value + 0.04 - 0.05 * i - 0.01 * (n % 3) for i, e in enumerate(edges)}
        worst = {"worst_edge": "cardio-2", "worst": by_edge["cardio-2"], "examples": 900, "by_edge": by_edge}
        score = {"metric": "average-precision", "value": value, **worst}
        aside = ["cardio-1"] if n > 20 else []
        facts = {"folded": {e: 60 for e in edges if e not in aside}, "aside": aside, "score": score}
        store.put_round(RoundRecord("falls", n, now_us, 1.0, f"{n:064x}", facts))
        stage = {20: "retired", 24: "current"}.get(n, "candidate")
        kept = {"score": score, "lineage": {"updates": facts["folded"]}}
        models.append(ModelRecord("falls", n, f"{n:064x}", f"{n - 1:064x}", stage, n, now_us, now_us, kept))
    store.put_models(models)
    store.close()
    folder = site.home / "studies" / "falls"
    folder.mkdir(parents=True)
    journal = Journal(FolderStorage(folder).connect)
    journal.quarantine("cardio-1", 40, "own-history score 9.4, threshold 6.0")
    journal.close()


@pytest.fixture
def page(browser, hub):  # noqa: F811 - a fixture
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    yield opened
    expect.set_options(timeout=15_000)
    context.close()


def enter(page, hub, name):
    page.goto(hub.address + "/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(hub.passwords[name])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#answer h1")).to_be_visible()


def serious(page) -> list[str]:
    """What axe finds that is serious, with where."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{v['id']}: {node['html'][:160]}" for v in found if v["impact"] in SERIOUS for node in v["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_issue_on_any_page(page, hub, theme):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.goto(hub.address + "/login")
    wrong = {"/login": serious(page)}
    enter(page, hub, "ada")
    for path in PAGES:
        page.goto(hub.address + path)
        expect(page.locator("h1").first).not_to_contain_text("One moment")
        if path != "/account":
            expect(page.locator(".skeleton")).to_have_count(0)
        wrong[path] = serious(page)
    page.goto(hub.address)
    page.keyboard.press("?")
    wrong["the keys"] = serious(page)
    assert {path: found for path, found in wrong.items() if found} == {}


def test_a_clinician_sees_who_needs_somebody_and_opens_the_record(page, hub):
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
    expect(page.get_by_role("img", name="ECG lead II (MLII), 8 seconds")).to_be_visible()
    shoot(page, "ward")
    assert page.evaluate("document.querySelectorAll('*').length") < 1_500
    page.get_by_role("link", name="1 year").click()
    expect(page.locator(".trends figure")).to_have_count(5)
    page.screenshot(path=ARTIFACTS / "ward-year.png", full_page=True)
    with page.expect_download() as given:
        page.get_by_role("link", name="CSV").first.click()
    assert given.value.path().read_text().startswith("time_utc,mean_/min,low,high")
    page.go_back()
    expect(page.locator(".seg [aria-current]")).to_have_text("12 h")
    page.goto(hub.address + f"/ward/icu-a/{rows.WORSE}?span=4h&at={time.time_ns() // 1_000 - 8 * rows.HOUR_US}")
    expect(page.get_by_role("link", name="Show now")).to_be_visible()
    assert page.problems == []
    audit = hub.home / "audit"
    found = b"".join(p.read_bytes() for p in audit.rglob("*") if p.is_file())
    assert b"a patient's record opened at the console" in found
    assert rows.WORSE.encode() not in found


def test_an_operator_sees_no_patient_in_page_or_file(page, hub):
    enter(page, hub, "olga")
    place = f"/ward/icu-a/{rows.WORSE}"
    for path in ("/ward", place, "/ward?find=q7k4"):
        page.goto(hub.address + path)
        expect(page.locator("#answer h1")).to_have_text("Patients are seen by clinicians.")
        assert "q7k4" not in page.locator("#main").inner_html()
    answer = page.request.get(hub.address + place + "/trend.csv?code=loinc:8867-4")
    assert answer.status == 403
    assert page.problems == []


def test_processing_shows_the_way_and_an_operator_asks_for_a_job(page, hub):
    enter(page, hub, "vi")
    page.goto(hub.address + "/processing")
    expect(page.locator("#flow")).to_contain_text("bronze_observations")
    expect(page.locator("#jobs tr", has_text="Hourly and daily trends").get_by_role("button")).to_be_disabled()
    page.context.clear_cookies()
    enter(page, hub, "olga")
    page.goto(hub.address + "/processing")
    row = page.locator("#jobs tr", has_text="Hourly and daily trends")
    row.get_by_role("button", name="Run").click()
    expect(page.locator("#toast")).to_contain_text("trends runs next.")
    expect(row).to_contain_text("done")
    shoot(page, "processing")
    assert page.problems == []


def test_an_operator_invites_an_edge_and_revokes_another(page, hub):
    enter(page, hub, "vi")
    page.goto(hub.address + "/fleet")
    expect(page.get_by_role("button", name="Invite an edge")).to_be_disabled()
    acts = page.locator("#edges tr", has_text="cardio-2").get_by_role("button")
    expect(acts).to_have_count(2)
    for act in acts.all():
        expect(act).to_be_disabled()
    page.context.clear_cookies()
    enter(page, hub, "olga")
    page.get_by_role("link", name="Fleet", exact=True).click()
    expect(page).to_have_title("Fleet - Wardround")
    page.get_by_role("button", name="Invite an edge").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name of the edge").fill("icu-z")
    dialog.get_by_role("button", name="Make the token").click()
    expect(dialog.locator("pre").first).to_have_text("wardround edge join -")
    token = dialog.locator("pre").nth(1).inner_text()
    store = hub.store()
    store.burn(parse(token).token_id, b"k" * 32)  # as the enrolment listener does for the edge
    store.close()
    expect(dialog.locator("#invite-steps li.done")).to_have_count(2)  # while it is open
    page.screenshot(path=ARTIFACTS / "fleet-invite.png")
    dialog.get_by_role("button", name="Done").click()
    expect(page.locator("#invites")).to_contain_text("icu-z")
    expect(page.locator("#ask")).to_be_empty()  # the browser tells of a dialog's end a moment after it
    assert token not in page.content()
    row = page.locator("#edges tr", has_text="cardio-2")
    row.get_by_role("button", name="Revoke").click()
    expect(dialog).to_contain_text("Its open connections end within two seconds")
    dialog.get_by_role("button", name="Revoke cardio-2").click()
    expect(dialog).to_be_visible()  # the name is not typed yet
    page.screenshot(path=ARTIFACTS / "fleet-revoke.png")
    dialog.get_by_label("Type cardio-2 to go on").fill("cardio-2")
    dialog.get_by_role("button", name="Revoke cardio-2").click()
    expect(row).to_have_count(0)
    shoot(page, "fleet")
    assert page.problems == []
    store = hub.store()
    assert [e.name for e in store.edges() if e.revoked_us] == ["cardio-2"]
    store.close()


def test_an_operator_drains_an_edge_and_uses_it_again(page, hub):
    enter(page, hub, "olga")
    page.goto(hub.address + "/fleet")
    row = page.locator("#edges tr", has_text="cardio-1")
    row.get_by_role("button", name="Drain").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This screen says when it is safe to switch it off; its silence is no alert then.")
    dialog.get_by_role("button", name="Go on using it").click()
    expect(row.get_by_role("button", name="Drain")).to_be_visible()
    row.get_by_role("button", name="Drain").click()
    page.screenshot(path=ARTIFACTS / "fleet-drain.png")
    dialog.get_by_role("button", name="Drain cardio-1").click()
    row.get_by_role("button", name="Use again").click()
    expect(row.get_by_role("button", name="Drain")).to_be_visible()
    assert page.problems == []


def test_a_record_is_taken_away_by_a_data_officer_alone(page, hub):
    address = f"/records/{rows.WORSE}/everything.json"
    for name in ("cleo", "olga", "vi"):
        enter(page, hub, name)
        page.goto(hub.address + "/records")
        expect(page.locator("#answer h1")).to_contain_text("Taking away a patient's record is for data officers.")
        assert "q7k4" not in page.locator("#main").inner_html()
        assert page.request.get(hub.address + address).status == 403
        page.context.clear_cookies()
    enter(page, hub, "dora")
    page.goto(hub.address + "/records")
    expect(page.locator("#answer h1")).to_contain_text("can be taken away")
    shoot(page, "records")
    page.get_by_label("Pseudonym begins with").fill(rows.WORSE)
    page.get_by_role("button", name="Show", exact=True).click()
    with page.expect_download() as given:
        page.get_by_role("link", name="Take away").click()
    bundle = json.loads(given.value.path().read_bytes())
    assert {entry["resource"]["resourceType"] for entry in bundle["entry"]} == {"Patient", "Device", "Observation"}
    assert page.request.get(hub.address + "/records/nobody/everything.json").status == 404
    assert page.problems == []


def test_settings_say_what_runs_and_that_the_file_has_changed(page, hub):
    enter(page, hub, "olga")
    page.get_by_role("link", name="Settings", exact=True).click()
    expect(page.locator("#answer h1")).to_contain_text("The hub runs with what hub.toml says")
    settings = hub.home / "hub.toml"
    before = settings.read_text()
    settings.write_text(before.replace('site = "Test"', 'site = "Northmoor"'))
    try:
        expect(page.locator("#answer h1")).to_contain_text("hub.toml has changed since the start: site.")
        shoot(page, "settings")
    finally:
        settings.write_text(before)
    assert page.problems == []


def test_a_data_officer_erases_a_subject_and_reads_the_audit_log(page, hub):
    subject = hub.who[-1]
    enter(page, hub, "dora")
    page.goto(hub.address + f"/governance?find={subject}")
    expect(page.locator("#register tbody tr")).to_have_count(1)
    expect(page.locator("#audit")).to_contain_text("whole")
    page.get_by_role("button", name="Erase").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Erase {subject} at this hub and at every edge?")
    dialog.get_by_label("Reason").fill("the subject asked")
    dialog.get_by_role("button", name="Erase the subject").click()
    expect(dialog).to_be_visible()  # the name is not typed yet
    dialog.get_by_label(f"Type {subject} to go on").fill(subject)
    dialog.get_by_role("button", name="Erase the subject").click()
    page.wait_for_url("**/governance/erasures/1")
    expect(page.locator("#erasure")).to_contain_text("hub: lake, inbox and records")
    expect(page.locator("#erasure")).to_contain_text("nothing left")
    expect(page.locator("#erasure")).to_contain_text("is away; erases before anything else when it is back")
    expect(page.locator("#audit")).to_contain_text("erasure asked for at the console")
    shoot(page, "governance")
    with page.expect_download() as given:
        page.get_by_role("link", name="Receipt").click()
    assert "the subject asked" in given.value.path().read_text()
    assert subject not in given.value.path().read_text()
    assert page.problems == []
    book = ErasureBook(hub.home / "erasures.sqlite")
    assert [e.who for e in book.all()] == ["dora"]
    book.close()


def test_a_shift_is_handed_over_and_the_next_one_confirms(page, hub):
    enter(page, hub, "olga")
    page.get_by_role("link", name="Hand-over").click()
    expect(page.locator("#answer h1")).to_contain_text("In 12 hours")
    expect(page.locator("#alerts")).to_contain_text("cardio-1 sends updates far from its own history")
    expect(page.locator("#edges")).to_contain_text("falls is failed: ended")
    assert "q7k4" not in page.locator("#main").inner_html()
    page.get_by_role("button", name="Write the note").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog).to_be_visible()  # without words it is none
    dialog.get_by_label("The note").fill("patch-1 waits for a new cable.\nInes knows.")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(page.locator("#note")).to_contain_text("patch-1 waits for a new cable.")
    expect(page.get_by_role("button", name="I have read it and take over")).to_have_count(0)
    shoot(page, "hand-over")
    page.get_by_role("link", name="Print view").click()
    expect(page.get_by_role("button", name="Print", exact=True)).to_be_visible()
    page.emulate_media(media="print")
    expect(page.get_by_role("button", name="Print", exact=True)).to_be_hidden()
    expect(page.locator("#note")).to_be_visible()
    page.screenshot(path=ARTIFACTS / "hand-over-printed.png", full_page=True)
    page.emulate_media(media="screen")
    page.context.clear_cookies()
    enter(page, hub, "ada")
    page.goto(hub.address + "/hand-over?part=technical")
    page.get_by_role("button", name="I have read it and take over").click()
    expect(page.locator("#note")).to_contain_text("confirmed by ada")
    page.context.clear_cookies()
    enter(page, hub, "cleo")
    page.goto(hub.address + "/hand-over?part=technical")
    expect(page.locator("#answer h1")).to_contain_text("rising NEWS2")
    assert "patch-1 waits" not in page.locator("#main").inner_html()
    shoot(page, "hand-over-clinical")
    page.goto(hub.address + "/bedside")
    shoot(page, "bedside")
    assert page.problems == []


@pytest.mark.parametrize("name", ["olga", "cleo", "vi"])
def test_nobody_else_reads_governance(page, hub, name):
    enter(page, hub, name)
    page.goto(hub.address + "/governance")
    expect(page.locator("#answer h1")).to_contain_text("Governance is the data officer's.")
    assert rows.WORSE not in page.locator("#main").inner_html()
    for path in ("/governance/audit.log", "/governance/erasures/1/receipt.json"):
        assert page.request.get(hub.address + path).status == 403


def test_an_operator_looks_at_a_study_and_pauses_one_and_a_viewer_cannot(page, hub):
    enter(page, hub, "olga")
    page.goto(hub.address + "/studies")
    page.get_by_role("link", name="falls", exact=True).click()
    expect(page.locator("#answer h1")).to_contain_text("falls scores AUPRC 0.888; cardio-2 is the worst with")
    expect(page.get_by_role("img", name="AUPRC by round")).to_be_visible()
    expect(page.locator("#part tbody tr").first).to_contain_text("20 accepted, 4 set aside")
    shoot(page, "studies")
    assert page.evaluate("document.querySelectorAll('*').length") < 1_500
    page.goto(hub.address + "/studies/ventricular-beats")
    page.locator("#answer").get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("the one in progress comes to its end")
    dialog.get_by_label("Reason").fill("maintenance")
    dialog.get_by_role("button", name="Pause the study").click()
    expect(page.locator("#answer .sub")).to_contain_text("paused, by olga")
    page.locator("#toast").get_by_role("button", name="Undo").click()
    expect(page.locator("#answer .sub")).to_contain_text("running")
    page.context.clear_cookies()
    enter(page, hub, "vi")
    page.goto(hub.address + "/studies/ventricular-beats")
    expect(page.locator("#answer").get_by_role("button", name="Pause")).to_be_disabled()
    assert page.problems == []


def shoot(page, name):
    ARTIFACTS.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width, height in ((1440, 900), (1024, 768)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=ARTIFACTS / f"{name}-{theme}-{width}.png", full_page=True)
