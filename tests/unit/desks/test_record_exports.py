"""A patient's record taken away over a real lake: whole and valid FHIR, by consent and role, in the audit log and the book."""

from __future__ import annotations

import json
import re
import warnings

import pytest

from wardround.clock import ManualClock
from wardround.console.looking import Held, Looking
from wardround.console.record_exports import RecordExportPages, RecordsPage, sections
from wardround.desks.patients import PatientRecords
from wardround.desks.record_exports import PAGE, HubRecordExports
from wardround.errors import NotAllowed, StorageFull, WardroundError
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent, Observation
from wardround.trust.audit import subject_ref
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import digest_of
from wardround.trust.exports import ExportBook
from wardround.trust.roles import check_act

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fhir.resources.R4B.bundle import Bundle

HEART, TEMPERATURE = "loinc:8867-4", "loinc:8310-5"
T_US, MINUTE_US = 1_772_352_000_000_000, 60_000_000
ANNA, BERT = "aaaa-aaaa", "bbbb-bbbb"
ROLES = {"dora": "data-officer", "ada": "admin", "cleo": "clinician", "olga": "operator", "vi": "viewer"}
ROWS = PAGE + 3


class World:
    def __init__(self, folder) -> None:
        facts = {"device": "patch-1", "edge": "icu-a", "device_boot": "b", "t0_device_us": 0, "consent_version": 1}
        found = [
            Observation(subject=ANNA, code=HEART, unit="/min", t0_us=T_US + n * MINUTE_US, value=60.0 + n % 40, **facts)
            for n in range(ROWS)
        ]
        found.append(Observation(subject=ANNA, code=TEMPERATURE, unit="Cel", t0_us=T_US, value=37.0, **facts))
        found.append(Observation(subject=BERT, code=HEART, unit="/min", t0_us=T_US, value=99.0, **facts))
        lake = Lake(folder / "lake")
        lake.append(BRONZE, observation_rows([(o, "b", i, T_US) for i, o in enumerate(found)]), app="test", version=1)
        self.clock, self.log, self.full = ManualClock(T_US), [], False
        self.consents, self.book = ConsentRegister(folder / "consent.sqlite"), ExportBook(folder / "exports.sqlite")
        self.consents.set(ANNA, "*", Consent.RAW)
        self.consents.set(ANNA, TEMPERATURE, Consent.NONE)
        self.consents.set(BERT, "*", Consent.LOCAL)
        edge_of = {ANNA: "icu-a", BERT: "icu-a"}
        records = PatientRecords(lake, self.consents, self.clock, subjects=edge_of.keys, record=self.record)
        self.desk = HubRecordExports(
            records,
            self.book,
            self.clock,
            edge_of=edge_of,
            check=lambda who, act: check_act(who, ROLES[who], act),
            record=self.record,
        )

    def record(self, kind, what, who, **facts):
        if self.full:
            raise StorageFull("no room", remedy="make some")
        self.log.append((kind, what, who, facts))

    def close(self):
        self.consents.close()
        self.book.close()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def test_everything_that_may_be_shown_is_in_one_valid_bundle(world):
    parts = world.desk.everything("dora", ANNA, "https://hub.example/fhir")
    assert world.log[-1] == (
        "export", "a patient's record taken away at the console", "dora", {"subject": subject_ref(ANNA), "number": 1}
    )  # fmt: skip
    data = b"".join(parts)
    bundle = Bundle.model_validate(json.loads(data)).model_dump(mode="json")
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert kinds == ["Patient", "Device", *["Observation"] * ROWS]
    assert bundle["type"] == "collection"
    assert len({entry["fullUrl"] for entry in bundle["entry"]}) == len(kinds)
    assert bundle["entry"][0]["fullUrl"] == f"https://hub.example/fhir/Patient/{ANNA}"
    assert b"8310-5" not in data  # a signal that consent keeps back
    assert world.log[-1] == ("export", "a patient's record given whole", "dora", {"number": 1, "resources": ROWS + 2})
    (book,) = world.book.of(digest_of(ANNA))
    assert (book.number, book.who, book.format, book.subjects) == (1, "dora", "fhir-r4", 1)


@pytest.mark.parametrize("name", ["cleo", "olga", "vi"])
def test_nobody_takes_a_record_whose_role_does_not_cover_it(world, name):
    with pytest.raises(NotAllowed):
        world.desk.everything(name, ANNA, "x")
    with pytest.raises(NotAllowed):
        world.desk.listed(name)
    assert world.book.all() == []


@pytest.mark.parametrize("subject", [BERT, "cccc-cccc", "../x", ""])
def test_of_whom_nothing_may_be_shown_nothing_is_given(world, subject):
    assert world.desk.everything("ada", subject, "x") is None
    assert (world.book.all(), world.log) == ([], [])


def test_what_cannot_be_recorded_is_not_given(world):
    world.full = True
    with pytest.raises(StorageFull):
        world.desk.everything("dora", ANNA, "x")


def test_a_withdrawal_in_the_middle_breaks_the_file_off(world):
    parts = world.desk.everything("dora", ANNA, "x")
    taken = [next(parts), next(parts), next(parts)]  # its beginning, who and what measured, and a page
    world.consents.set(ANNA, "*", Consent.LOCAL)
    with pytest.raises(WardroundError, match="withdrawn"):
        list(parts)
    with pytest.raises(json.JSONDecodeError):
        json.loads(b"".join(taken))
    assert "given whole" not in str(world.log)


def test_the_list_has_whom_consent_lets_go_and_finds_by_beginning(world):
    assert world.desk.listed("dora") == RecordsPage(((ANNA, "icu-a"),), 1, 1)
    assert world.desk.listed("dora", find="BB").rows == ()
    assert world.desk.listed("dora", find="AA", page=9).rows == ((ANNA, "icu-a"),)
    world.consents.set(ANNA, "*", Consent.NONE)  # since the list was made
    assert world.desk.listed("dora").rows == ()


def test_the_page_shows_a_way_to_take_it_and_to_others_why_not(world):
    (screen,) = RecordExportPages(world.desk).screens()

    def shown(name, **params):
        looking = Looking(name, ROLES[name], address="/records", params=params, held=Held())
        return screen.sections(looking)

    html = shown("dora")
    assert "1 record can be taken away." in html["answer"]
    assert f'href="/records/{ANNA}/everything.json" download' in html["records"]
    refused = shown("cleo")
    assert ANNA not in refused["records"]
    assert "needs the role" in re.sub(r"<[^>]+>", "", refused["records"])
    assert "No subject matches" in shown("dora", find="zz")["records"]


def test_a_long_list_has_pages_and_names_are_made_safe():
    looking = Looking("dora", "data-officer", address="/records", params={"find": '"><script>'}, held=Held())
    rows = tuple((f"p{n}<script>", "icu<script>") for n in range(50))
    html = sections(RecordsPage(rows, 2, 10_000), looking)
    assert "<script>" not in html["records"]
    assert "51 to 100 of 10,000 subjects" in html["records"]
    assert "One moment" in sections(None, looking)["answer"]
