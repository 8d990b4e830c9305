"""Who may do what: the table, and the desk that asks it."""

from __future__ import annotations

import pytest

from wardround.clock import ManualClock
from wardround.desks.console import Arrivals, HubDesk, Place
from wardround.errors import NotAllowed, TrustError
from wardround.store import Person, open_store
from wardround.trust.certificates import check_key_files, write_private
from wardround.trust.roles import MAY, Act, Role, check_act, parse_role


def test_the_table_is_whole_and_nobody_is_above_the_admin():
    assert set(MAY) == set(Role)
    assert MAY[Role.ADMIN] == set(Act)
    assert all(Act.LOOK in acts for acts in MAY.values())
    assert MAY[Role.VIEWER] == {Act.LOOK}
    # Who keeps the machines running does not decide over patients' data, and the other way round.
    assert not MAY[Role.OPERATOR] & {Act.CONSENT, Act.ERASE, Act.EXPORT, Act.PEOPLE}
    assert not MAY[Role.DATA_OFFICER] & {Act.STUDIES, Act.EDGES, Act.UNDO, Act.PEOPLE}
    for act in Act:
        assert any(act in MAY[role] for role in Role if role is not Role.ADMIN) or act is Act.PEOPLE


@pytest.mark.parametrize("role", ["", "root", "Admin", "viewer "])
def test_a_role_that_nobody_knows_may_do_nothing(role):
    for act in Act:
        with pytest.raises(NotAllowed):
            check_act("mallory", role, act)
    with pytest.raises(TrustError, match="not known"):
        parse_role(role)


class Watch:
    """What the desk asks of the watch, and what it was told to do."""

    def __init__(self):
        self.done = []

    def acknowledge(self, alert_id, who):
        self.done.append(("acknowledge", who))
        return True

    def undo(self, alert_id, who, reason):
        self.done.append(("undo", who))
        return "kept"

    def not_asked(self, *arguments, **named):
        raise AssertionError("no test of roles asks for it")

    judge = silence = unsilence = test = not_asked

    def alert(self, alert_id):
        return None

    def open_alerts(self):
        return []

    alerts = open_alerts

    def edges(self):
        return {}


@pytest.fixture
def desk(tmp_path):
    store, watch, clock = open_store(tmp_path / "hub.sqlite"), Watch(), ManualClock()
    watch.recorded = []
    made = HubDesk(
        Place("hub", "1", "Test", simulated=True),
        clock=clock,
        store=store,
        watch=watch,
        record=lambda kind, what, who, **_facts: watch.recorded.append((kind, what, who)),
        responses=None,
        routines=tuple,
        arrivals=Arrivals(clock),
        beats={},
        attached=set,
        studies=dict,
        subjects=lambda: 0,
        waiting=lambda: 0,
        behind_s=lambda: None,
        outbox=watch,
        hours=lambda: None,
        certificate_us=lambda: 0,
    )
    yield made, store, watch
    store.close()


def test_the_desk_asks_for_the_role_of_now(desk):
    made, store, watch = desk
    for role in Role:
        store.put_person(Person(role, role, "hash", None))
    for role in Role:
        for act, do in ((Act.ACKNOWLEDGE, made.acknowledge), (Act.UNDO, lambda a, w: made.undo(a, w, "because"))):
            if act in MAY[role]:
                assert do("A-1", role)
            else:
                with pytest.raises(NotAllowed, match=f"{role} .* may not {act}"):
                    do("A-1", role)
    assert {who for _, who in watch.done} == {"clinician", "operator", "admin"}
    with pytest.raises(NotAllowed):
        made.acknowledge("A-1", "nobody")
    store.put_person(Person("operator", "viewer", "hash", None))  # signed in still, and no longer an operator
    with pytest.raises(NotAllowed):
        made.undo("A-1", "operator", "because")
    assert watch.recorded[-1] == ("denied", "act not allowed", "operator")
    assert ("change", "alert acknowledged", "admin") in watch.recorded
    assert ("denied", "act not allowed", "viewer") in watch.recorded


@pytest.mark.parametrize("name", ["pki/ca.key", "identity/edge.key", "pseudonym.key", "devices.toml", "mqtt.secret"])
def test_a_key_that_others_may_read_stops_the_program_before_it_starts(tmp_path, name):
    write_private(tmp_path / name, b"secret")
    check_key_files(tmp_path)
    (tmp_path / name).chmod(0o640)
    with pytest.raises(TrustError, match=r"may be read by others \(mode 640\)") as refused:
        check_key_files(tmp_path)
    assert f"chmod 600 {tmp_path / name}" in refused.value.remedy
