"""Readings of files at the gate: once each by their content, whatever is killed and whenever."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from wardround.collect.devices.reading import Reading, Taken
from wardround.collect.imports import BATCHES_MAX, Imports, take_waiting
from wardround.collect.signals import load_signals
from wardround.errors import DecodeError, StorageFull
from wardround.records import FROM_FILE, Consent
from wardround.settings import SpoolSettings

OLD_US = 600_000_000_000_000  # 1989


def readings(n=3, name="heart-rate", unit="/min"):
    return [Reading(name=name, unit=unit, t_us=OLD_US + i * 10**6, value=60.0 + i) for i in range(n)]


def take(gate, found, device="d1"):
    outcome = []
    gate.gateway.take(device, found, outcome.append)
    assert not outcome  # nothing is said before it is durable
    gate.gateway.commit()
    return outcome[0]


def test_the_same_content_is_kept_once(gate):
    assert take(gate, readings(3)) == Taken(kept=3)
    assert take(gate, readings(5)) == Taken(kept=2, repeated=3)
    gate.open()
    assert take(gate, readings(5)) == Taken(repeated=5)
    assert [o.value for o in gate.waiting()] == [60.0, 61.0, 62.0, 63.0, 64.0]


def test_the_same_content_twice_in_one_group_is_kept_once(gate):
    assert take(gate, readings(1) * 3) == Taken(kept=1, repeated=2)


def test_what_is_understood_better_since_is_the_same_content(gate):
    take(gate, readings(1))
    assert take(gate, [replace(r, also=("loinc:8867-4",), flags=64) for r in readings(1)]) == Taken(repeated=1)


@pytest.mark.parametrize("change", [{"t_us": OLD_US + 1}, {"value": 60.5}, {"name": "pulse-rate"}])
def test_other_content_is_other(gate, change):
    take(gate, readings(1))
    assert take(gate, [replace(r, **change) for r in readings(1)]) == Taken(kept=1)


def test_two_devices_may_have_measured_the_same(gate):
    take(gate, readings(1))
    assert take(gate, readings(1), device="d2") == Taken(kept=1)


def test_a_crash_before_the_commit_forgets_all_of_it(gate):
    gate.gateway.take("d1", readings(3), lambda _: pytest.fail("not durable"))
    gate.open()
    assert take(gate, readings(3)) == Taken(kept=3)


def test_a_crash_between_local_store_and_spool_doubles_nothing(gate, monkeypatch):
    monkeypatch.setattr(gate.spool, "commit", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
    gate.gateway.take("d1", readings(3), lambda _: pytest.fail("not durable"))
    with pytest.raises(OSError, match="killed"):
        gate.gateway.commit()
    gate.open()
    assert take(gate, readings(3)) == Taken(kept=3)
    assert gate.local.count() == 3


def test_consent_decides_and_may_come_later(gate):
    assert take(gate, readings(2), device="d3") == Taken(not_kept=2)
    gate.consents["P3"] = Consent.LOCAL
    assert take(gate, readings(2), device="d3") == Taken(kept=2)
    assert gate.waiting() == []
    assert gate.local.count() == 2


def test_what_is_not_mapped_waits_and_is_replayed_once(gate):
    strange = readings(2, name="Puls")
    assert take(gate, strange) == Taken(set_aside=2)
    assert all(row.boot.startswith(FROM_FILE) and row.reason == "unknown-code" for row in gate.quarantine.rows())
    gate.gateway.use(load_signals().with_names({"Puls": "pulse-rate"}))
    gate.quarantine.ask()
    for row in gate.quarantine.asked():
        gate.gateway.replay(row)
    gate.gateway.commit()
    assert gate.quarantine.rows() == []
    assert take(gate, strange) == Taken(repeated=2)
    assert [o.value for o in gate.waiting()] == [60.0, 61.0]


def test_imported_again_before_its_replay_is_there_once(gate):
    strange = readings(1, name="Puls")
    take(gate, strange)
    gate.gateway.use(load_signals().with_names({"Puls": "pulse-rate"}))
    assert take(gate, strange) == Taken(kept=1)
    gate.quarantine.ask()
    for row in gate.quarantine.asked():
        gate.gateway.replay(row)
    gate.gateway.commit()
    assert gate.quarantine.rows() == []
    assert len(gate.waiting()) == 1


def test_an_old_recording_stays_as_long_as_it_was_taken(gate):
    take(gate, readings(1))
    assert gate.local.prune(gate.clock.now_us() - 1) == 0
    assert gate.local.prune(gate.clock.now_us() + 1) == 1


def test_a_device_that_is_not_registered(gate):
    with pytest.raises(DecodeError) as caught:
        gate.gateway.take("stranger", readings(1), lambda _: None)
    assert caught.value.reason == "unknown-device"


def test_the_queue_is_bounded_and_worked_in_order(gate):
    imports = Imports(gate.storage)
    for i in range(BATCHES_MAX):
        assert imports.put("t", "d1", [Reading(name="heart-rate", unit="/min", t_us=OLD_US + i, value=60.0)])
    assert not imports.put("t", "d1", readings(1))
    while take_waiting(gate.gateway, imports):
        gate.gateway.commit()
    assert imports.left("t") == 0
    assert imports.outcome("t") == Taken(kept=BATCHES_MAX)
    assert [o.t0_us for o in gate.waiting()] == [OLD_US + i for i in range(BATCHES_MAX)]


def test_a_batch_worked_twice_adds_nothing(gate):
    imports = Imports(gate.storage)
    imports.put("t", "d1", readings(3))
    gate.gateway.take("d1", imports.waiting(1)[0].readings, lambda _: None)  # durable, and killed before it was taken away
    gate.gateway.commit()
    assert take_waiting(gate.gateway, imports) == 1
    gate.gateway.commit()
    assert imports.outcome("t") == Taken(repeated=3)
    assert len(gate.waiting()) == 3


def test_without_room_a_batch_waits(gate):
    gate.settings = SpoolSettings(bytes_max=100)
    gate.open()
    imports = Imports(gate.storage)
    imports.put("t", "d1", readings(3))
    take_waiting(gate.gateway, imports)
    with pytest.raises(StorageFull):
        gate.gateway.commit()
    assert imports.left("t") == 1


def test_batches_of_a_device_that_was_removed_are_settled(gate):
    imports = Imports(gate.storage)
    imports.put("t", "gone", readings(3))
    called = []
    assert take_waiting(gate.gateway, imports, after=lambda: called.append(1)) == 1
    assert (imports.left("t"), imports.outcome("t"), called) == (0, Taken(set_aside=3), [1])


def test_waveforms_keep_their_counts(gate):
    counts = np.arange(-5, 5, dtype="<i2")
    wave = Reading(
        name="MLII", also=("ecg-ii",), unit="uV", t_us=OLD_US, n=10, period_us=4000.0, values=counts.tobytes(), scale=2.5
    )
    take(gate, [wave])
    [kept] = gate.waiting()
    np.testing.assert_array_equal(kept.counts(), counts)
    assert (kept.unit, kept.scale) == ("mV", 0.0025)
