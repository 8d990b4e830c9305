"""From the hub's read models and records to what goes over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from wardround.api import resources as r
from wardround.api.pages import newest_first
from wardround.clock import utc
from wardround.console.model import AlertView, EdgeView, Line, Overview
from wardround.store.records import EdgeRecord, ModelRecord, RoundRecord, StudyRequest

EdgeState = Literal["connected", "silent", "set-aside", "revoked"]


def edge_state(record: EdgeRecord, view: EdgeView | None) -> EdgeState:
    """How an edge stands, by what is known of it now."""
    return "revoked" if record.revoked_us is not None else view.state if view is not None else "silent"


def edge_resource(record: EdgeRecord, view: EdgeView | None) -> r.Edge:
    """An edge, with what is known of it now."""
    view = view if record.revoked_us is None else None
    return r.Edge(
        name=record.name,
        state=edge_state(record, view),
        joined=utc(record.joined_us),
        silent_s=view.silent_s if view is not None else 0.0,
        spooled=view.spooled if view is not None else 0,
        observations_per_s=view.per_s if view is not None else 0.0,
        certificate_ends=utc(record.not_after_us),
        revoked=time_or_none(record.revoked_us or 0),
    )


def round_resource(record: RoundRecord) -> r.Round:
    """A committed round."""
    return r.Round(
        number=record.number,
        committed=utc(record.committed_us),
        seconds=record.seconds,
        model=record.model,
        folded=sorted(record.facts.get("folded", ())),
        set_aside=sorted(record.facts.get("aside", ())),
    )


def model_resource(record: ModelRecord) -> r.Model:
    """A model of the registry."""
    return r.Model(
        number=record.number,
        model=record.model,
        parent=record.parent,
        stage=record.stage,
        since_round=record.since_round,
        made=utc(record.made_us),
    )


def hub_resource(view: Overview) -> r.Hub:
    """The numbers of the first page."""
    return r.Hub(
        name=view.hub,
        site=view.site,
        version=view.version,
        now=utc(view.now_us),
        simulated=view.simulated,
        subjects=view.subjects,
        edges=len(view.edges),
        edges_silent=sum(edge.state == "silent" for edge in view.edges),
        studies=view.studies,
        alerts_open=len(view.open_alerts),
        samples_per_s=view.samples_per_s,
        waiting=view.waiting,
        set_aside=view.set_aside,
        behind_s=view.behind_s,
    )


def happening_resource(line: Line) -> r.Happening:
    """A line of what happened."""
    return r.Happening(at=utc(line.t_us), title=line.title, detail=line.detail)


def alert_resource(view: AlertView) -> r.Alert:
    """An alert as people see it."""
    return r.Alert(
        id=view.alert_id,
        title=view.title,
        detail=view.detail,
        priority=view.priority,
        category=view.category,
        open=view.open,
        needs_person=view.needs_person,
        since=utc(view.since_us),
        raised=utc(view.raised_us),
        acknowledged_by=view.acknowledged_by,
        response=view.response,
        action=view.action,
        undo=view.undo_words,
    )


def alert_key(view: AlertView) -> str:
    """The order of alerts: the newest first."""
    return newest_first(view.raised_us) + view.alert_id


def answer_resource(request: StudyRequest) -> r.StudyAnswer:
    """What became of a request."""
    return r.StudyAnswer(
        id=request.request_id,
        kind=request.kind,
        state="asked" if request.state == "asked" else "done" if request.state == "done" else "refused",
        answer=request.answer,
        asked=utc(request.asked_us),
    )


def time_or_none(t_us: int) -> datetime | None:
    """A time; none for 0, which means never."""
    return utc(t_us) if t_us else None


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return round(at.timestamp() * 1e6)
