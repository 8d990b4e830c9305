"""The hub's records (edges, tokens, people, studies, rounds, alerts, happenings) behind one object.

SQLite by default, or PostgreSQL (`[store]` of hub.toml): one schema, one suite of tests over both. `open_store` migrates to the
newest schema first. Every method is one transaction and safe to call from several threads and several processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from wardround.records import ApiTokenRecord, NodeRecord, TokenRecord
from wardround.store import schema
from wardround.store.masking import tables_with, write_over
from wardround.store.opening import migrate, open_engine, shown
from wardround.store.records import (
    AlertRecord,
    CertificateRecord,
    EdgeRecord,
    Happening,
    JobRequest,
    JobRunRecord,
    ModelRecord,
    Person,
    Quarantined,
    Request,
    RoundRecord,
    SecondFactor,
    StudyRecord,
    StudyRequest,
)

__all__ = [
    "AlertRecord",
    "CertificateRecord",
    "EdgeRecord",
    "Happening",
    "JobRequest",
    "JobRunRecord",
    "ModelRecord",
    "Person",
    "Quarantined",
    "Request",
    "RoundRecord",
    "SecondFactor",
    "Store",
    "StudyRecord",
    "StudyRequest",
    "open_store",
]

HAPPENINGS_MAX = 10_000
JOB_RUNS_MAX = 1_000
STUDY_REQUESTS_MAX = 1_000
REQUESTS_MAX = 1_000
QUARANTINE_MAX = 100_000
ROWS_AT_ONCE = 1_000  # in one statement: databases bound its values
LIVE_CERTIFICATES_MAX = 32  # of one edge: an edge that asks without end is told to wait
KEEP_EXPIRED_US = 90 * 86_400_000_000


def open_store(path: Path | str) -> Store:
    """Open (and migrate) the store: a SQLite file, or an SQLAlchemy URL.

    Of a `hub.sqlite` beside a hub.toml that names a database (`store.url`), that database is opened instead.

    Raises:
        WardroundError: it cannot be opened, or is of a later version.
    """
    engine = open_engine(path)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)


class Store:
    """The repositories over one engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Release every connection."""
        self._engine.dispose()

    @property
    def where(self) -> str:
        """Where the records are, for people."""
        return shown(self._engine)

    @property
    def engine(self) -> sa.Engine:
        """The engine, for what the store's own modules do beside records."""
        return self._engine

    # -- edges and tokens

    def put_edge(self, edge: EdgeRecord) -> None:
        """Add an edge, or note its new certificate."""
        self._upsert(schema.edges, ["name"], _values(edge))

    def edge(self, name: str) -> EdgeRecord | None:
        """One of them."""
        rows = list(self._rows(sa.select(schema.edges).where(schema.edges.c.name == name)))
        return EdgeRecord(**rows[0]) if rows else None

    def edges(self) -> list[EdgeRecord]:
        """Every edge, by name."""
        table = schema.edges
        columns = [table.c[name] for name in EdgeRecord.__slots__]
        with self._engine.connect() as db:  # some thousand of them, asked for several times a second
            found = [EdgeRecord(*row) for row in db.execute(sa.select(*columns))]
        return sorted(found, key=attrgetter("name"))

    def joined(self, certificate: CertificateRecord) -> None:
        """An edge has joined with a token, perhaps again: it is no longer revoked, and what it held before is."""
        table, edges = schema.certificates, schema.edges
        now_us = certificate.issued_us
        edge = EdgeRecord(certificate.edge, now_us, certificate.serial, certificate.not_after_us, None)
        with self._engine.begin() as db:
            db.execute(sa.update(table).where(table.c.edge == edge.name, table.c.revoked_us.is_(None)).values(revoked_us=now_us))
            db.execute(sa.insert(table).values(**_values(certificate)))
            db.execute(self._put(edges, ["name"], [_values(edge)]))  # two joins at once: one after the other
            db.execute(sa.delete(table).where(table.c.not_after_us < now_us - KEEP_EXPIRED_US))

    def renewed(self, certificate: CertificateRecord) -> bool:
        """Note an edge's next certificate; False, and nothing noted, when it is revoked, unknown, or has too many that live."""
        table, edges = schema.certificates, schema.edges
        name, now_us = certificate.edge, certificate.issued_us
        with self._engine.connect() as db:  # nothing stays unless it is committed
            changed = {"serial": certificate.serial, "not_after_us": certificate.not_after_us}
            current = sa.update(edges).where(edges.c.name == name, edges.c.revoked_us.is_(None)).values(**changed)
            live = sa.select(sa.func.count()).where(table.c.edge == name, table.c.not_after_us > now_us)
            if db.execute(current).rowcount != 1 or db.execute(live).scalar_one() >= LIVE_CERTIFICATES_MAX:
                return False
            db.execute(sa.insert(table).values(**_values(certificate)))
            db.execute(sa.delete(table).where(table.c.not_after_us < now_us - KEEP_EXPIRED_US))
            db.commit()
        return True

    def certificates(self, edge: str = "") -> list[CertificateRecord]:
        """Every certificate, or those of one edge, oldest first."""
        table = schema.certificates
        query = sa.select(table).order_by(table.c.issued_us)
        return [CertificateRecord(**row) for row in self._rows(query.where(table.c.edge == edge) if edge else query)]

    def certificate_ends(self) -> dict[str, tuple[int, int]]:
        """Of each edge that is not revoked: when its newest certificate was issued, and when it ends."""
        table, edges = schema.certificates, schema.edges
        query = sa.select(edges.c.name, table.c.issued_us, edges.c.not_after_us).select_from(
            edges.outerjoin(table, edges.c.serial == table.c.serial)
        )
        found = {}
        for row in self._rows(query.where(edges.c.revoked_us.is_(None))):
            forgotten = row["issued_us"] is None  # it ended long ago
            found[row["name"]] = (row["not_after_us"] if forgotten else row["issued_us"], row["not_after_us"])
        return found

    def denied(self, now_us: int) -> tuple[frozenset[str], frozenset[str]]:
        """The deny-list: names of revoked edges, serials of revoked certificates that have not ended by themselves."""
        edges, table = schema.edges, schema.certificates
        names = self._rows(sa.select(edges.c.name).where(edges.c.revoked_us.is_not(None)))
        serials = self._rows(sa.select(table.c.serial).where(table.c.revoked_us.is_not(None), table.c.not_after_us > now_us))
        return frozenset(r["name"] for r in names), frozenset(r["serial"] for r in serials)

    def revoke_edge(self, name: str, now_us: int) -> bool:
        """Put an edge and every certificate it holds on the deny-list; False when there is none of that name."""
        edges, table = schema.edges, schema.certificates
        with self._engine.begin() as db:
            db.execute(sa.update(table).where(table.c.edge == name, table.c.revoked_us.is_(None)).values(revoked_us=now_us))
            return db.execute(sa.update(edges).where(edges.c.name == name).values(revoked_us=now_us)).rowcount == 1

    def revoke_certificate(self, serial: str, now_us: int) -> str:
        """Put one certificate on the deny-list; whose it is, or empty when there is none."""
        table = schema.certificates
        with self._engine.begin() as db:
            db.execute(sa.update(table).where(table.c.serial == serial, table.c.revoked_us.is_(None)).values(revoked_us=now_us))
            return db.execute(sa.select(table.c.edge).where(table.c.serial == serial)).scalar() or ""

    def add(self, record: TokenRecord) -> None:
        """Keep a join token (trust.join.TokenStore)."""
        with self._engine.begin() as db:
            db.execute(sa.insert(schema.tokens).values(**_values(record)))

    def get(self, token_id: str) -> TokenRecord | None:
        """A join token by id (trust.join.TokenStore)."""
        rows = list(self._rows(sa.select(schema.tokens).where(schema.tokens.c.token_id == token_id)))
        return TokenRecord(**rows[0]) if rows else None

    def burn(self, token_id: str, used_by: bytes) -> bool:
        """Mark a token as used by a key, once; True for the key that did it (trust.join.TokenStore)."""
        table = schema.tokens
        with self._engine.begin() as db:
            db.execute(sa.update(table).where(table.c.token_id == token_id, table.c.used_by.is_(None)).values(used_by=used_by))
            return db.execute(sa.select(table.c.used_by).where(table.c.token_id == token_id)).scalar() == used_by

    # -- people

    def put_api_token(self, token: ApiTokenRecord) -> None:
        """Keep a new token of the API. Tokens that ended a quarter of a year ago are forgotten."""
        table = schema.api_tokens
        with self._engine.begin() as db:
            db.execute(sa.delete(table).where(table.c.expires_us < token.created_us - KEEP_EXPIRED_US))
            db.execute(sa.insert(table).values(**_values(token)))

    def api_tokens(self) -> list[ApiTokenRecord]:
        """Every token of the API, the oldest first."""
        table = schema.api_tokens
        return [ApiTokenRecord(**row) for row in self._rows(sa.select(table).order_by(table.c.created_us))]

    def api_token(self, token_id: str) -> ApiTokenRecord | None:
        """One of them."""
        rows = list(self._rows(sa.select(schema.api_tokens).where(schema.api_tokens.c.token_id == token_id)))
        return ApiTokenRecord(**rows[0]) if rows else None

    def api_token_used(self, token_id: str, now_us: int) -> None:
        """Note when a token was last used."""
        table = schema.api_tokens
        with self._engine.begin() as db:
            db.execute(sa.update(table).where(table.c.token_id == token_id).values(used_us=now_us))

    def revoke_api_token(self, token_id: str, now_us: int) -> bool:
        """It opens nothing any more; False when there is none that lives."""
        table = schema.api_tokens
        lives = sa.and_(table.c.token_id == token_id, table.c.revoked_us.is_(None))
        with self._engine.begin() as db:
            return bool(db.execute(sa.update(table).where(lives).values(revoked_us=now_us)).rowcount)

    def put_person(self, person: Person) -> None:
        """Add or change someone."""
        self._upsert(schema.people, ["name"], _values(person))

    def people(self) -> list[Person]:
        """Everybody who may sign in, by name."""
        return sorted((Person(**row) for row in self._rows(sa.select(schema.people))), key=lambda r: r.name)

    def person(self, name: str) -> Person | None:
        """Someone by name."""
        rows = list(self._rows(sa.select(schema.people).where(schema.people.c.name == name)))
        return Person(**rows[0]) if rows else None

    def seen(self, name: str, now_us: int) -> None:
        """Note that someone looked."""
        with self._engine.begin() as db:
            db.execute(sa.update(schema.people).where(schema.people.c.name == name).values(seen_us=now_us))

    def remove_person(self, name: str) -> bool:
        """Someone may sign in no more: with their second factor and their tokens; False when nobody is called so."""
        with self._engine.begin() as db:
            db.execute(sa.delete(schema.second_factors).where(schema.second_factors.c.person == name))
            db.execute(sa.delete(schema.api_tokens).where(schema.api_tokens.c.person == name))
            return bool(db.execute(sa.delete(schema.people).where(schema.people.c.name == name)).rowcount)

    def put_second_factor(self, factor: SecondFactor) -> None:
        """Begin someone's second factor anew."""
        self._upsert(schema.second_factors, ["person"], _values(factor))

    def second_factor(self, person: str) -> SecondFactor | None:
        """Someone's, whether it is confirmed or not."""
        table = schema.second_factors
        rows = list(self._rows(sa.select(table).where(table.c.person == person)))
        return SecondFactor(**{**rows[0], "recovery": tuple(rows[0]["recovery"])}) if rows else None

    def use_second_factor(self, before: SecondFactor, after: SecondFactor) -> bool:
        """Note that a code was used; False, and nothing noted, when another process has changed it since `before` was read."""
        table = schema.second_factors
        same = sa.and_(
            table.c.person == before.person,
            table.c.secret == before.secret,
            table.c.used_step == before.used_step,
            table.c.confirmed_us.is_(None) if before.confirmed_us is None else table.c.confirmed_us == before.confirmed_us,
        )
        values = {"used_step": after.used_step, "confirmed_us": after.confirmed_us, "recovery": list(after.recovery)}
        with self._engine.begin() as db:
            return bool(db.execute(sa.update(table).where(same).values(**values)).rowcount)

    def remove_second_factor(self, person: str) -> bool:
        """Someone signs in with the password alone; False when there was none."""
        table = schema.second_factors
        with self._engine.begin() as db:
            return bool(db.execute(sa.delete(table).where(table.c.person == person)).rowcount)

    # -- studies and rounds

    def add_study(self, study: StudyRecord) -> bool:
        """Add a study, unless there is one of this name, whoever else adds one meanwhile; whether it was added."""
        with self._engine.begin() as db:
            insert = self._insert(schema.studies).values(**_values(study)).on_conflict_do_nothing()
            return db.execute(insert.returning(schema.studies.c.name)).first() is not None

    def put_study(self, study: StudyRecord) -> None:
        """Add a study, or note its new state."""
        self._upsert(schema.studies, ["name"], _values(study))

    def study(self, name: str) -> StudyRecord | None:
        """One of them."""
        rows = list(self._rows(sa.select(schema.studies).where(schema.studies.c.name == name)))
        return StudyRecord(**rows[0]) if rows else None

    def studies(self) -> list[StudyRecord]:
        """Every study, oldest first."""
        return [StudyRecord(**row) for row in self._rows(sa.select(schema.studies).order_by(schema.studies.c.created_us))]

    def put_round(self, record: RoundRecord) -> None:
        """Note a committed round; the same one again changes nothing."""
        self._upsert(schema.rounds, ["study", "number"], _values(record))

    def rounds(self, study: str, newest: int | None = None, before: int | None = None) -> list[RoundRecord]:
        """The committed rounds of a study, or the newest of them, in order; `before`: of those with a smaller number."""
        return [RoundRecord(**r) for r in self._rows(_newest(schema.rounds, study, newest, before))][::-1]

    # -- models, and what is asked of studies

    def rounds_committed(self, studies: Collection[str]) -> dict[str, int]:
        """How many committed rounds of these studies are kept; none for a study that has none."""
        study = schema.rounds.c.study
        with self._engine.connect() as db:
            counted = db.execute(sa.select(study, sa.func.count()).where(study.in_(studies)).group_by(study))
            return {str(name): int(count) for name, count in counted}

    def put_models(self, records: Sequence[ModelRecord]) -> None:
        """Add models, or note where they stand now: all of them, or none."""
        if records:
            self._upsert(schema.models, ["study", "number"], [_values(r) for r in records])

    def models(self, study: str, newest: int | None = None, before: int | None = None) -> list[ModelRecord]:
        """The models of a study, or the newest of them, oldest first; `before`: of those with a smaller number."""
        return [ModelRecord(**r) for r in self._rows(_newest(schema.models, study, newest, before))][::-1]

    def studies_in_use(self) -> set[str]:
        """Studies of which a model is current or canary."""
        table = schema.models
        query = sa.select(table.c.study).where(table.c.stage.in_(("current", "canary"))).distinct()
        return {row["study"] for row in self._rows(query)}

    def put_study_request(self, request: StudyRequest) -> None:
        """Ask something of a study, or note the answer; the oldest answered ones go beyond STUDY_REQUESTS_MAX."""
        table = schema.study_requests
        self._upsert(table, ["request_id"], _values(request))
        if request.state != "asked":
            newest = sa.select(table.c.request_id).order_by(table.c.asked_us.desc()).limit(STUDY_REQUESTS_MAX)
            with self._engine.begin() as db:
                db.execute(sa.delete(table).where(table.c.request_id.not_in(newest), table.c.state != "asked"))

    def study_requests(self, *, asked: bool = True) -> list[StudyRequest]:
        """What nobody has answered yet, or everything; oldest first."""
        table = schema.study_requests
        query = sa.select(table).order_by(table.c.asked_us)
        return [StudyRequest(**row) for row in self._rows(query.where(table.c.state == "asked") if asked else query)]

    def study_request(self, request_id: str) -> StudyRequest | None:
        """One of them."""
        table = schema.study_requests
        rows = list(self._rows(sa.select(table).where(table.c.request_id == request_id)))
        return StudyRequest(**rows[0]) if rows else None

    # -- what is asked of the hub

    def put_request(self, request: Request) -> None:
        """Ask something, or note the answer; the oldest answered ones go beyond REQUESTS_MAX."""
        table = schema.requests
        self._upsert(table, ["request_id"], _values(request))
        if request.state != "asked":
            newest = sa.select(table.c.request_id).order_by(table.c.asked_us.desc()).limit(REQUESTS_MAX)
            with self._engine.begin() as db:
                db.execute(sa.delete(table).where(table.c.request_id.not_in(newest), table.c.state != "asked"))

    def requests(self, topic: str) -> list[Request]:
        """What nobody has answered yet, oldest first."""
        table = schema.requests
        query = sa.select(table).where(table.c.topic == topic, table.c.state == "asked").order_by(table.c.asked_us)
        return [Request(**row) for row in self._rows(query)]

    def request(self, request_id: str) -> Request | None:
        """One of them."""
        rows = list(self._rows(sa.select(schema.requests).where(schema.requests.c.request_id == request_id)))
        return Request(**rows[0]) if rows else None

    # -- alerts, happenings, quarantine

    def put_alert(self, alert: AlertRecord) -> None:
        """Add an alert, or note its new state."""
        self.put_alerts([alert])

    def put_alerts(self, alerts: Sequence[AlertRecord]) -> None:
        """Add alerts, or note their new states, all of them or none; of one that is there twice the last state counts."""
        rows = list({alert.alert_id: _values(alert) for alert in alerts}.values())
        with self._engine.begin() as db:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                db.execute(self._put(schema.alerts, ["alert_id"], rows[start : start + ROWS_AT_ONCE]))

    def alerts(self, *, limit: int = 500) -> list[AlertRecord]:
        """The newest alerts first."""
        query = sa.select(schema.alerts).order_by(schema.alerts.c.raised_us.desc()).limit(limit)
        return [AlertRecord(**row) for row in self._rows(query)]

    def happened(self, happening: Happening) -> None:
        """Add a line to what happened; the oldest go beyond HAPPENINGS_MAX."""
        self._append(schema.happenings, _values(happening), HAPPENINGS_MAX)

    def happenings(self, *, limit: int = 50) -> list[Happening]:
        """The newest first."""
        table = schema.happenings
        query = sa.select(table.c.t_us, table.c.title, table.c.detail).order_by(table.c.number.desc()).limit(limit)
        return [Happening(**row) for row in self._rows(query)]

    def set_aside(self, row: Quarantined) -> None:
        """Note something refused."""
        self._append(schema.quarantine, _values(row), QUARANTINE_MAX)

    def quarantined(self, *, limit: int = 1_000) -> list[Quarantined]:
        """The newest first."""
        table = schema.quarantine
        columns = [c for c in table.c if c.name != "number"]
        return [Quarantined(**r) for r in self._rows(sa.select(*columns).order_by(table.c.number.desc()).limit(limit))]

    def quarantine_count(self) -> int:
        """How many rows were set aside and are still kept."""
        with self._engine.connect() as db:
            return int(db.execute(sa.select(sa.func.count()).select_from(schema.quarantine)).scalar_one())

    # -- nodes and jobs

    def put_node(self, node: NodeRecord) -> None:
        """Add a node, or change one."""
        self._upsert(schema.nodes, ["name"], _values(node))

    def nodes(self) -> list[NodeRecord]:
        """Every node, by name."""
        return sorted((NodeRecord(**row) for row in self._rows(sa.select(schema.nodes))), key=lambda r: r.name)

    def remove_node(self, name: str) -> bool:
        """Whether there was one."""
        with self._engine.begin() as db:
            return db.execute(sa.delete(schema.nodes).where(schema.nodes.c.name == name)).rowcount > 0

    def put_job_run(self, run: JobRunRecord) -> None:
        """Add a run, or note its progress; the oldest go beyond JOB_RUNS_MAX."""
        self._upsert(schema.job_runs, ["run_id"], _values(run))
        if run.state != "running":
            table = schema.job_runs
            newest = sa.select(table.c.run_id).order_by(table.c.started_us.desc()).limit(JOB_RUNS_MAX)
            with self._engine.begin() as db:
                db.execute(sa.delete(table).where(table.c.run_id.not_in(newest)))

    def job_runs(self, *, limit: int = 50) -> list[JobRunRecord]:
        """The newest first."""
        query = sa.select(schema.job_runs).order_by(schema.job_runs.c.started_us.desc()).limit(limit)
        return [JobRunRecord(**row) for row in self._rows(query)]

    def ask_job(self, request: JobRequest) -> None:
        """Ask the hub to run, retry or stop."""
        self._upsert(schema.job_requests, ["request_id"], _values(request))

    def job_requests(self) -> list[JobRequest]:
        """What nobody has taken up yet, oldest first."""
        table = schema.job_requests
        return [JobRequest(**row) for row in self._rows(sa.select(table).order_by(table.c.asked_us))]

    def take_job_request(self, request_id: str) -> bool:
        """Take a request up; False when it is gone already."""
        table = schema.job_requests
        with self._engine.begin() as db:
            return db.execute(sa.delete(table).where(table.c.request_id == request_id)).rowcount > 0

    # -- erasure

    def mask(self, text: str, mask: str) -> int:
        """Write `mask`, which is as long, over `text` wherever it stands; how many cells (masking.py)."""
        return write_over(self._engine, text, mask)

    def holding(self, text: str) -> list[str]:
        """Tables with a cell that holds a text, whole or as a part."""
        return tables_with(self._engine, text)

    # -- saved state

    def save_state(self, key: str, value: bytes) -> None:
        """Keep a part's state."""
        self._upsert(schema.state, ["key"], {"key": key, "value": value})

    def load_state(self, key: str) -> bytes | None:
        """A part's saved state."""
        with self._engine.connect() as db:
            value: bytes | None = db.execute(sa.select(schema.state.c.value).where(schema.state.c.key == key)).scalar()
            return value

    # -- how

    def _rows(self, query: sa.Select[Any]) -> Iterator[dict[str, Any]]:
        with self._engine.connect() as db:
            for row in db.execute(query).mappings():
                yield dict(row)

    def _upsert(self, table: sa.Table, keys: list[str], values: Mapping[str, Any] | list[dict[str, Any]]) -> None:
        with self._engine.begin() as db:
            db.execute(self._put(table, keys, values if isinstance(values, list) else [dict(values)]))

    def _insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        return postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)

    def _put(self, table: sa.Table, keys: list[str], rows: list[dict[str, Any]]) -> sa.Executable:
        statement = self._insert(table).values(rows)
        changed = {k: statement.excluded[k] for k in rows[0] if k not in keys}
        return statement.on_conflict_do_update(index_elements=keys, set_=changed)

    def _append(self, table: sa.Table, values: Mapping[str, Any], most: int) -> None:
        with self._engine.begin() as db:
            number = db.execute(sa.insert(table).values(**values)).inserted_primary_key
            if number is not None and number[0] % 100 == 0:
                db.execute(sa.delete(table).where(table.c.number <= number[0] - most))


@contextmanager
def opened(path: Path | str) -> Iterator[Store]:
    """A store for the length of a command."""
    store = open_store(path)
    try:
        yield store
    finally:
        store.close()


def _newest(table: sa.Table, study: str, newest: int | None, before: int | None) -> sa.Select[Any]:
    """The rows of a study, the newest first."""
    wanted = sa.select(table).where(table.c.study == study)
    if before is not None:
        wanted = wanted.where(table.c.number < before)
    return wanted.order_by(table.c.number.desc()).limit(newest)


def _values(record: Any) -> dict[str, Any]:
    return {name: schema.storable(getattr(record, name)) for name in record.__slots__}
