"""What people and programs wrote beside a signal: beats, rhythms, sleep stages. Other text is counted and not taken: it may
name the patient.

Source of the codes: WFDB annotation(5) and `ecgcodes.h`; EDF+ standard texts (edfplus.info/specs/edftexts.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wardround.collect.devices.reading import Reading
from wardround.collect.files.opened import Items
from wardround.collect.files.runs import Channel, Points
from wardround.errors import DecodeError

# WFDB's annotation codes, in the order of their numbers; "" where there is none.
SYMBOLS = ("", *"NLRaVFJASEj/Q~", "", "|", "", *'sT*D"=pB^t+u?![]en@xf()r')
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
VENTRICULAR = frozenset("VE")
_RHYTHM = re.compile(r"\(([A-Z][A-Z0-9]{0,7})")
_STAGES = {
    "w": "W", "wake": "W", "1": "N1", "n1": "N1", "2": "N2", "n2": "N2", "3": "N3", "n3": "N3", "4": "N4", "r": "R", "rem": "R",
}  # fmt: skip
_STAGE = re.compile(r"Sleep stage (\w{1,4})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Remark:
    """One annotation: a symbol of WFDB (empty: none), or a text."""

    t_us: int
    symbol: str
    text: str = ""


def readings(remarks: Iterable[Remark], *, t_error_us: int, flags: int) -> Items:
    """Beats as `beat-label`, rhythms and sleep stages as words; the last item says how many remarks were not taken."""
    points = Points()
    beat = Channel("beat-label", "1", t_error_us=t_error_us, flags=flags)
    others = 0
    for remark in remarks:
        if remark.symbol in BEATS:
            yield from points.add(beat, remark.t_us, int(remark.symbol in VENTRICULAR))
            continue
        word = _word(remark)
        if word is None:
            others += 1
            continue
        name, text = word
        yield Reading(name=name, unit="1", t_us=remark.t_us, text=text, t_error_us=t_error_us, flags=flags)
    yield from points.end()
    if others:
        words = f"{others} remarks are no beat, rhythm or sleep stage; free text may name the patient"
        yield DecodeError("remarks-not-taken", words)


def all_symbols(texts: Iterable[str]) -> bool:
    """Whether texts are nothing but WFDB's symbols, a beat among them."""
    found = set(texts)
    return bool(found & BEATS) and found <= set(SYMBOLS)


def _word(remark: Remark) -> tuple[str, str] | None:
    text = remark.text.strip("\0 ")
    if remark.symbol in ("+", "") and (rhythm := _RHYTHM.fullmatch(text)):
        return "rhythm", rhythm[1]
    if not remark.symbol and (stage := _STAGE.fullmatch(text)) and stage[1].lower() in _STAGES:
        return "sleep-stage", _STAGES[stage[1].lower()]
    return None


def sorted_by_time(remarks: Iterable[Remark]) -> Iterator[Remark]:
    """In the order of their time."""
    return iter(sorted(remarks, key=lambda r: r.t_us))
