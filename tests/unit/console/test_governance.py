"""Governance from frozen read models: the answer first, in each state; names made safe; nothing for other roles."""

from __future__ import annotations

import re
from dataclasses import replace

from wardround.console.governance import erase_dialog, refused, sections
from wardround.console.governance_model import AuditRow, ChainView, ErasureView, GovernanceView, RegisterRow, SignalConsent, Step
from wardround.console.looking import Looking
from wardround.console.model import Overview

NOW = 1_764_000_000_000_000
VIEW = Overview(NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=2)
DORA = Looking("dora", "data-officer", address="/governance")
STEPS = (Step("hub", "41,206 bronze removed", "done", NOW), Step("home-s", "is away", "waiting"))
ERASURE = ErasureView(118, NOW, "dora", "asked", STEPS, 2, 1)
FULL = GovernanceView(
    subjects=148,
    signals=(SignalConsent("Heart rate", 121, 22, 5),),
    register=(RegisterRow("<b>q7k4", "resp-1", 3, "all raw"),),
    matching=148,
    erasures=(ERASURE,),
    chosen=ERASURE,
    audit=(AuditRow(7, NOW, "view", "signed in", "<i>eve", {"role": "<u>"}),),
    chain=ChainView(8, NOW - 40_000_000, 2, "b41e" + "0" * 58 + "70"),
)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html)))


def test_the_answer_is_made_from_state():
    def answer(view):
        return text(sections(VIEW, view, DORA)["answer"])

    assert "Erasure 118 waits for one place. The audit chain is whole." in answer(FULL)
    assert "148 subjects with consent on file. Verified 40 s ago." in answer(FULL)
    done = replace(ERASURE, answered=2, steps=STEPS[:1])
    assert "The one erasure is done everywhere." in answer(replace(FULL, erasures=(done,), chosen=done))
    assert "The audit log does not hold." in answer(replace(FULL, chain=replace(FULL.chain, wrong=("entry 3",))))
    assert "not verified yet" in answer(replace(FULL, chain=None, erasures=()))
    assert "One moment" in answer(None)


def test_everything_is_safe_and_paged():
    parts = sections(VIEW, FULL, DORA)
    for bad in ("<b>q7k4", "<i>eve", "<u>"):
        assert bad not in "".join(parts.values())
    assert "page 1 of 6" in text(parts["register"])
    assert "head b41e…70 is held by 2 edges" in text(parts["audit"])
    assert "121 raw, 22 local, 5 none" in parts["consent"]


def test_erasing_wants_the_name_typed_and_says_what_it_does():
    dialog = erase_dialog("q7k4-m2xd")
    assert 'data-must="q7k4-m2xd"' in dialog
    assert "This cannot be undone." in dialog
    assert dialog.index("Keep the subject") < dialog.index('data-act="erase"')


def test_who_may_not_see_it_is_told_who_may():
    parts = refused(Looking("olga", "operator"))
    assert "data-officer or admin" in text(parts["consent"])
    assert parts["register"] == parts["audit"] == ""
