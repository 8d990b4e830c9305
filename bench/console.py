"""The console in Chromium over a hub with 1,000 edges and 10,000 patients: first view of each page, and how far behind it is.

    python bench/console.py [--edges 1000] [--patients 10000] [--attached 0] [--times 5] [--json]

A real hub as a process of its own, its records and lake made through the real stores; `--attached` so many of the edges are there
too, each with its own connection and heartbeat (hub_memory.py). First view: from asking for the page to its answer line, with
nothing left that is still being read; in the page's own clock. Live: from a press of Acknowledge in one browser to the words in
another. Patients' names are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from playwright.sync_api import Page, sync_playwright

import hub_memory
from wardround.demo.programs import Program
from wardround.hub import create_home
from wardround.ports import free_port
from wardround.process import tables
from wardround.process.lake import Lake
from wardround.process.tables import day_of, observation_rows
from wardround.records import Consent, Observation, bucket_of
from wardround.settings import HubSettings, parse_settings
from wardround.store import AlertRecord, EdgeRecord, Happening, ModelRecord, Person, RoundRecord, StudyRecord, open_store
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.passwords import hash_password, new_password
from wardround.watch.alerts import AlertBook, Finding

FIRST_MS, LIVE_MS = 1_000.0, 500.0
HOUR_US, MINUTE_US = 3_600_000_000, 60_000_000
DEADLINE_MS = 120_000
VITALS = {
    "loinc:9279-1": ("/min", 17.0),
    "loinc:59408-5": ("%", 96.0),
    "loinc:8867-4": ("/min", 76.0),
    "loinc:8310-5": ("Cel", 36.9),
}
ALERTS, ROUNDS = 200, 100
STUDY = 'name = "beats"\ntask = "ventricular-beats"\n'


def subject(k: int) -> str:
    """A pseudonym in the form of one."""
    return f"{k:04x}-{k * 2654435761 % 65536:04x}-bench-names-only"


def fill(home: Path, edges: int, patients: int) -> dict[str, str]:
    """Records and lake as of a hub that has run for a while; a person of each kind, with a password."""
    now_us = time.time_ns() // 1_000
    names = [f"edge-{k:04d}" for k in range(edges)]
    people = {"ada": "admin", "cleo": "clinician", "olga": "operator"}
    passwords = {name: new_password() for name in people}
    with_store(home, names, now_us, people, passwords)
    consents = ConsentRegister(home / "consent.sqlite")
    for at, name in enumerate(names):
        consents.apply([ConsentRecord(subject(k), "*", Consent.RAW, 1) for k in range(at, patients, edges)], name)
    consents.close()
    lake_of(home, names, patients, now_us)
    return passwords


def with_store(home: Path, names: Sequence[str], now_us: int, people: dict[str, str], passwords: dict[str, str]) -> None:
    store = open_store(home / "hub.sqlite")
    for k, name in enumerate(names):
        store.put_edge(EdgeRecord(name, now_us - k, f"{k:x}", now_us + 10**12, None))
    for name, role in people.items():
        store.put_person(Person(name, role, hash_password(passwords[name]), None))
    store.put_study(StudyRecord("beats", STUDY, "finished", "", now_us, now_us))
    models = []
    for n in range(1, ROUNDS + 1):
        by_edge = {name: 0.8 + k % 100 / 1_000 for k, name in enumerate(names)}
        score = {"metric": "average-precision", "value": 0.85, "worst": 0.8, "worst_edge": names[0], "by_edge": by_edge}
        folded = dict.fromkeys(names, 60)
        store.put_round(RoundRecord("beats", n, now_us + n, 1.0, f"{n:064x}", {"folded": folded, "aside": [], "score": score}))
        kept = {"score": score, "lineage": {"updates": folded}}
        stage = "current" if n == ROUNDS else "retired"
        models.append(ModelRecord("beats", n, f"{n:064x}", f"{n - 1:064x}", stage, n, now_us, now_us, kept))
        store.happened(Happening(now_us - n, f"round {n} of beats", "committed"))
    store.put_models(models)
    book = AlertBook()
    for k in range(ALERTS):
        found = Finding(
            kind="sensor-dead", title=f"ECG lead II of patch-{k} is a flat line", priority="medium", category="technical",
            since_us=now_us, detected_us=now_us, edge=names[k % len(names)], device=f"patch-{k}", detail="No change for 30 s.",
        )  # fmt: skip
        alert = book.raise_(found, now_us)
        assert alert is not None
        store.put_alert(AlertRecord(alert.alert_id, alert.state.value, alert.raised_us, alert.changed_us, {}))
    store.save_state("alert-book", book.save())
    store.close()


def lake_of(home: Path, names: Sequence[str], patients: int, now_us: int) -> None:
    """Trends of two hours, minutes of five, scores of twelve hours, and one value as it came, of each patient."""
    lake, rng = Lake(home / "lake"), np.random.default_rng(0)
    who = [subject(k) for k in range(patients)]
    hour_us = now_us // HOUR_US * HOUR_US

    own: dict[str, Any]
    for code_at, (code, (unit, usual)) in enumerate(VITALS.items()):
        for k in range(2):
            n = len(who)
            times = np.full(n, hour_us - k * HOUR_US)
            mean = usual + rng.normal(0, 1, n)
            same: dict[str, Any] = dict.fromkeys(("mean", "p05", "median", "p95", "low", "high", "first", "last"), mean)
            rest = {"std": np.ones(n), "slope_per_h": np.zeros(n), "completeness": np.full(n, 0.97), "unit": [unit] * n}
            counts = {"n": np.full(n, 60), "expected": np.full(n, 60), "width_us": np.full(n, HOUR_US)}
            _append(lake, tables.TREND, who, code, times, {**same, **rest, **counts}, code_at * 2 + k)
        for k in range(5):
            times = np.full(len(who), (now_us // MINUTE_US - k) * MINUTE_US)
            mean = usual + rng.normal(0, 1, len(who))
            own = {"mean": mean, "low": mean - 1, "high": mean + 1, "n": np.full(len(who), 60)}
            _append(lake, tables.VITALS, who, code, times, own, code_at * 5 + k)
    for k in range(12):
        times = np.full(len(who), hour_us + HOUR_US - 1 - k * HOUR_US)
        total = rng.integers(0, 8, len(who))
        own = {"total": total, "red": total > 6, "points": ['{"spo2":1}'] * len(who), "missing": ["oxygen"] * len(who)}
        _append(lake, tables.WARNING, who, "", times, own, k)
    for start in range(0, patients, 1_000):
        rows = [
            Observation(
                subject=who[k], device=f"d{k}", edge=names[k % len(names)], code="loinc:8867-4", unit="/min",
                t0_us=now_us - MINUTE_US, t0_device_us=now_us - MINUTE_US, value=80.0,
            )
            for k in range(start, min(patients, start + 1_000))
        ]  # fmt: skip
        table = observation_rows([(o, "b", start + i, now_us) for i, o in enumerate(rows)])
        lake.append(tables.BRONZE, table, app="bronze", version=start)


def _append(lake: Lake, table: str, who: Sequence[str], code: str, times: Any, own: dict[str, Any], version: int) -> None:
    n, day = len(who), day_of(int(times[0]))
    found = {"subject": who, "t_us": times, "day": [day] * n, "bucket": [bucket_of(s) for s in who], "job": ["bench"] * n}
    found |= {"part": ["p"] * n, "code": [code] * n, **own}
    schema = tables.SCHEMAS[table]
    columns = {f.name: pa.array(found[f.name], f.type) if f.name in found else pa.nulls(n, f.type) for f in schema}
    lake.append(table, pa.table(columns, schema), app=f"bench-{table}", version=version)


# -- the browser


def sign_in(page: Page, address: str, name: str, password: str) -> None:
    """Until the first answer."""
    page.goto(f"{address}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#answer h1")


THERE = """() => {
  const h = document.querySelector('#answer h1');
  if (!h || h.innerText.includes('One moment') || document.querySelector('.skeleton')) return 0;
  return performance.now();
}"""


def first_view(page: Page, address: str, path: str) -> tuple[float, float, int]:
    """Milliseconds to the answer line, and to the whole page; how many elements it has then."""
    page.goto(address + path, wait_until="commit")
    page.wait_for_selector("#answer h1", state="attached")
    answer = page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd")
    whole = page.wait_for_function(THERE, polling="raf").json_value()
    return float(answer), float(whole), int(page.evaluate("document.querySelectorAll('*').length"))


WHEN_IT_CHANGES = """() => {
  const tabs = () => document.querySelector('.tabs').innerText, before = tabs();
  window.at = 0;
  const look = (_, o) => { if (tabs() !== before) { window.at = Date.now(); o.disconnect(); } };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def live(seen: Page, pressed: Page, address: str, times: int) -> list[float]:
    """Milliseconds from a press in one browser to the words in the other."""
    found = []
    seen.goto(f"{address}/alerts")
    seen.wait_for_function("window.socket && window.socket.connected")
    for k in range(times):
        name = f"A-{k + 1:04d}"
        pressed.goto(f"{address}/alerts/{name}")
        pressed.wait_for_function("window.socket && window.socket.connected")
        button = pressed.locator("#detail [data-act=acknowledge]")
        button.wait_for()
        seen.evaluate(WHEN_IT_CHANGES)
        pressed.evaluate("() => addEventListener('click', () => { window.at = Date.now(); }, {capture: true, once: true})")
        button.click()
        seen.wait_for_function("window.at > 0")
        found.append(seen.evaluate("window.at") - pressed.evaluate("window.at"))
    return found


def measure(home: Path, own: argparse.Namespace) -> dict[str, Any]:
    """Every page and the live update."""
    ports = {name: free_port() for name in ("grpc", "enrolment", "console")}
    hub, address = home / "hub", f"http://127.0.0.1:{ports['console']}"
    text = 'site = "Bench"\nsimulated = true\n' + "".join(f"[{name}]\nport = {port}\n" for name, port in ports.items())
    text += f"[processing]\njobs_off = {json.dumps(own.jobs_off)}\n"
    create_home(hub, text, parse_settings(text, HubSettings, where="bench")).close()
    passwords = fill(hub, own.edges, own.patients)
    (home / "edges").mkdir()
    names = [f"edge-{k:04d}" for k in range(own.attached)]
    hub_memory.join(hub, home / "edges", names)
    program = Program("hub", ["wardround.cli.main", "hub", "run", "--home", str(hub)], home / "hub.log", hub / "ready.json")
    program.start()
    chromium = os.environ.get("WARDROUND_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    try:
        program.wait_ready(hub_memory.READY_S)
        with hub_memory.Fleet(home / "edges", ports["grpc"], 1) as fleet, sync_playwright() as playwright:
            fleet.attach(names)
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            pages = {}
            for name in passwords:
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                context.set_default_timeout(DEADLINE_MS)
                pages[name] = context.new_page()
                sign_in(pages[name], address, name, passwords[name])
            found: dict[str, Any] = {"pages": {}}
            record = f"/ward/edge-0001/{subject(1)}"
            paths = ("/", "/alerts", "/alerts/A-0150", "/ward", record, "/fleet", "/fleet/edge-0500", "/processing", "/studies",
                     "/studies/beats", "/governance", "/completeness", "/automation", "/bedside", "/hand-over",
                     "/hand-over?part=technical", "/settings", "/records")  # fmt: skip
            for path in paths:
                found["pages"][path] = [first_view(pages["ada"], address, path) for _ in range(own.times)]
                print(path, found["pages"][path], file=sys.stderr)
            found["live_ms"] = live(pages["ada"], pages["olga"], address, 2 * own.times)
            process = psutil.Process(program.process.pid if program.process else 0)
            for name, path in (("ada", "/fleet"), ("olga", "/alerts"), ("cleo", "/ward")):
                pages[name].goto(address + path)
            before, began = process.cpu_times(), time.monotonic()
            time.sleep(10.0)
            after = process.cpu_times()
            found["cpu"] = (after.user + after.system - before.user - before.system) / (time.monotonic() - began)
            browser.close()
            return found
    finally:
        program.stop(30.0)


def main() -> int:
    """Print each figure beside its limit; 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1_000)
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--attached", type=int, default=0)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    own = parser.parse_args()
    from wardround.process.catalogue import JOBS

    own.jobs_off = list(JOBS)
    with tempfile.TemporaryDirectory(prefix="wardround-console-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), own)
    if own.json:
        print(json.dumps(found, indent=1))
    missed = False
    print(f"{own.edges:,} edges ({own.attached:,} attached), {own.patients:,} patients; load {os.getloadavg()[0]:.1f}")
    print(f"{'page':34} {'sent, ms':>9} {'whole, ms':>10} {'most':>7} {'limit':>6} {'elements':>9}")
    for path, views in found["pages"].items():
        whole = statistics.median(v[1] for v in views)
        missed |= whole > FIRST_MS
        sent, most = statistics.median(v[0] for v in views), max(v[1] for v in views)
        print(f"{path[:34]:34} {sent:9.0f} {whole:10.0f} {most:7.0f} {FIRST_MS:6.0f} {views[-1][2]:9,}")
    times = sorted(found["live_ms"])
    missed |= statistics.median(times) > LIVE_MS
    print(f"live, press to words elsewhere: median {statistics.median(times):.0f} ms, most {times[-1]:.0f} (limit {LIVE_MS:.0f})")
    print(f"three open pages: the hub takes {found['cpu']:.0%} of a core in all")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
