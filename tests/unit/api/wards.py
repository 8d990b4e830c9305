"""A hub's inbox, lake and consents behind its API, and Bundles to send there."""

from __future__ import annotations

import json
import warnings

from wardround.api.app import make_api
from wardround.collect.bundles import BundleIntake
from wardround.collect.inbox import Inbox
from wardround.collect.intake import Committer
from wardround.collect.signals import load_signals
from wardround.collect.storage import FolderStorage
from wardround.desks.patients import PatientRecords
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent
from wardround.trust.consent import ConsentRecord, ConsentRegister

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fhir.resources.R4B.bundle import Bundle

ANNA, BERT, CARA = "aaaa-aaaa", "bbbb-bbbb", "cccc-cccc"
NOW_S = 1_774_000_000  # 2026-03-20
HEART = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}


class Ward:
    """A hub's inbox, lake and consents behind its API."""

    def __init__(self, world, folder):
        self.world, self.folder, self.records, self.committed = world, folder, [], []
        world.clock.advance(NOW_S - world.clock.now_us() / 1e6)
        self.consents = ConsentRegister(folder / "consent.sqlite")
        for subject, choice in ((ANNA, Consent.RAW), (BERT, Consent.LOCAL)):
            self.consents.apply([ConsentRecord(subject, "*", choice, 1)], "icu-a")
        self.lake = Lake(folder / "lake")
        self.subjects = set()
        self.open()

    def open(self):
        self.inbox = Inbox(FolderStorage(self.folder / "inbox"))
        self.intake = BundleIntake(
            inbox=self.inbox, signals=load_signals(), consent=self.consents.choose, clock=self.world.clock,
            record=lambda *facts: self.records.append(facts), on_committed=self.committed.extend,
        )  # fmt: skip
        patients = PatientRecords(
            self.lake, self.consents, self.world.clock, subjects=lambda: self.subjects, record=lambda *_, **__: None
        )
        self.world.app = make_api(
            self.world.desk, self.world.store, self.world.desk, self.world.clock, patients=patients, bundles=self.intake
        )

    def reopen(self):
        self.inbox.close()
        self.open()

    def close(self):
        self.inbox.close()
        self.consents.close()

    def commit(self):
        """What is in the inbox to the lake."""

        def append(batches, app, number):
            rows = [row for batch in batches for row in batch.observations()]
            self.subjects |= {row[0].subject for row in rows}
            self.lake.append(BRONZE, observation_rows(rows), app=app, version=number)

        version = lambda app: self.lake.transaction_version(BRONZE, app)  # noqa: E731
        return Committer(inbox=self.inbox, lake_version=version, lake_append=append, rows_max=10_000).run_once()

    def send(self, bundle, token=None, **more):
        more = {"headers": {"Content-Type": "application/fhir+json"}, "content": json.dumps(bundle)} | more
        answer = self.world.call("POST", "/fhir", token or self.world.token("dora", ["ingest"]), **more)
        assert answer.headers["content-type"] == "application/fhir+json", answer.text
        return answer

    def outcomes(self, bundle):
        answer = self.send(bundle)
        assert answer.status_code == 200, answer.text
        Bundle.model_validate(answer.json())
        assert answer.json()["type"] == f"{bundle['type']}-response"
        return [entry["response"] for entry in answer.json()["entry"]]


def observation(value=61.0, subject=ANNA, minute=0, **more):
    return {
        "resourceType": "Observation", "status": "final", "code": HEART, "subject": {"reference": f"Patient/{subject}"},
        "effectiveDateTime": f"2026-03-01T08:{minute:02d}:00Z",
        "valueQuantity": {"value": value, "system": "http://unitsofmeasure.org", "code": "/min"},
    } | more  # fmt: skip


def bundle(*resources, kind="batch"):
    entries = [{"resource": r, "request": {"method": "POST", "url": r["resourceType"]}} for r in resources]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}
