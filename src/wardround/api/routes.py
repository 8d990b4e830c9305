"""What there is under /api/v1, and who may. Each route asks one read model or passes on one act; nothing is computed here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query

from wardround.api import resources as r
from wardround.api.callers import Caller, Callers
from wardround.api.one_thread import HereRoute
from wardround.api.pages import Cursor, Limit, Page, newest_first, older_than, page
from wardround.api.problems import Problem, Refused
from wardround.api.repeats import Repeats
from wardround.api.shown import (
    alert_key,
    alert_resource,
    answer_resource,
    edge_resource,
    edge_state,
    happening_resource,
    hub_resource,
    microseconds,
    model_resource,
    round_resource,
    time_or_none,
)
from wardround.clock import utc
from wardround.console.model import AlertView, HoursView, Overview, RoutineView
from wardround.errors import WardroundError
from wardround.store.records import EdgeRecord, JobRunRecord, ModelRecord, RoundRecord, StudyRecord, StudyRequest
from wardround.trust.roles import Act
from wardround.watch.alerts import Silence

Name = Annotated[str, Path(pattern=r.NAME, description="Letters a-z, digits and hyphens.", examples=["icu-a"])]
AlertId = Annotated[str, Path(pattern=r"^[A-Z]-[0-9]{1,9}$", examples=["A-0001"])]
SilenceId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,20}$", examples=["S-0001"])]
RequestId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,60}$", examples=["20260301T083000-1a2b"])]
RepeatKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=100,
        pattern=r"^[\x21-\x7e]*$",
        description="Of your choice: sent again with the same key, the call gets the same answer and is done once.",
    ),
]
T = TypeVar("T")
NEEDS_ROUND = ("rollback", "promote")


class Records(Protocol):
    """What is read of the hub's store."""

    def edges(self) -> list[EdgeRecord]: ...

    def edge(self, name: str) -> EdgeRecord | None: ...

    def studies(self) -> list[StudyRecord]: ...

    def study(self, name: str) -> StudyRecord | None: ...

    def rounds(self, study: str, newest: int | None = None, before: int | None = None) -> list[RoundRecord]: ...

    def rounds_committed(self, studies: Collection[str]) -> dict[str, int]: ...

    def models(self, study: str, newest: int | None = None, before: int | None = None) -> list[ModelRecord]: ...

    def job_runs(self, *, limit: int = 50) -> list[JobRunRecord]: ...

    def put_study_request(self, request: StudyRequest) -> None: ...

    def study_request(self, request_id: str) -> StudyRequest | None: ...


class Desk(Protocol):
    """What the API asks of the hub beside its store."""

    def overview(self) -> Overview:
        """The newest read model."""

    def routines(self) -> tuple[RoutineView, ...]:
        """What the hub does by the clock."""

    def hours(self) -> HoursView | None:
        """How complete each signal came; None while that is being looked up."""

    def silences(self) -> Sequence[Silence]:
        """Those that hold."""

    def answer(self, act: str, body: Mapping[str, Any], who: str) -> str:
        """Do what is asked of alerts; words. Raises WardroundError: it cannot be done, and why."""

    def invite(self, edge: str, who: str) -> tuple[str, float]:
        """A join token, and how long it holds, in seconds. Raises WardroundError."""

    def revoke(self, edge: str, who: str) -> bool:
        """Shut an edge out; False: there is none that is in."""

    def new_request_id(self) -> str:
        """For a `StudyRequest`."""

    def now_us(self) -> int:
        """The hub's time."""


def _refusals(*said: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    """Problems that a route may answer, for its description."""
    problem = {"model": Problem, "content": {"application/problem+json": {}}}
    return {code: problem | {"description": words} for code, words in said}


REFUSALS = _refusals(
    (401, "No token that holds."),
    (403, "Token or role do not cover this."),
    (408, "The body did not come in time."),
    (413, "The body is too large."),
    (422, "A parameter or the body does not hold."),
    (429, "Too many calls; `Retry-After` says when."),
    (503, "The hub cannot answer now, and why."),
)
ABSENT = _refusals((404, "There is no such thing."))
CONFLICT = _refusals((409, "It cannot be done as things stand."))


def make_router(desk: Desk, records: Records, callers: Callers, repeats: Repeats) -> APIRouter:
    """All routes."""
    router = APIRouter(prefix="/api/v1", responses=REFUSALS, route_class=HereRoute)
    _add_hub(router, desk, records, callers)
    _add_edges(router, desk, records, callers, repeats)
    _add_studies(router, records, callers)
    _add_study_requests(router, desk, records, callers, repeats)
    _add_alerts(router, desk, callers)
    return router


def _add_hub(router: APIRouter, desk: Desk, records: Records, callers: Callers) -> None:
    looks = [Depends(callers.may(Act.LOOK))]

    @router.get("/hub", tags=["hub"], dependencies=looks)
    def hub() -> r.Hub:
        """How the hub stands."""
        return hub_resource(desk.overview())

    @router.get("/happenings", tags=["hub"], dependencies=looks)
    def happenings(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[r.Happening]:
        """The newest lines of what happened, the newest first."""
        return [happening_resource(line) for line in desk.overview().happened[:limit]]

    @router.get("/automation", tags=["hub"], dependencies=looks)
    def automation() -> list[r.Routine]:
        """What the hub does by the clock, what is late first."""
        return [
            r.Routine(
                name=row.name,
                title=row.title,
                schedule=row.schedule,
                outcome=row.outcome,
                detail=row.detail,
                last=time_or_none(row.last_us),
                seconds=row.seconds,
                next=time_or_none(row.next_us),
                late_s=row.late_s,
            )
            for row in desk.routines()
        ]

    @router.get("/jobs", tags=["processing"], dependencies=looks)
    def jobs(limit: Limit = 50, cursor: Cursor = "") -> Page[r.JobRun]:
        """Runs of processing jobs, the newest first; the newest thousand are kept in reach."""

        def key(run: r.JobRun) -> str:
            return newest_first(microseconds(run.started)) + run.id

        runs = [
            r.JobRun(
                id=run.run_id,
                job=run.job,
                state=run.state,
                started=utc(run.started_us),
                changed=utc(run.changed_us),
                parts_done=run.parts_done,
                parts=run.parts,
                failed=run.failed,
                rows=run.rows,
            )
            for run in records.job_runs(limit=1_000)
        ]
        runs.sort(key=key)
        return page(runs, key, limit=limit, cursor=cursor)

    @router.get("/completeness", tags=["processing"], dependencies=looks)
    def completeness(limit: Limit = 50, cursor: Cursor = "") -> Page[r.Completeness]:
        """How complete each signal of each patient came, by pseudonym."""
        found = desk.hours()
        if found is None:
            raise Refused(503, "it is being looked up", remedy="ask again in a few seconds", headers={"Retry-After": "5"})
        shown = page(found.by_name, lambda row: f"{row.subject}\0{row.code}", limit=limit, cursor=cursor)
        rows = [
            r.Completeness(
                subject=row.subject,
                code=row.code,
                title=row.title,
                first=utc(row.first_us),
                shares=list(row.shares),
                mean=row.mean,
            )
            for row in shown.items
        ]
        return Page[r.Completeness](items=rows, next=shown.next)


def _add_edges(router: APIRouter, desk: Desk, records: Records, callers: Callers, repeats: Repeats) -> None:
    looks = [Depends(callers.may(Act.LOOK))]
    May = Annotated[Caller, Depends(callers.may(Act.EDGES))]  # noqa: N806 - a type, for FastAPI

    @router.get("/edges", tags=["edges"], dependencies=looks)
    def edges(
        state: Annotated[Literal["connected", "silent", "set-aside", "revoked", ""], Query()] = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> Page[r.Edge]:
        """Every edge that has joined, by name."""
        views = {view.name: view for view in desk.overview().edges}
        by_name = sorted(records.edges(), key=lambda record: record.name)  # a database may have an order of its own
        chosen = [record for record in by_name if not state or edge_state(record, views.get(record.name)) == state]
        shown = page(chosen, lambda record: record.name, limit=limit, cursor=cursor)
        return Page[r.Edge](items=[edge_resource(record, views.get(record.name)) for record in shown.items], next=shown.next)

    @router.get("/edges/{edge}", tags=["edges"], dependencies=looks, responses=ABSENT)
    def edge(edge: Name) -> r.Edge:
        """One edge."""
        record = records.edge(edge)
        if record is None:
            raise _absent(f"no edge is called {edge}", "/api/v1/edges")
        return edge_resource(record, next((view for view in desk.overview().edges if view.name == edge), None))

    @router.post("/edges/{edge}/invitation", tags=["edges"], status_code=201, responses=CONFLICT)
    def invite(edge: Name, who: May, key: RepeatKey = "") -> r.Invitation:
        """A join token for one edge of this name. A repeat with the same key is refused: the token is shown once."""

        def made() -> r.Invitation:
            token, seconds = _do(lambda: desk.invite(edge, who.person))
            return r.Invitation(edge=edge, token=token, seconds=seconds)

        return repeats.once(f"invite {edge}", who.token.token_id, key, made, secret=True)

    @router.post("/edges/{edge}/revocation", tags=["edges"], responses=ABSENT)
    def revoke(edge: Name, who: May) -> r.Done:
        """Shut an edge out: its open streams end within two seconds. A new invitation lets it in again."""
        if not desk.revoke(edge, who.person):
            raise _absent(f"no edge is called {edge}, or it is revoked", "/api/v1/edges")
        return r.Done(words=f"{edge} is revoked")


def _add_studies(router: APIRouter, records: Records, callers: Callers) -> None:
    looks = [Depends(callers.may(Act.LOOK))]

    def shown(study: StudyRecord, rounds: int) -> r.Study:
        return r.Study(
            name=study.name,
            state=study.state,
            detail=study.detail,
            created=utc(study.created_us),
            changed=utc(study.changed_us),
            rounds=rounds,
        )

    @router.get("/studies", tags=["studies"], dependencies=looks)
    def studies(limit: Limit = 50, cursor: Cursor = "") -> Page[r.Study]:
        """Every study, by name."""
        chosen = page(
            sorted(records.studies(), key=lambda study: study.name), lambda study: study.name, limit=limit, cursor=cursor
        )
        rounds = records.rounds_committed([study.name for study in chosen.items])
        return Page[r.Study](items=[shown(study, rounds.get(study.name, 0)) for study in chosen.items], next=chosen.next)

    @router.get("/studies/{study}", tags=["studies"], dependencies=looks, responses=ABSENT)
    def study(study: Name) -> r.Study:
        """One study."""
        return shown(_study(records, study), records.rounds_committed([study]).get(study, 0))

    @router.get("/studies/{study}/rounds", tags=["studies"], dependencies=looks, responses=ABSENT)
    def rounds(study: Name, limit: Limit = 50, cursor: Cursor = "") -> Page[r.Round]:
        """Committed rounds, the newest first."""
        newest = records.rounds(_study(records, study).name, limit + 1, older_than(cursor))[::-1]
        chosen = page(newest, lambda record: newest_first(record.number), limit=limit, cursor=cursor)
        return Page[r.Round](items=[round_resource(record) for record in chosen.items], next=chosen.next)

    @router.get("/studies/{study}/models", tags=["studies"], dependencies=looks, responses=ABSENT)
    def models(study: Name, limit: Limit = 50, cursor: Cursor = "") -> Page[r.Model]:
        """Models in the registry, the newest first."""
        newest = records.models(_study(records, study).name, limit + 1, older_than(cursor))[::-1]
        chosen = page(newest, lambda record: newest_first(record.number), limit=limit, cursor=cursor)
        return Page[r.Model](items=[model_resource(record) for record in chosen.items], next=chosen.next)


def _add_study_requests(router: APIRouter, desk: Desk, records: Records, callers: Callers, repeats: Repeats) -> None:
    looks = [Depends(callers.may(Act.LOOK))]
    May = Annotated[Caller, Depends(callers.may(Act.STUDIES))]  # noqa: N806 - a type, for FastAPI

    @router.post("/studies/{study}/requests", tags=["studies"], status_code=202, responses=ABSENT | CONFLICT)
    def ask(study: Name, body: r.StudyAct, who: May, key: RepeatKey = "") -> r.StudyAnswer:
        """Ask something of a study; the hub does it between two steps of a round, and the answer stands at the request's id."""
        if (body.to_round is not None) != (body.kind in NEEDS_ROUND):
            raise Refused(
                422,
                f"body.to_round: a {body.kind} {'needs' if body.to_round is None else 'has no'} round",
                remedy="rollback and promote name a round, the others do not",
            )
        _study(records, study)

        def asked() -> StudyRequest:
            to_round = -1 if body.to_round is None else body.to_round
            kind = "promote-current" if body.kind == "promote" else body.kind
            made = StudyRequest(desk.new_request_id(), study, kind, to_round, who.person, body.reason, desk.now_us())
            records.put_study_request(made)
            return made

        return answer_resource(repeats.once(f"ask {study} {body.model_dump_json()}", who.token.token_id, key, asked))

    @router.get("/studies/{study}/requests/{request}", tags=["studies"], dependencies=looks, responses=ABSENT)
    def request(study: Name, request: RequestId) -> r.StudyAnswer:
        """What became of what was asked."""
        found = records.study_request(request)
        if found is None or found.study != study:
            raise _absent(f"nothing with the id {request} was asked of {study}", f"/api/v1/studies/{study}")
        return answer_resource(found)


def _add_alerts(router: APIRouter, desk: Desk, callers: Callers) -> None:
    looks = [Depends(callers.may(Act.LOOK))]
    MayAcknowledge = Annotated[Caller, Depends(callers.may(Act.ACKNOWLEDGE))]  # noqa: N806 - types, for FastAPI
    MayUndo = Annotated[Caller, Depends(callers.may(Act.UNDO))]  # noqa: N806

    def known(alert_id: str) -> AlertView:
        for alert in desk.overview().alerts:
            if alert.alert_id == alert_id:
                return alert
        raise _absent(f"no alert has the id {alert_id}", "/api/v1/alerts")

    @router.get("/alerts", tags=["alerts"], dependencies=looks)
    def alerts(
        state: Annotated[Literal["open", "resolved", "all"], Query()] = "open", limit: Limit = 50, cursor: Cursor = ""
    ) -> Page[r.Alert]:
        """Alerts, the newest first: all that are open, and the newest resolved ones."""
        found = [alert for alert in desk.overview().alerts if state == "all" or alert.open == (state == "open")]
        found.sort(key=alert_key)
        chosen = page(found, alert_key, limit=limit, cursor=cursor)
        return Page[r.Alert](items=[alert_resource(alert) for alert in chosen.items], next=chosen.next)

    @router.get("/alerts/{alert}", tags=["alerts"], dependencies=looks, responses=ABSENT)
    def alert(alert: AlertId) -> r.Alert:
        """One alert."""
        return alert_resource(known(alert))

    @router.post("/alerts/{alert}/acknowledgement", tags=["alerts"], responses=ABSENT | CONFLICT)
    def acknowledge(alert: AlertId, body: r.Acknowledgement, who: MayAcknowledge) -> r.Done:
        """Someone is on it. It is not escalated any more."""
        known(alert)
        facts = {"alert": alert, "actionable": body.actionable}
        return r.Done(words=_do(lambda: desk.answer("acknowledge", facts, who.person)))

    @router.post("/alerts/{alert}/undo", tags=["alerts"], responses=ABSENT | CONFLICT)
    def undo(alert: AlertId, body: r.Undo, who: MayUndo) -> r.Done:
        """Undo what was done by itself: an edge that was set aside counts again, a study goes on."""
        known(alert)
        return r.Done(words=_do(lambda: desk.answer("undo", {"alert": alert, "reason": body.reason}, who.person)))

    @router.get("/silences", tags=["alerts"], dependencies=looks)
    def silences() -> list[r.Silence]:
        """Silences that hold, the one that ends first first."""
        return [
            r.Silence(id=s.silence_id, matchers=s.matchers, until=utc(s.until_us), who=s.who, reason=s.reason)
            for s in desk.silences()
        ]

    @router.post("/silences", tags=["alerts"], status_code=201, responses=CONFLICT)
    def silence(body: r.NewSilence, who: MayAcknowledge) -> r.Done:
        """Tell nobody of alerts that fit, for a while. They stay where people look."""
        until_us = desk.now_us() + body.minutes * 60_000_000
        facts = {"matchers": body.matchers, "until_us": until_us, "reason": body.reason}
        return r.Done(words=_do(lambda: desk.answer("silence", facts, who.person)))

    @router.delete("/silences/{silence}", tags=["alerts"], responses=CONFLICT)
    def unsilence(silence: SilenceId, who: MayAcknowledge) -> r.Done:
        """End a silence now."""
        return r.Done(words=_do(lambda: desk.answer("unsilence", {"silence": silence}, who.person)))


def _study(records: Records, name: str) -> StudyRecord:
    study = records.study(name)
    if study is not None:
        return study
    raise _absent(f"no study is called {name}", "/api/v1/studies")


def _do(act: Callable[[], T]) -> T:
    try:
        return act()
    except WardroundError as error:
        raise Refused(409, str(error), remedy=error.remedy) from error


def _absent(detail: str, listed: str) -> Refused:
    return Refused(404, detail, remedy=f"see {listed}")
