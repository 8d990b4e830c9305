"""Pages of a patient's observations: piece by piece of the time, and the same as of everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.desks.patients import PatientRecords
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DAY_US, observation_rows
from wardround.records import Consent, Observation
from wardround.trust.consent import ConsentRegister

HEART, ECG, SECRET = "loinc:8867-4", "mdc:131330", "loinc:8310-5"
ANNA, BERT = "aaaa-aaaa", "bbbb-bbbb"
FIRST_US = 20_500 * DAY_US  # a midnight
DAYS = (0, 1, 2, 5, 9, 30, 31)  # that have rows
HOURS = (0, 7, 23)


def rows():
    """Three times a day a heart rate of two devices at once and a secret; late each evening an ECG that goes on over midnight."""
    found = []
    common = {"device": "d", "device_boot": "b", "t0_device_us": 0, "consent_version": 1}
    for day in DAYS:
        for hour in HOURS:
            t0_us = FIRST_US + day * DAY_US + hour * DAY_US // 24
            found += [Observation(subject=ANNA, code=HEART, t0_us=t0_us, unit="/min", value=60.0, edge=e, **common) for e in "ab"]
            found.append(Observation(subject=ANNA, code=SECRET, t0_us=t0_us, unit="Cel", value=37.0, edge="a", **common))
        wave, t0_us = np.zeros(20, "<i2").tobytes(), FIRST_US + (day + 1) * DAY_US - 1_000_000
        found.append(
            Observation(
                subject=ANNA, code=ECG, t0_us=t0_us, unit="mV", n=20, period_us=360_000_000.0, values=wave, values_type="i2",
                scale=1.0, edge="a", **common,
            )
        )  # fmt: skip
    found.append(Observation(subject=BERT, code=HEART, t0_us=FIRST_US, unit="/min", value=70.0, edge="a", **common))
    return found


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ward")
    lake, consents = Lake(folder / "lake"), ConsentRegister(folder / "consent.sqlite")
    numbered = [(o, "b", k, 0) for k, o in enumerate(rows())]
    for version, part in enumerate((numbered[1::2], numbered[::2])):  # what is older came later, too
        lake.append(BRONZE, observation_rows(part), app="test", version=version)
    for subject in (ANNA, BERT):
        consents.set(subject, "*", Consent.RAW)
    consents.set(ANNA, SECRET, Consent.NONE)
    yield PatientRecords(lake, consents, ManualClock(), subjects=lambda: [ANNA, BERT], record=lambda *_, **__: None), lake
    consents.close()


SHOWN = sorted((o.t0_us, o.edge, "b", k, o.code) for k, o in enumerate(rows()) if o.subject == ANNA and o.code != SECRET)
TIMES = st.one_of(
    st.none(),
    st.builds(
        lambda day, off: FIRST_US + day * DAY_US + off,
        st.integers(-1, 33),
        st.sampled_from([0, 1, -1, DAY_US // 2, -1_000_000, 7 * DAY_US // 24]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    since_us=TIMES,
    until_us=TIMES,
    codes=st.sampled_from([None, [HEART], [ECG], [SECRET], [HEART, ECG], ["nothing"]]),
    after=st.one_of(st.none(), st.sampled_from(SHOWN)),
    count=st.integers(1, 60),
)
def test_a_page_is_the_beginning_of_everything_that_matches(ward, since_us, until_us, codes, after, count):
    records, _ = ward
    found = records.keys(ANNA, codes, since_us=since_us, until_us=until_us, after=after and after[:4], count=count)
    wanted = [
        (place, code)
        for *place, code in SHOWN
        if (since_us is None or place[0] >= since_us)
        and (until_us is None or place[0] < until_us)
        and (codes is None or code in codes)
        and (after is None or tuple(place) > after[:4])
    ]
    assert [(list(row.place), row.code) for row in found] == wanted[:count]


def test_pages_one_after_the_other_have_everything_once(ward):
    records, _ = ward
    found, after = [], None
    for _ in range(len(SHOWN)):
        page = records.keys(ANNA, None, since_us=None, until_us=None, after=after, count=5)
        if not page:
            break
        found, after = [*found, *page], page[-1].place
    assert [(*row.place, row.code) for row in found] == SHOWN


def test_for_the_first_page_the_days_after_it_are_not_read(ward, monkeypatch):
    records, lake = ward
    asked, read = [], lake.read
    monkeypatch.setattr(lake, "read", lambda *a, **k: asked.append(k["until_us"]) or read(*a, **k))
    records.keys(ANNA, [HEART], since_us=None, until_us=None, after=None, count=4)
    assert asked == [FIRST_US + DAY_US]
    records.keys(ANNA, [HEART], since_us=None, until_us=None, after=None, count=10**6)
    assert asked[-1] == FIRST_US + (DAYS[-1] + 1) * DAY_US


def test_of_whom_nothing_is_there_there_is_no_page(ward):
    records, _ = ward
    assert records.keys("cccc-cccc", None, since_us=None, until_us=None, after=None, count=5) == []


def test_in_a_lake_without_a_table_there_is_no_day(tmp_path):
    assert Lake(tmp_path / "lake").days(BRONZE, subjects=[ANNA]) == []
