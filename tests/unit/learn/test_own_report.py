"""What an edge says of itself: rounded so that it says little, signed so that nobody else can say it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import UpdateRefused
from wardround.learn.grpc_wire import own_report_of, own_report_to_wire
from wardround.learn.own_report import (
    SCORE_STEPS_MAX,
    SCREENS_MAX,
    STEPS,
    THRESHOLD_STEPS_MAX,
    OwnReport,
    Screen,
    SignedReport,
    check_report,
    coarse,
    scores_of,
    signed_part,
)
from wardround.simulation.toy import toy_identity
from wardround.trust.signatures import OWN_REPORT_CONTEXT, edge_signature
from wardround.wire import wardround_pb2 as pb

REPORT = OwnReport("s", 3, 1, (Screen("own-norm", 9, 4), Screen("loss", 2, 6)), "own-norm")


def signed(report, edge="e0", key=None):
    return SignedReport(report, edge_signature(key or toy_identity(edge)[0], signed_part(report), context=OWN_REPORT_CONTEXT))


@given(
    score=st.floats(0, 1e9) | st.just(math.nan) | st.just(math.inf),
    threshold=st.floats(0.01, 100.0),
    times=st.floats(1.0, 2.5),
)
def test_rounding_never_hides_and_never_invents_a_finding(score, threshold, times):
    said = coarse("x", score, threshold * times, threshold)
    assert said.beyond == (not score <= threshold * times)
    assert 0 <= said.score <= SCORE_STEPS_MAX
    assert STEPS <= said.threshold <= THRESHOLD_STEPS_MAX
    again, limit = scores_of(OwnReport("s", 1, 1, (said,)), {"x": threshold})["x"]
    assert (again > limit) == said.beyond
    if score < 4 * threshold * times:
        assert abs(again / limit - score / (threshold * times)) <= 1 / STEPS + 1e-9


def test_a_report_is_one_of_few():
    """What the page on security says: at most 8 bits a screen and round."""
    said = {coarse("x", s, 2.0 * t, 2.0) for s in np.linspace(0, 40, 2000) for t in np.linspace(1, 2.5, 40)}
    assert len(said) <= (SCORE_STEPS_MAX + 1) * THRESHOLD_STEPS_MAX <= 2**8


def test_a_report_travels_and_its_signature_holds():
    wire = pb.OwnReport.FromString(own_report_to_wire(signed(REPORT)).SerializeToString())
    assert check_report("e0", own_report_of(wire), toy_identity("e0")[1]) == REPORT


@pytest.mark.parametrize(
    "changed",
    [
        {"study": "t"},
        {"round_number": 4},
        {"attempt": 2},
        {"screens": (Screen("own-norm", 9, 4),)},
        {"screens": (Screen("own-norm", 8, 4), Screen("loss", 2, 6))},
        {"sits_out": ""},
    ],
    ids=str,
)
def test_a_report_that_was_changed_on_the_way_is_refused(changed):
    with pytest.raises(UpdateRefused, match="signature"):
        check_report(
            "e0", SignedReport(msgspec.structs.replace(REPORT, **changed), signed(REPORT).signature), toy_identity("e0")[1]
        )


def test_nobody_speaks_for_another():
    with pytest.raises(UpdateRefused, match="not of edge e1"):
        check_report("e1", signed(REPORT), toy_identity("e0")[1])
    with pytest.raises(UpdateRefused, match="signature"):
        check_report("e1", signed(REPORT, "e0"), toy_identity("e1")[1])
    other = edge_signature(toy_identity("e0")[0], signed_part(REPORT))  # of an announcement
    with pytest.raises(UpdateRefused, match="signature"):
        check_report("e0", SignedReport(REPORT, other), toy_identity("e0")[1])


@pytest.mark.parametrize(
    "screens",
    [
        tuple(Screen(f"s{i}", 9, 4) for i in range(SCREENS_MAX + 1)),
        (Screen("own-norm", 9, 4), Screen("own-norm", 9, 4)),
        (Screen("own-norm", SCORE_STEPS_MAX + 1, 4),),
        (Screen("own-norm", 9, THRESHOLD_STEPS_MAX + 1),),
        (Screen("own-norm", 9, 0),),
        (Screen("", 9, 4),),
        (Screen("a b", 9, 4),),
        (Screen("x" * 41, 9, 4),),
        (Screen("own-norm", 4, 4),),  # it sits out, and has found nothing
    ],
    ids=["many", "twice", "score", "threshold", "none", "no-name", "words", "long", "nothing"],
)
def test_a_report_that_says_more_than_it_may_is_refused(screens):
    with pytest.raises(UpdateRefused):
        check_report("e0", signed(OwnReport("s", 1, 1, screens, "own-norm")), toy_identity("e0")[1])
