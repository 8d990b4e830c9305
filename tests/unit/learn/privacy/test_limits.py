"""What cannot be masked, or not with so many edges, is said when a study is checked and not by an edge in its first round."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.learn.privacy.masked_rounds import names, session

from wardround.errors import StudyError
from wardround.learn.grpc_wire import masks_to_wire
from wardround.learn.messages import MaskStep
from wardround.learn.privacy import maskable
from wardround.learn.privacy.edge_masks import EdgeMasks, Rostered
from wardround.learn.privacy.graph import CIRCLE_MAX
from wardround.learn.privacy.wire import Circle, encode
from wardround.learn.selection import choose
from wardround.learn.study import parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS
from wardround.trust.certificates import Authority, new_key
from wardround.trust.channel import MESSAGE_BYTES_MAX
from wardround.trust.peers import sign_masks
from wardround.trust.roster import LastingKey, Roster, sign_roster

STUDY = 'name = "s"\ntask = "activity"\n[privacy]\nmode = "{mode}"\n'
OWN = '[learner]\nkind = "torch"\nmodule = "nets:make"\n'
PRIVATE = '[strategy]\nname = "fedbn"\nprivate = ["batches", "scale.*"]\n'


class Counting:
    """A module that counts its batches, as those with BatchNorm do."""

    def initial(self, _seed):
        return {"w": np.zeros(3, np.float32), "batches": np.array([0]), "scale.mean": np.zeros(2, np.int32)}


@pytest.mark.parametrize(
    ("mode", "more", "named"),
    [("blind", OWN, "batches"), ("clear", OWN, ""), ("blind", OWN + PRIVATE, ""), ("blind", "", "")],
)
def test_whole_numbers_are_refused_when_a_study_is_checked(mode, more, named, monkeypatch):
    """But where they never travel: they stay at their edge, or are the scaling."""
    monkeypatch.setattr(maskable, "make_learner", lambda *_: Counting())
    study = parse_study(STUDY.format(mode=mode) + more, where="test")
    if not named:
        maskable.check_maskable(study, 4, 2)
        return
    with pytest.raises(StudyError, match=f"tensor `{named}` of nets:make holds int64"):
        maskable.check_maskable(study, 4, 2)


def test_a_module_with_batch_norm_is_refused_blind():
    pytest.importorskip("torch", reason="PyTorch is not installed here")
    text = STUDY.format(mode="blind") + OWN.replace("nets:make", "own_models:Named")
    with pytest.raises(StudyError, match="num_batches_tracked"):
        maskable.check_maskable(parse_study(text, where="test"), 4, 2)


def blind(rounds=""):
    return parse_study(STUDY.format(mode="blind") + rounds, where="test")


def test_more_edges_than_a_message_holds_are_refused_with_the_reason():
    many = [f"e{i}" for i in range(CIRCLE_MAX + 1)]
    with pytest.raises(StudyError, match="3,001 edges may train: more than 3,000") as caught:
        check(blind(), TASKS, edges=many)
    assert "rounds.edges_max" in caught.value.remedy
    check(blind(), TASKS, edges=many[:-1])
    check(blind("[rounds]\nedges_max = 100\n"), TASKS, edges=many)
    check(parse_study(STUDY.format(mode="clear"), where="test"), TASKS, edges=many)
    for key in ("edges_min", "edges_max"):
        with pytest.raises(StudyError, match="no message holds"):
            check(blind(f"[rounds]\n{key} = 3001\n"), TASKS)


def test_no_round_asks_more_whoever_has_joined_since():
    many = [f"e{i:05}" for i in range(2 * CIRCLE_MAX)]
    for number in (0, 1):
        asked, wanted = choose(blind(), many, {}, number)
        assert len(asked) == wanted == CIRCLE_MAX
        assert list(asked) == sorted(set(asked))
    assert choose(blind(), many, {}, 1)[0] != choose(blind(), many, {}, 2)[0]
    assert len(choose(parse_study(STUDY.format(mode="clear"), where="test"), many, {}, 1)[0]) == len(many)


def test_the_largest_circle_fits_a_message(tmp_path):
    """With the longest names, an offline root's chain after each certificate, vouchers and a roster."""
    root, key, name = Authority.in_memory("r" * 50), new_key(), "e" * 40
    certificate = root.issue_edge(name, key.public_key(), 24.0) + Authority.in_memory("h" * 50).pem
    rostered = Rostered(vouch=LastingKey(tmp_path).vouch)
    own = EdgeMasks.begin(
        session(), name, sign=lambda data: (sign_masks(key, data), certificate), verify=lambda *_: None, rostered=rostered
    )
    roster = sign_roster(Roster(1, {f"{n}-{'e' * 31}": "0" * 64 for n in names(CIRCLE_MAX)}), new_key())
    circle = Circle(session().digest, (own.state.keys,) * CIRCLE_MAX, roster)
    assert len(masks_to_wire(MaskStep("s" * 40, 1, 1, encode(circle))).SerializeToString()) < MESSAGE_BYTES_MAX
