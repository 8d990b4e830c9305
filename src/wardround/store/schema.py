"""The hub's records, as tables: one schema on SQLite and PostgreSQL. Times are microseconds since 1970 UTC."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

edges = sa.Table(
    "edges",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("joined_us", sa.BigInteger, nullable=False),
    sa.Column("serial", sa.Text, nullable=False),
    sa.Column("not_after_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_us", sa.BigInteger),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("serial", sa.Text, primary_key=True),
    sa.Column("edge", sa.Text, nullable=False),
    sa.Column("issued_us", sa.BigInteger, nullable=False),
    sa.Column("not_after_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_us", sa.BigInteger),
    sa.Index("certificates_by_edge", "edge", "not_after_us"),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("token_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("used_by", sa.LargeBinary),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("token_id", sa.Text, primary_key=True),
    sa.Column("person", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("used_us", sa.BigInteger),
    sa.Column("revoked_us", sa.BigInteger),
)

people = sa.Table(
    "people",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("seen_us", sa.BigInteger),
)

second_factors = sa.Table(
    "second_factors",
    metadata,
    sa.Column("person", sa.Text, primary_key=True),
    sa.Column("secret", sa.LargeBinary, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("confirmed_us", sa.BigInteger),
    sa.Column("used_step", sa.BigInteger, nullable=False),
    sa.Column("recovery", sa.JSON, nullable=False),
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("toml", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # requested, running, paused, stopped, finished, failed
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("changed_us", sa.BigInteger, nullable=False),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("committed_us", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),  # participants, refused, scores
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert_id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("raised_us", sa.BigInteger, nullable=False),
    sa.Column("changed_us", sa.BigInteger, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Index("alerts_by_raised", "raised_us"),
)

happenings = sa.Table(
    "happenings",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("t_us", sa.BigInteger, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("t_us", sa.BigInteger, nullable=False),
    sa.Column("edge", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),  # observation, update
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

state = sa.Table(
    "state",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),  # a part's saved state: the alert book, the screen
    sa.Column("value", sa.LargeBinary, nullable=False),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("workers", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("cpus", sa.Float, nullable=False),
    sa.Column("lake", sa.Text, nullable=False),
    sa.Column("drained", sa.Boolean, nullable=False),
    sa.Column("added_us", sa.BigInteger, nullable=False),
)

job_runs = sa.Table(
    "job_runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("started_us", sa.BigInteger, nullable=False),
    sa.Column("changed_us", sa.BigInteger, nullable=False),
    sa.Column("parts_done", sa.Integer, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
)
sa.Index("job_runs_by_started", job_runs.c.started_us)

job_requests = sa.Table(
    "job_requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("asked_us", sa.BigInteger, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),  # of the round that made it
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("parent", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("since_round", sa.Integer, nullable=False),
    sa.Column("made_us", sa.BigInteger, nullable=False),
    sa.Column("changed_us", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),  # lineage, scores, calibration, signature, why it stands where it does
)

study_requests = sa.Table(
    "study_requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # rollback, promote, pause, resume, stop
    sa.Column("to_round", sa.Integer, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("asked_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # asked, done, refused
    sa.Column("answer", sa.Text, nullable=False),
)
sa.Index("study_requests_by_asked", study_requests.c.asked_us)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),  # alerts
    sa.Column("act", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("asked_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # asked, done, refused
    sa.Column("answer", sa.Text, nullable=False),
)
sa.Index("requests_by_asked", requests.c.asked_us)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("term", sa.BigInteger, nullable=False),
    sa.Column("ends_us", sa.BigInteger, nullable=False),  # by the database's own clock
)

hand_overs = sa.Table(
    "hand_overs",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("part", sa.Text, nullable=False),  # clinical, technical
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("written_us", sa.BigInteger, nullable=False),
    sa.Column("hours", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("confirmed_by", sa.Text, nullable=False),
    sa.Column("confirmed_us", sa.BigInteger, nullable=False),  # 0: nobody has
)


def storable(value: Any) -> Any:
    """A text as both databases can hold it: PostgreSQL has no NUL in a text, and neither has a lone surrogate."""
    if not isinstance(value, str):
        return value
    return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
