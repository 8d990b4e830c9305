"""Mode `blind-groups`: the hub learns sums of random groups, and a rule over them withstands edges that send anything."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learn.privacy.masked_rounds import Round, names, session, sign, verify
from tests.unit.learn.privacy.test_blind import STUDY, Ward, step_of

from wardround.errors import StudyError
from wardround.learn.models import decode_model, encode_model
from wardround.learn.privacy.edge_masks import EdgeMasks
from wardround.learn.privacy.groups import GROUP_EDGES_MIN, GROUPS_MIN, groups_of, own_circle, split
from wardround.learn.privacy.ring import add_vector
from wardround.learn.privacy.wire import MasksRefused, circle_digest
from wardround.learn.strategies import STRATEGIES, make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS
from wardround.records import EdgeId

MANY = tuple(f"e{i:02}" for i in range(34))
GROUPED = STUDY.replace('"blind"', '"blind-groups"').replace("edges_min = 3", "edges_min = 30").replace("count = 3", "count = 1")
TRIMMED = GROUPED + '[strategy]\nname = "trimmed-mean"\n'


def in_groups(n):
    of = msgspec.structs.replace(session(edges_min=3), group_edges=GROUP_EDGES_MIN)
    own = Round(names(n), of)
    own.meet()
    return own


@settings(max_examples=8, deadline=None)
@given(st.integers(30, 64), st.integers(0, 2), st.integers(0, 2**32))
def test_each_group_has_its_exact_sum_and_everybody_is_in_one(n, gone, seed):
    own, chance = in_groups(n), np.random.default_rng(seed)
    parts = own.hub.groups()
    assert len(parts) == n // GROUP_EDGES_MIN
    assert sorted(e for part in parts for e in part.members) == names(n)
    assert min(len(part.members) for part in parts) >= GROUP_EDGES_MIN
    for part in parts:
        members = sorted(part.members)
        for edge in members:
            part.deal(edge, own.edges[edge].deal(own.circle))
        part.close_deals()
        vectors, masked = {}, {}
        for edge in members:
            own.edges[edge].take(part.inbox(edge))
            vectors[edge] = chance.integers(0, 2**32, 5, np.uint32)
            masked[edge] = own.edges[edge].mask(vectors[edge])
        stay = members[gone:]
        listed = part.survive(stay)
        for edge in stay:
            part.vote(edge, own.edges[edge].vote(listed))
        for edge in stay:
            part.opening(edge, own.edges[edge].open(part.votes))
        total, expected = np.zeros(5, np.uint32), np.zeros(5, np.uint32)
        for edge in stay:
            add_vector(total, masked[edge])
            add_vector(expected, vectors[edge])
        part.unmask(total)
        np.testing.assert_array_equal(total, expected)


def test_groups_are_new_in_every_session_and_follow_from_what_all_were_shown():
    seen = set()
    for _ in range(5):
        own = in_groups(30)
        seen.add(tuple(groups_of(own.circle, GROUP_EDGES_MIN)))
        for part in split(own.circle, GROUP_EDGES_MIN):
            for keys in part.keys:
                assert own_circle(own.circle, GROUP_EDGES_MIN, keys.edge) == part
    assert len(seen) == 5


def test_edges_of_a_group_who_were_shown_other_circles_do_not_deal_together():
    """Else a hub could show each of them a circle of its own, until the group suits it."""
    own = in_groups(31)
    other = msgspec.structs.replace(own.circle, keys=own.circle.keys[:-1])
    part = own.hub.groups()[0]
    edge = next(e for e in sorted(part.members) if e != own.circle.keys[-1].edge)
    deal = own.edges[edge].deal(other)
    assert deal.circle != circle_digest(own.circle)
    with pytest.raises(MasksRefused, match="another circle"):
        part.deal(edge, deal)
    with pytest.raises(MasksRefused) as caught:
        own.edges[edge].deal(own.circle)
    assert (caught.value.reason, caught.value.lie) == ("circle", True)


def test_a_list_of_survivors_beyond_the_own_group_is_refused():
    own = in_groups(30)
    first, second = own.hub.groups()[:2]
    for part in (first, second):
        for edge in part.members:
            part.deal(edge, own.edges[edge].deal(own.circle))
        part.close_deals()
    edge = min(first.members)
    own.edges[edge].take(first.inbox(edge))
    own.edges[edge].mask(np.zeros(3, np.uint32))
    listed = first.survive(first.members)
    wider = msgspec.structs.replace(listed, edges=tuple(sorted((*listed.edges, min(second.members)))))
    with pytest.raises(MasksRefused) as caught:
        own.edges[edge].vote(wider)
    assert caught.value.reason == "survivors"


def test_an_edge_takes_no_part_in_groups_that_are_too_small():
    with pytest.raises(MasksRefused) as caught:
        EdgeMasks.begin(msgspec.structs.replace(session(), group_edges=9), "e", sign=sign("e"), verify=verify)
    assert (caught.value.reason, caught.value.lie) == ("too-few", True)


class Spoilt(Ward):
    """Edges in `liars` send a step that is as long as masks let it be, all in one direction."""

    liars: tuple[str, ...] = ()

    def train(self, edge):
        order = self.orders.get(edge)
        if edge in self.liars and order is not None and order.task == "train" and self.agents[edge].can_mask(order):
            mask = self.agents[edge].mask

            def spoil(order, done):
                update = {name: np.full_like(tensor, 8.0) for name, tensor in decode_model(done.data).items()}
                return mask(order, replace(done, data=encode_model(update), examples=1000))

            self.agents[edge].mask = spoil
        super().train(edge)


def model_after_one_round(text, liars=()):
    ward = Spoilt(MANY, text)
    ward.liars = liars
    ward.begin()
    ward.run()
    assert ward.coordinator.finished
    assert not ward.failed
    done = ward.committed()
    assert [len(c.folded) for c in done] == [len(MANY)] * 2
    base, made = (decode_model(ward.coordinator.model(c.model)) for c in done)
    return made["w"] - base["w"]


def test_one_edge_that_sends_anything_moves_a_blind_sum_and_not_the_middle_of_groups():
    honest = model_after_one_round(TRIMMED)
    spoilt = model_after_one_round(TRIMMED, liars=MANY[:1])
    blind = model_after_one_round(TRIMMED.replace("blind-groups", "blind").replace("trimmed-mean", "fedavg"), liars=MANY[:1])
    assert float(np.abs(blind - honest).max()) > 1.5  # 8 by a share of the weights of two sevenths
    assert float(np.abs(spoilt - honest).max()) < 0.5  # an honest group's mean is of ten steps of some 0.1


def test_a_group_that_comes_to_nothing_is_out_and_the_others_go_on():
    """Of 44 edges in four groups, four of one group are gone before they mask: that group has no quorum."""
    ward = Ward(tuple(f"e{i:02}" for i in range(44)), TRIMMED)
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == "Inbox" and message.round_number == 1)
    parts = [sorted(part.members) for part in ward.coordinator._blind._parts]
    assert sorted(map(len, parts)) == [11, 11, 11, 11]
    for edge in parts[2][:4]:
        ward.lose(edge)
    ward.run()
    for _ in range(3):
        ward.clock.advance(31.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert not [error for _, error in ward.failed if error.lie]
    assert sorted(ward.committed()[1].folded) == sorted(parts[0] + parts[1] + parts[3])


@pytest.mark.parametrize("step", ["Circle", "Inbox", "Survivors", "Votes"])
def test_a_hub_that_is_killed_goes_on_with_the_same_groups(step):
    ward = Ward(MANY, TRIMMED)
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == step and message.round_number == 1)
    before = [part.members for part in ward.coordinator._blind._parts]
    assert len(before) == 3
    ward.kill_hub()
    assert [part.members for part in ward.coordinator._blind._parts] == before
    for edge in MANY:
        if edge in ward.orders:
            ward.deliver(edge, ward.orders[edge])
    ward.run()
    assert ward.coordinator.finished
    assert not ward.failed
    assert [len(c.folded) for c in ward.committed()] == [len(MANY)] * 2


def test_too_few_groups_are_no_round():
    ward = Ward(MANY, TRIMMED)
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == "Survivors" and message.round_number == 1)
    lost = sorted(ward.coordinator._blind._parts[0].members)[:5]
    for edge in lost:
        ward.lose(edge)
    ward.run()
    ward.clock.advance(31.0)
    ward.coordinator.tick()
    assert [e.kind for e in ward.events][-1] == "abandoned"
    ward.away.clear()
    for edge in lost:
        ward.coordinator.attach(EdgeId(edge))
    for _ in range(5):
        ward.clock.advance(31.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert GROUPS_MIN == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((GROUPED + f'[strategy]\nname = "{n}"\n', n) for n in ("fedavg", "fedadam", "krum", "multi-krum", "fltrust")),
        (TRIMMED.replace("edges_min = 30", "edges_min = 29"), "edges_min is 29"),
        (TRIMMED.replace("weight_max = 1000", "group_edges = 9"), "group_edges is 9"),
        (TRIMMED.replace("weight_max = 1000", "group_edges = 11"), "3 groups of 11"),
        (TRIMMED.replace("[privacy]", 'mode = "buffered"\nbuffer = 30\n[privacy]'), "buffered"),
        (TRIMMED.replace("[privacy]", "over_selection = 1.5\n[privacy]"), "over_selection"),
        (TRIMMED + '[compression]\nupdate = "int8"\n', "compression"),
        (TRIMMED.replace("blind-groups", "blind"), "trimmed-mean"),
    ],
)
def test_what_cannot_be_had_in_groups_is_refused_by_name(text, named):
    with pytest.raises(StudyError, match=named):
        check(parse_study(text, where="test"), TASKS)


def test_rules_over_sums_of_groups_look_at_tensors_alone():
    for name in ("coordinate-median", "trimmed-mean", "geometric-median", "centered-clipping"):
        check(parse_study(GROUPED + f'[strategy]\nname = "{name}"\n', where="test"), TASKS)
        strategy = make_strategy(StrategySettings(name=name), LearnerSettings())
        assert name in STRATEGIES
        assert not strategy.needs
        assert not strategy.wants_reference
        assert not any((strategy.rule.controls, strategy.rule.dynamic, strategy.rule.trees))


def test_a_hub_that_has_no_groups_is_one():
    own = Round(names(4))
    own.meet()
    assert own.hub.groups() == [own.hub]
