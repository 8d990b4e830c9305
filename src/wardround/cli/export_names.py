"""Under which names an export goes out: a study's, asked of the edges and forgotten with the command, or the lake's."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wardround.records import Consent, Purpose, SubjectId
from wardround.trust.consent import ConsentRegister
from wardround.trust.pseudonyms import hidden
from wardround.trust.study_names import ERASED, NO_CONSENT, by_edge

if TYPE_CHECKING:
    from wardround.naming import Names
    from wardround.process.lake import Lake
    from wardround.records import Observation
    from wardround.trust.study_names import Named

NOTHING = "the hub holds nothing of it that was asked for"
WHY = {
    NO_CONSENT: "no consent for research with raw data",
    ERASED: "erased",
    "away": "the edge is away",
    "silent": "the edge did not answer in time",
    "unknown": "the edge said nothing of it",
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A subject that is not in an export, by the lake's name; of an edge, or of all."""

    subject: str
    edge: str
    why: str


class LakeNames:
    """The lake's own: nothing is renamed, and consent is not asked."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self.left_out: Sequence[LeftOut] = ()

    def subjects(self) -> set[str]:
        """Whom the export holds, by the lake's names."""
        return {self._subject}

    def rename(self, observation: Observation) -> Observation | None:
        """The observation as it is written; None when it may not be."""
        return observation

    def folder(self, out: Path, subject: str) -> Path:  # noqa: ARG002 - there is one
        """Where a subject's files lie."""
        return out


class StudyNames:
    """A study's, for those who allow it: asked of edges, and of the hub's own register at each row."""

    def __init__(self, named: Mapping[tuple[str, str], Named], codes: tuple[str, ...], consents: ConsentRegister) -> None:
        self._consents = consents
        self._named = {key: n for key, n in named.items() if n.name}
        self._codes = {key: frozenset(codes[i] for i in n.codes if 0 <= i < len(codes)) for key, n in self._named.items()}
        self.left_out: Sequence[LeftOut] = ()

    def subjects(self) -> set[str]:
        """Whom the export holds, by the lake's names."""
        return {subject for _, subject in self._named}

    def rename(self, observation: Observation) -> Observation | None:
        """The observation under the study's names of subject and device; None when consent does not cover it."""
        o, key = observation, (observation.edge, observation.subject)
        if o.code not in self._codes.get(key, ()) or not _allowed(self._consents, o.subject, o.code):
            return None
        named = self._named[key]
        device, boot = hidden(named.secret, f"device\0{o.device}"), hidden(named.secret, f"boot\0{o.device}\0{o.device_boot}")
        return msgspec.structs.replace(o, subject=SubjectId(named.name), device=device, device_boot=boot, consent_version=0)

    def folder(self, out: Path, subject: str) -> Path:
        """Where a subject's files lie, by the study's name."""
        return out / subject


@contextmanager
def names_for(
    home: Path,
    lake: Lake,
    study: str,
    *,
    subjects: Sequence[str] | None,
    codes: Sequence[str] | None,
    since_us: int | None,
    until_us: int | None,
    wait_s: float,
) -> Iterator[StudyNames | LakeNames]:
    """The names for an export, while it is written.

    Raises:
        ProcessError: no hub runs through which edges could be asked, or it does not answer.
    """
    from wardround.naming import Names, ask_names  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.process.tables import BRONZE  # noqa: PLC0415

    if not study:
        assert subjects is not None  # noqa: S101 - the command has asked for one
        yield LakeNames(subjects[0])
        return
    columns = ["subject", "edge", "code"]
    rows = lake.read(BRONZE, columns=columns, subjects=subjects or None, codes=codes, since_us=since_us, until_us=until_us)
    found = rows.group_by(columns).aggregate([])
    there = list(zip(*(found.column(name).to_pylist() for name in columns), strict=True))
    with closing(ConsentRegister(home / "consent.sqlite")) as consents:
        wanted = sorted({code for _, _, code in there})
        may = {(s, e) for s, e, code in there if _allowed(consents, s, code)}
        questions, asked = by_edge(may), Names({}, (), ())
        if questions:
            asked = ask_names(home, study, questions, tuple(wanted), getpass.getuser(), wait_s)
        consents.refresh()
        names = StudyNames(asked.named, tuple(wanted), consents)
        names.left_out = tuple(_left_out({(s, e) for s, e, _ in there}, may, asked, subjects or (), consents))
        yield names


def _allowed(consents: ConsentRegister, subject: str, code: str) -> bool:
    return consents.choose(subject, code, Purpose.RESEARCH)[0] is Consent.RAW


def _left_out(
    there: set[tuple[str, str]], may: set[tuple[str, str]], asked: Names, subjects: Sequence[str], consents: ConsentRegister
) -> Iterator[LeftOut]:
    for subject in sorted(set(subjects) - {s for s, _ in there}):
        yield LeftOut(subject, "", WHY[ERASED] if consents.erased(subject) else NOTHING)
    for subject, edge in sorted(there):
        found = asked.named.get((edge, subject))
        if found is not None and found.name:
            continue
        why = "away" if edge in asked.away else "silent" if edge in asked.silent else "unknown"
        why = found.why if found is not None else why if (subject, edge) in may else NO_CONSENT
        yield LeftOut(subject, edge, WHY.get(why, why))
