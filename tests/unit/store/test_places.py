"""A hub's records in a file or in PostgreSQL: the schema both ways, moving from one to the other, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from wardround.backup.archive import unpack
from wardround.backup.service import Backups
from wardround.backup.snapshots import copy_database
from wardround.cli.main import app
from wardround.clock import SystemClock
from wardround.errors import SettingsError, WardroundError
from wardround.process.lake import Lake
from wardround.settings import HubSettings, StoreSettings, load_settings
from wardround.store import AlertRecord, EdgeRecord, Happening, Person, open_store
from wardround.store.copying import take_out
from wardround.store.opening import _revisions, elsewhere, migrate, newest, open_database, open_engine, revision_of
from wardround.store.schema import metadata

SAMPLES = {
    sa.Text: "t",
    sa.BigInteger: 5_000_000_000,
    sa.Integer: 7,
    sa.LargeBinary: b"\x00b",
    sa.Float: 0.5,
    sa.JSON: {"a": [1]},
}


def wardround(*arguments: str):
    """A command, in this process."""
    return CliRunner().invoke(app, arguments)


def fill(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    """One row in every table that is there; all rows, by table."""
    there = sa.MetaData()
    there.reflect(engine)
    with engine.begin() as db:
        for table in there.sorted_tables:
            if table.name != "alembic_version":
                declared = metadata.tables[table.name]
                values = {
                    c.name: next((v for k, v in SAMPLES.items() if isinstance(declared.c[c.name].type, k)), True) for c in table.c
                }
                db.execute(
                    sa.insert(
                        sa.Table(table.name, sa.MetaData(), *(sa.Column(c.name, declared.c[c.name].type) for c in table.c))
                    ).values(values)
                )
    return rows(engine)


def rows(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    there = sa.MetaData()
    there.reflect(engine)
    with engine.connect() as db:
        return {t.name: [tuple(r) for r in db.execute(sa.select(t))] for t in there.sorted_tables if t.name != "alembic_version"}


def test_the_migrations_make_the_declared_schema(place: Path) -> None:
    store = open_store(place)
    made = sa.inspect(store.engine)
    assert set(made.get_table_names()) - {"alembic_version"} == set(metadata.tables)
    for table in metadata.tables.values():
        columns = {c["name"]: (c["nullable"], c["type"]._type_affinity) for c in made.get_columns(table.name)}
        assert columns == {c.name: (bool(c.nullable), c.type._type_affinity) for c in table.c}, table.name
        assert {i["name"] for i in made.get_indexes(table.name)} == {i.name for i in table.indexes}, table.name
    store.close()


def test_every_schema_and_the_next_are_one_step_apart_both_ways_with_records_in_place(place: Path) -> None:
    engine = open_engine(place)
    earliest_first = _revisions()[::-1]
    migrate(engine, earliest_first[0])
    for before, after in itertools.pairwise(earliest_first):
        with engine.begin() as db:
            for table in rows(engine):
                db.execute(sa.text(f"DELETE FROM {table}"))
        kept = fill(engine)
        assert migrate(engine, after) == before
        later = rows(engine)
        assert {name: later[name] for name in kept} == kept, after
        assert migrate(engine, before) == after
        assert rows(engine) == kept, f"{after} back to {before}"
        migrate(engine, after)
    assert revision_of(engine) == newest()
    engine.dispose()


def test_records_of_a_later_version_are_refused_with_the_way_back(place: Path) -> None:
    store = open_store(place)
    with store.engine.begin() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(WardroundError, match="9999") as caught:
        open_store(place)
    assert f"--to {newest()}" in caught.value.remedy
    engine = open_engine(place)
    with pytest.raises(WardroundError, match="9999"):
        migrate(engine, "0001")
    engine.dispose()


def test_records_move_into_postgresql_and_back_without_a_change(tmp_path: Path, postgres) -> None:
    home = tmp_path / "hub"
    home.mkdir()
    (home / "hub.toml").write_text("")
    store = open_store(home / "hub.sqlite")
    fill(store.engine)
    for i in range(1_500):
        store.happened(Happening(i, f"h{i}", "\N{SNOWMAN}"))
    before = rows(store.engine)
    store.close()

    (home / "hub.toml").write_text(f"[store]\nurl = {json.dumps(postgres.database())}\n")
    with pytest.raises(SettingsError, match="two places"):
        open_store(home / "hub.sqlite")
    moved = wardround("store", "copy", "--home", str(home))
    assert moved.exit_code == 0, moved.output
    assert not (home / "hub.sqlite").exists()
    store = open_store(home / "hub.sqlite")
    after = rows(store.engine)
    assert after.pop("lease") == [] != before.pop("lease"), "who runs there says nothing of here"
    assert {n: sorted(map(repr, r)) for n, r in after.items()} == {n: sorted(map(repr, r)) for n, r in before.items()}
    store.happened(Happening(9, "numbers go on", ""))
    said = wardround("store", "status", "--home", str(home), "--json")
    assert json.loads(said.stdout)["records"]["happenings"] == 1_502
    assert "postgresql" in json.loads(said.stdout)["where"]

    back = wardround("store", "copy", "--out", str(tmp_path / "back.sqlite"), "--home", str(home))
    assert back.exit_code == 0, back.output
    other = open_store(tmp_path / "back.sqlite")
    assert rows(other.engine)["edges"] == before["edges"]
    assert other.happenings(limit=1) == [Happening(9, "numbers go on", "")]
    other.close()
    store.close()


def test_a_database_that_holds_records_takes_no_others(place: Path, tmp_path: Path) -> None:
    store = open_store(place)
    store.put_edge(EdgeRecord("icu-a", 1, "ab", 2, None))
    store.put_alert(AlertRecord("A", "firing", 1, 1, {}))
    take_out(place, tmp_path / "out.sqlite")
    copy_database(tmp_path / "out.sqlite", tmp_path / "again.sqlite")  # as a backup does
    with pytest.raises(WardroundError, match="holds records already"):
        take_out(place, tmp_path / "out.sqlite")
    store.close()
    kept = open_store(tmp_path / "again.sqlite")
    assert [e.name for e in kept.edges()] == ["icu-a"]
    kept.close()


def test_a_backup_has_the_records_without_secrets_wherever_they_are(place: Path, tmp_path: Path) -> None:
    store = open_store(place)
    store.put_edge(EdgeRecord("icu-a", 1, "ab", 2, None))
    store.put_person(Person("oncall", "operator", "argon2 hash", None))
    home = place.parent
    settings = load_settings(home / "hub.toml", HubSettings)
    out = tmp_path / "a.wrb"
    Backups(home, settings, lake=Lake(home / "lake"), store=store, clock=SystemClock()).make(out)
    store.close()
    unpack(out, tmp_path / "back")
    kept = open_store(f"sqlite:///{tmp_path / 'back' / 'hub.sqlite'}")
    assert [e.name for e in kept.edges()] == ["icu-a"]
    assert kept.people() == [Person("oncall", "operator", "!", None)]
    kept.close()


def test_a_new_hub_is_made_in_an_empty_database_alone(tmp_path: Path, postgres) -> None:
    url = postgres.database()
    made = wardround("hub", "init", "--home", str(tmp_path / "one"), "--store", url)
    assert made.exit_code == 0, made.output
    store = open_store(tmp_path / "one" / "hub.sqlite")
    assert [p.name for p in store.people()] == ["oncall"]
    store.close()
    again = wardround("hub", "init", "--home", str(tmp_path / "two"), "--store", url)
    assert again.exit_code != 0
    assert "not empty" in str(again.exception)
    assert not (tmp_path / "two" / "pki").exists()
    nowhere = wardround("hub", "init", "--home", str(tmp_path / "three"), "--store", f"postgresql://x@/y?host={tmp_path}")
    assert nowhere.exit_code != 0
    assert "createdb" in nowhere.exception.remedy


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://wardround:hunter2@db/wardround", "password"),
        ("postgresql://db/wardround?password=hunter2", "password"),
        ("mysql://db/wardround", "mysql"),
        ("no url", "not a URL"),
    ],
)
def test_a_url_that_does_not_hold_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        open_database(StoreSettings(url=url), Path())
    assert "hunter2" not in f"{caught.value} {caught.value.remedy}"


def test_another_machine_must_show_a_certificate_and_every_wait_has_an_end(tmp_path: Path) -> None:
    secret = tmp_path / "db.password"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    settings = StoreSettings(url="postgresql://wardround@db.example.org/wardround", password_file="db.password")
    with pytest.raises(SettingsError, match="others may read"):
        open_database(settings, tmp_path)
    secret.chmod(0o600)
    engine = open_database(settings, tmp_path)
    asked: dict[str, object] = {}

    @sa.event.listens_for(engine, "do_connect")
    def note(_dialect, _record, _arguments, parameters):
        asked.update(parameters)
        raise sa.exc.OperationalError("", {}, Exception("asked"))

    with pytest.raises(sa.exc.OperationalError):
        engine.connect()
    assert asked["password"] == "hunter2"
    assert (asked["sslmode"], asked["sslrootcert"], asked["host"]) == ("verify-full", "system", "db.example.org")
    assert int(asked["connect_timeout"]) > 0
    assert "statement_timeout" in asked["options"]
    engine.dispose()


def test_a_home_without_a_database_is_a_file(tmp_path: Path) -> None:
    assert elsewhere(tmp_path / "hub.sqlite") is None
    (tmp_path / "hub.toml").write_text("[store]\nurl = 'postgresql:///w'\n")
    assert elsewhere(tmp_path / "hub.sqlite") == StoreSettings(url="postgresql:///w")
    assert elsewhere(tmp_path / "other.sqlite") is None
