"""The news of a trial: the edge hears of it, and it stands in what happened."""

from __future__ import annotations

from types import SimpleNamespace

from wardround.hub.news import RoundNews
from wardround.learn.messages import RoundEvent


def news():
    told, happened = [], []
    heard = RoundNews(
        store=SimpleNamespace(),
        watch=SimpleNamespace(),
        metrics=SimpleNamespace(),
        studies=SimpleNamespace(running={}),
        tell=lambda edge, notice: told.append((edge, notice.verdict, notice.reason, notice.detail)),
        happened=lambda title, detail: happened.append((title, detail)),
    )
    return heard, told, happened


def test_an_edge_hears_that_its_trial_has_begun_and_that_it_is_admitted():
    heard, told, happened = news()
    heard(RoundEvent("on-trial", "activity", 12, 0, edge="icu-a", reason="on-trial", score=1, threshold=8))
    heard(RoundEvent("admitted", "activity", 20, 0, edge="icu-a", reason="on-trial", score=8, threshold=8))
    words = "its first 8 updates weigh nothing while they are looked at"
    assert told == [("icu-a", "aside", "on-trial", words), ("icu-a", "released", "", "")]
    assert [title for title, _ in happened] == ["icu-a is on trial in activity", "icu-a is admitted to activity"]
    assert "since round 12" in happened[0][1]
