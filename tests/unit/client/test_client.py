"""The typed client against the real API over TLS: every call, every page, every refusal as an error with its remedy."""

from __future__ import annotations

import pytest

from wardround.client import HubClient, HubUnreachable, Wire, answers
from wardround.client import refusals as no
from wardround.console.model import HoursView, Line, SignalHours
from wardround.errors import SettingsError


def test_what_is_typed_is_what_the_hub_describes(serving):
    """A field that the API gains, loses or renames shows here."""
    described = serving.world.call("GET", "/api/v1/openapi.json").json()["components"]["schemas"]
    kinds = {kind.__name__: kind for kind in answers.Answer.__subclasses__()}
    assert len(kinds) > 12
    for name, kind in kinds.items():
        assert set(kind.__struct_fields__) == set(described[name]["properties"]), name


def test_everything_is_read(serving):
    world, hub = serving.world, serving.client()
    for name in ("icu-a", "icu-b"):
        world.edge(name)
    world.edge("old-1", revoked_us=world.clock.now_us())
    world.study("beats", rounds=450)
    world.alert(1)
    world.pages.happened = [Line(world.clock.now_us(), "Hub started", "2 edges known")]
    rows = (SignalHours("abcd", "loinc:8867-4", "Heart rate", 0, (None, 0.5), 0.5),)
    world.pages.signals = HoursView(rows, rows)
    assert hub.hub().site == "Test <ward>"
    assert [edge.name for edge in hub.edges()] == ["icu-a", "icu-b", "old-1"]
    assert [edge.name for edge in hub.edges(state="revoked")] == ["old-1"]
    assert hub.edge("icu-a").certificate_ends.tzinfo is not None
    assert [r.number for r in hub.rounds("beats")] == list(range(450, 0, -1))  # three pages
    assert (hub.study("beats").rounds, [s.name for s in hub.studies()], list(hub.models("beats"))) == (450, ["beats"], [])
    assert ([a.id for a in hub.alerts()], list(hub.alerts("resolved")), hub.alert("A-0001").priority) == (
        ["A-0001"],
        [],
        "medium",
    )
    assert [line.title for line in hub.happenings()] == ["Hub started"]
    assert [row.shares for row in hub.completeness()] == [[None, 0.5]]
    assert [r.name for r in hub.automation()] == ["compaction"]
    assert (list(hub.jobs()), hub.silences()) == ([], [])


def test_everything_is_done(serving):
    world, hub = serving.world, serving.client()
    world.watch.edge_quarantined("beats", "icu-a", 3, reason="course", score=9.4, threshold=6.0, until_round=13)
    (raised,) = world.watch.alerts()
    world.alert(int(raised.alert_id.split("-")[1]))
    world.study()
    assert "oskar" in hub.acknowledge(raised.alert_id, actionable=True)
    assert world.watch.alert(raised.alert_id).acknowledged_by == "oskar"
    assert hub.undo(raised.alert_id, "it was calibrated")
    assert hub.silence({"edge": "icu-*"}, 5, "works on the ward")
    (silence,) = hub.silences()
    assert silence.matchers == {"edge": "icu-*"}
    assert hub.unsilence(silence.id)
    assert hub.silences() == []
    invited = hub.invite("icu-c")
    assert invited.token.startswith("wr1.")
    assert invited.token not in repr(invited)
    world.edge("icu-c")
    world.attached.add("icu-c")
    assert "no more work" in hub.drain("icu-c")
    assert (hub.drained("icu-c").stage, hub.drained("icu-c").by) == ("emptying", "oskar")
    assert "used again" in hub.undrain("icu-c")
    assert "icu-c" in hub.revoke("icu-c")
    asked = hub.ask("beats", "rollback", "scores fell", to_round=3, key="k-1")
    assert hub.ask("beats", "rollback", "scores fell", to_round=3, key="k-1") == asked
    assert len(world.store.study_requests()) == 1
    assert hub.answer("beats", asked.id).state == "asked"
    with pytest.raises(HubUnreachable, match="has not answered"):
        hub.wait_for("beats", asked.id, deadline_s=0.0)


def test_each_refusal_is_an_error_of_its_kind_with_the_hubs_remedy(serving):
    hub = serving.client()
    for kind, call in (
        (no.Absent, lambda: hub.edge("icu-z")),
        (no.Absent, lambda: hub.study("../hub")),  # a name is one part of a path, whatever is in it
        (no.Invalid, lambda: hub.undo("A-1", "")),
        (no.Conflict, lambda: hub.unsilence("S-0099")),
        (no.NotCovered, lambda: serving.client("viola", ["read"]).invite("icu-a")),
        (no.NotSignedIn, lambda: HubClient(Wire(serving.address, "wra.000000000000.x", ca=serving.ca)).hub()),
    ):
        with pytest.raises(kind) as refused:
            call()
        assert refused.value.remedy


def test_a_hub_that_this_machine_does_not_know_gets_no_token(serving):
    with pytest.raises(HubUnreachable, match="is not trusted") as refused:
        HubClient(Wire(serving.address, serving.world.token())).hub()
    assert "--ca" in refused.value.remedy


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("http://hub.example:7480", "t"),
        ("hub.example", "t"),
        ("ftp://hub", "t"),
        ("https://hub", ""),
        ("https://hub", "a\r\nb: c"),
    ],
)
def test_a_token_does_not_travel_in_the_clear(address, token):
    with pytest.raises(SettingsError) as refused:
        Wire(address, token)
    assert refused.value.remedy
