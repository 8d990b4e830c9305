"""Where a hub's records are: a SQLite file in its home, or the PostgreSQL database that its hub.toml names.

Everything that opens a home's `hub.sqlite` comes through here, so a hub, its commands and its backups agree about it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from wardround.errors import SettingsError, WardroundError
from wardround.settings import HubSettings, StoreSettings, load_settings

RECORDS = "hub.sqlite"
MIGRATIONS = 0x57_52_4D  # the advisory lock of a migration: two programs that start at once migrate one after the other
_MIGRATING = threading.Lock()
LOCAL = ("", "localhost", "127.0.0.1", "::1")
BOUNDS = {  # every wait for the database has an end, and so does a connection whose other side is gone
    "connect_timeout": "10",
    "application_name": "wardround",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "options": "-c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s -c timezone=UTC",
}
HOW = "createuser wardround; createdb --owner wardround wardround"


def elsewhere(path: Path) -> StoreSettings | None:
    """The database that holds the records of the home of this `hub.sqlite`; None: the file does.

    Raises:
        SettingsError: hub.toml does not hold.
    """
    document = path.parent / "hub.toml"
    if path.name != RECORDS or not document.exists():
        return None
    settings = load_settings(document, HubSettings).store
    return settings if settings.url else None


def open_engine(path: Path | str) -> sa.Engine:
    """An engine over a SQLite file, over the database of its home, or over an SQLAlchemy URL; not migrated yet.

    Raises:
        SettingsError: hub.toml does not hold, or the home has its records twice.
    """
    if isinstance(path, Path):
        settings = elsewhere(path)
        if settings is None:
            return open_engine(f"sqlite:///{path}")
        if path.exists():
            raise SettingsError(
                f"the records are in two places: {path}, and the database that hub.toml names",
                remedy="`wardround store copy` takes the file over into an empty database; or remove the one that is not right",
            )
        return open_database(settings, path.parent)
    if path.startswith("sqlite"):
        engine = sa.create_engine(path, connect_args={"timeout": 10.0})
        sa.event.listen(engine, "connect", _sqlite_pragmas)
        return engine
    return open_database(StoreSettings(url=path), Path())


def open_database(settings: StoreSettings, home: Path) -> sa.Engine:
    """An engine over the PostgreSQL database of `[store]`.

    Raises:
        SettingsError: the URL is none of PostgreSQL, holds a password, or its driver is not installed.
    """
    try:
        url = sa.make_url(settings.url)
    except sa.exc.ArgumentError as exc:
        raise SettingsError("store.url is not a URL", remedy="write it as postgresql://USER@HOST/DATABASE") from exc
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise SettingsError(f"store.url names `{url.drivername}`", remedy="only postgresql:// is known; empty: a SQLite file")
    if url.password is not None or "password" in url.query:
        raise SettingsError(
            "store.url holds a password", remedy="put it into a file of mode 0600 and name that: store.password_file"
        )
    known = {**BOUNDS, **{key: str(value) for key, value in url.query.items()}}
    host = url.host or str(url.query.get("host", ""))
    if host not in LOCAL and not host.startswith("/"):
        known.setdefault("sslmode", "verify-full")
        known.setdefault("sslrootcert", "system")
    if settings.password_file:
        known["password"] = _secret(home / settings.password_file)
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg", query={}),
            connect_args=known,
            pool_size=5,
            max_overflow=15,
            pool_timeout=10.0,
            json_serializer=_json,
            pool_pre_ping=True,  # a database that was started again is found so, and not by the first who asks
        )
    except ModuleNotFoundError as exc:
        raise SettingsError("PostgreSQL's driver is not installed", remedy="pip install 'wardround[postgres]'") from exc


def check_new(settings: StoreSettings, home: Path) -> None:
    """Before anything of a new hub is made: its database can be opened, and is nobody's.

    Raises:
        WardroundError: it cannot, or it holds tables.
    """
    if not settings.url:
        return
    engine = open_database(settings, home)
    try:
        tables = sa.inspect(engine).get_table_names()
    except sa.exc.OperationalError as exc:
        raise WardroundError(f"the store {shown(engine)} cannot be opened: {exc.orig}", remedy=f"make it first: {HOW}") from exc
    finally:
        engine.dispose()
    if tables:
        raise SettingsError(f"{shown(engine)} is not empty ({sorted(tables)[0]})", remedy=f"a hub has its own database: {HOW}")


def migrate(engine: sa.Engine, revision: str = "head") -> str:
    """Bring the schema to a revision, forward or back; what it was before (empty: there was nothing).

    Raises:
        WardroundError: the database cannot be opened, or is of a later version of this program.
    """
    config = _config()
    known = _revisions()
    try:
        with _MIGRATING, engine.begin() as connection:  # one thread at a time, as Alembic asks, and one program
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATIONS)))
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            before = MigrationContext.configure(connection).get_current_revision() or ""
            if before and before not in known:
                raise WardroundError(
                    f"the records at {shown(engine)} are of a later Wardround (schema {before}; this one knows {known[0]})",
                    remedy=f"run that version, or with it first: `wardround store migrate --to {known[0]}`",
                )
            target = known[0] if revision == "head" else revision
            if target not in known:
                raise SettingsError(f"there is no schema {target}", remedy=f"known are {', '.join(reversed(known))}")
            back = bool(before) and known.index(target) > known.index(before)
            (command.downgrade if back else command.upgrade)(config, target)
    except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.InternalError) as exc:
        remedy = (
            f"is it running, and the database made? {HOW}"
            if engine.dialect.name == "postgresql"
            else "check the path and the disk"
        )
        raise WardroundError(f"the store {shown(engine)} cannot be opened: {exc.orig}", remedy=remedy) from exc
    except CommandError as exc:
        raise WardroundError(f"the store {shown(engine)} cannot be migrated: {exc}", remedy="restore a backup of it") from exc
    return before


def revision_of(engine: sa.Engine) -> str:
    """The schema of the records as they stand; empty: there are none.

    Raises:
        WardroundError: the database cannot be opened.
    """
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() or ""
    except sa.exc.OperationalError as exc:
        raise WardroundError(f"the store {shown(engine)} cannot be opened: {exc.orig}", remedy="is it running?") from exc


def newest() -> str:
    """The newest schema that this program knows."""
    return _revisions()[0]


def shown(engine: sa.Engine) -> str:
    """Where an engine's records are, for people; no password stands in it."""
    url = engine.url
    return str(url.database) if url.drivername.startswith("sqlite") else url.set(drivername="postgresql").render_as_string()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _revisions() -> list[str]:
    """Every schema that this program knows, the newest first."""
    return [s.revision for s in ScriptDirectory.from_config(_config()).walk_revisions()]


def _json(value: Any) -> str:
    """JSON as PostgreSQL takes it: what is no finite number is null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _secret(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"store.password_file: others may read {path}", remedy=f"chmod 600 {path}")
        return path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise SettingsError(f"store.password_file: {path} cannot be read: {exc.strerror}", remedy="check the path") from exc


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
