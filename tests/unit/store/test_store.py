"""The hub's records survive a reopening, and the migrations make exactly the declared schema."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from wardround.records import TokenRecord
from wardround.store import AlertRecord, EdgeRecord, Happening, Person, Quarantined, RoundRecord, Store, StudyRecord, open_store
from wardround.store.schema import metadata


def reopened(path: Path, store: Store) -> Store:
    store.close()
    return open_store(path)


def test_the_migrations_make_the_declared_schema(tmp_path: Path) -> None:
    store = open_store(tmp_path / "hub.sqlite")
    made = sa.inspect(store._engine)
    names = set(made.get_table_names()) - {"alembic_version"}
    assert names == set(metadata.tables)
    for table in metadata.tables.values():
        columns = {c["name"]: c["nullable"] for c in made.get_columns(table.name)}
        assert columns == {c.name: bool(c.nullable) for c in table.c}, table.name


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    store = open_store(path)
    edge = EdgeRecord("icu-a", 1, "ab", 2, None)
    person = Person("oncall", "operator", "hash", None)
    study = StudyRecord("beats", "name = 'beats'", "requested", "", 1, 1)
    round_ = RoundRecord("beats", 1, 5, 0.2, "d" * 64, {"participants": ["icu-a"], "score": 0.9})
    alert = AlertRecord("A-0001", "firing", 3, 3, {"title": "t"})
    store.put_edge(edge)
    store.put_person(person)
    store.put_study(study)
    store.put_round(round_)
    store.put_round(round_)
    store.put_alert(alert)
    store.happened(Happening(9, "Round 1", "committed"))
    store.set_aside(Quarantined(9, "icu-a", "update", "not-finite", "layer0"))
    store.save_state("book", b"\x00\x01")
    store = reopened(path, store)
    assert (store.edges(), store.person("oncall"), store.studies()) == ([edge], person, [study])
    assert (store.rounds("beats"), store.alerts()) == ([round_], [alert])
    assert store.happenings() == [Happening(9, "Round 1", "committed")]
    assert store.quarantined()[0].reason == "not-finite"
    assert store.quarantine_count() == 1
    assert store.load_state("book") == b"\x00\x01"
    assert store.load_state("nothing") is None


def test_a_changed_state_replaces_the_old_one(tmp_path: Path) -> None:
    store = open_store(tmp_path / "hub.sqlite")
    store.put_alert(AlertRecord("A-0001", "firing", 3, 3, {}))
    store.put_alert(AlertRecord("A-0001", "resolved", 3, 8, {}))
    assert [a.state for a in store.alerts()] == ["resolved"]


def test_one_of_many_keys_burns_a_token_and_may_ask_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "hub.sqlite")
    store.add(TokenRecord("t", "icu-a", b"s", 10**18))
    results: dict[int, bool] = {}

    def use(i: int) -> None:
        results[i] = store.burn("t", bytes([i]))

    threads = [threading.Thread(target=use, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    winners = [i for i, won in results.items() if won]
    assert len(results) == 12
    assert len(winners) == 1
    assert store.burn("t", bytes([winners[0]]))
    assert not store.burn("unknown", b"x")


def test_revoking_names_a_known_edge(tmp_path: Path) -> None:
    store = open_store(tmp_path / "hub.sqlite")
    store.put_edge(EdgeRecord("icu-a", 1, "ab", 2, None))
    assert store.revoke_edge("icu-a", 7)
    assert not store.revoke_edge("icu-z", 7)
    assert store.edges()[0].revoked_us == 7
