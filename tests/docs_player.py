"""Types the commands of docs_under_test.py in the folder that it is given: `python docs_player.py FOLDER home|live|long`.

In a process of its own, as a command line has its own home, standard input and idea of where it is. What came of every command is
in FOLDER/played.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardround.demo.programs import Program

READY_S = 150.0
NOISE = """
[watch]
row_counts = false

[privacy]
mode = "clear-dp"
population = 100
clip_norm = 1.0
noise = 4.0
target_epsilon = 8.0
delta = 1e-4
"""


class Player:
    """A newcomer's terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, str] = {}
        self.played: list[dict[str, object]] = []

    def type(self, words: list[str], typed: str = "") -> tuple[int | str, str, str]:
        """One command: exit code, output, errors."""
        from wardround.cli.main import run

        out, err = io.StringIO(), io.StringIO()
        code: int | str = 0
        sys.argv, sys.stdin = ["wardround", *words], io.StringIO(f"{typed}\n{typed}\n")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except BaseException as error:
                code = repr(error)
        return code, out.getvalue(), err.getvalue()

    def need(self, *words: str) -> str:
        """What the pages say elsewhere, and the story needs here."""
        code, out, err = self.type(list(words))
        assert code == 0, (words, code, out, err)
        return out

    def an_edge_that_has_joined(self) -> None:
        """As `wardround edge join -` leaves it, which needs a hub that runs; and a recording to import."""
        from wardround.trust.certificates import Authority, new_key
        from wardround.trust.identity import IdentityFolder

        home, authority, key = self.folder / "icu-a", Authority.load(self.folder / "hub" / "pki"), new_key()
        home.mkdir()
        kek = self.folder / "kek"
        text = f'at_rest.kek = "file:{kek}"\nname = "icu-a"\nhub_host = "127.0.0.1"\nhub_port = 7443\n'
        (home / "edge.toml").write_text(text)
        IdentityFolder(home / "identity").replace(
            key,
            certificate=authority.issue_edge("icu-a", key.public_key(), 24.0),
            listener=authority.issue_listener("icu-a", key.public_key(), ["127.0.0.1"], 24.0),
            authority=authority.pem,
        )
        self.a_recording()

    def a_recording(self) -> None:
        from wearable_under_test import record

        record(self.folder)

    def the_pseudonym(self) -> None:
        from wardround.edge import EdgeHome

        self.known["subject"] = EdgeHome.open(self.folder / "icu-a").pseudonyms().of("P1")

    def a_study_with_noise(self) -> None:
        """As docs/privacy.md says; without, there is no budget to see."""
        file = self.folder / "study.toml"
        file.write_text(file.read_text().replace('name = "my-study"', 'name = "steps"') + NOISE)

    def a_tree(self) -> None:
        """What a running hub writes each second."""
        import msgspec

        from wardround.clock import SystemClock
        from wardround.learn.tree import STATE, StudyTree, Tree, TreeEdge
        from wardround.store import opened

        edge = TreeEdge(
            name="icu-a", above="", attached=True, relays=False, model="", from_hub_bytes=0, from_above_bytes=0, why_not=""
        )
        with opened(self.folder / "hub" / "hub.sqlite") as store:
            study = StudyTree(study="steps", model="", edges=(edge,))
            store.save_state(STATE, msgspec.json.encode(Tree(SystemClock().now_us(), (study,))))

    def what_edges_told(self) -> None:
        """Of which subject is whose: the first thing that an attached edge says."""
        from wardround.records import Consent
        from wardround.trust.consent import ConsentRecord, ConsentRegister

        consents = ConsentRegister(self.folder / "hub" / "consent.sqlite")
        consents.apply([ConsentRecord(self.known["subject"], "*", Consent.LOCAL, 1)], "icu-a")
        consents.close()

    def the_archive(self) -> None:
        (made,) = (self.folder / "backups").glob("hub-*.wrb")
        made.rename(self.folder / "backups" / "hub.wrb")

    def an_archive_put_away(self) -> None:
        """The next one may be made within the second that its name says."""
        (made,) = (self.folder / "backups").glob("edge-*.wrb")
        made.rename(self.folder / "backups" / "older.wrb")

    def an_edge_restored(self) -> None:
        (made,) = (self.folder / "backups").glob("edge-*.wrb")
        shutil.move(self.folder / "icu-a", self.folder / "icu-a-lost")
        self.need("restore", str(made), "--home", "icu-a")

    def a_new_machine(self) -> None:
        shutil.move(self.folder / "hub", self.folder / "hub-lost")
        shutil.copy(self.folder / "hub-lost" / "pki" / "ca.key", self.folder / "ca.key")

    def show(self, command: str, *more: str, typed: str = "", codes: tuple[int, ...] = (0,), until_s: float = 0.0) -> str:
        """Type a command of the pages, again until it does or `until_s` is over, and note what came of it; its output."""
        from docs_under_test import filled

        words, began = [*filled(command, self.known), *more], time.monotonic()
        code, out, err = self.type(words, typed)
        while code not in codes and time.monotonic() - began < until_s:
            time.sleep(0.5)
            code, out, err = self.type(words, typed)
        took = time.monotonic() - began
        self.note(command, code, out, err, codes=codes, s=took)
        return out

    def note(self, command: str, code: int | str | None, out: str = "", err: str = "", **more: object) -> None:
        self.played.append({"command": command, "code": code, "out": out, "err": err, "codes": [0], **more})

    def home(self) -> None:
        """All of HOME."""
        from docs_under_test import steps

        for step in steps():
            if step.command.startswith("python: "):
                getattr(self, step.command.removeprefix("python: "))()
                continue
            out = self.show(step.command, typed=step.typed, codes=step.codes)
            if step.out:
                (self.folder / step.out).write_text(out)
                self.known[step.out] = out.strip().splitlines()[-1] if out.strip() else ""

    def live(self) -> None:
        """All of LIVE, in its order, between a hub and an edge that run."""
        from wardround.demo.programs import Program

        programs: list[Program] = []

        def start(name: str, command: str, ready: str) -> Program:
            words = command.split()
            programs.append(Program(name, ["wardround.cli.main", *words], Path(f"{name}.log"), Path(ready)))
            programs[-1].start()
            return programs[-1]

        try:
            self._live(start)
        finally:
            for program in programs:
                program.stop()

    def _live(self, start: Callable[[str, str, str], Program]) -> None:
        from wardround.ports import free_port

        self.need("hub", "init", "--home", "hub")
        with Path("hub/hub.toml").open("a") as file:
            file.write(
                "heartbeat_s = 1.0\n" + "".join(f"[{n}]\nport = {free_port()}\n" for n in ("grpc", "enrolment", "console"))
            )
        hub = start("hub", "hub run --home hub", "hub/ready.json")
        hub.wait_ready(READY_S)
        token = json.loads(self.need("hub", "invite", "icu-a", "--home", "hub", "--json"))["token"]
        self.show("edge join - --home icu-a", typed=token)
        toml = Path("icu-a/edge.toml")
        toml.write_text(toml.read_text().replace("8883", str(free_port())))
        self.a_recording()
        self.need("edge", "device", "patch-1", "--patient", "P1", "--consent", "raw", "--home", "icu-a")
        self.need("edge", "import", "recording.hea", "--patient", "P1", "--device", "holter-1", "--home", "icu-a")
        self.the_pseudonym()
        edge = start("edge", "edge run --home icu-a", "icu-a/ready.json")
        edge.wait_ready(READY_S)
        self.show("edge alerts list --home icu-a", until_s=READY_S)
        Path("head.json").write_text(self.show("audit head --home EDGE", until_s=READY_S))
        self.show("audit verify --head head.json")
        self._until_stored()
        self.show("process export --study trial-a --out trial-a")
        shutil.move("trial-a", "before")
        self.show("process export PSEUDONYM --study trial-a --out trial-a --wait-s 600")
        self.show("erase PSEUDONYM --reason request of 3 May", typed="y")
        standby = start("standby", "hub run --standby --home hub", "hub/ready.json")
        self._until_said(Path("standby.log"), "this one waits")
        for command, program in (("hub run --home hub", hub), ("edge run --home icu-a", edge)):
            ended = self._ended(program)
            self.note(command, ended, out=program.log.read_text())
        standby.wait_ready(READY_S)
        self.note("hub run --standby --home hub", self._ended(standby), out=standby.log.read_text())

    def _ended(self, program: Program) -> int:
        assert program.process is not None
        program.process.terminate()
        return program.process.wait(READY_S)

    def _until_said(self, log: Path, words: str) -> None:
        until = time.monotonic() + READY_S
        while words not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)

    def _until_stored(self) -> None:
        """What the edge has imported is in the hub's lake."""
        from wardround.process.lake import Lake
        from wardround.process.tables import BRONZE

        until = time.monotonic() + READY_S
        while not Lake(Path("hub/lake")).read(BRONZE, columns=["subject"], subjects=[self.known["subject"]]).num_rows:
            assert time.monotonic() < until, "nothing of the edge reached the lake"
            time.sleep(0.5)

    def long(self) -> None:
        """All of LONG, asked for less where that is said."""
        from docs_under_test import LONG
        from wearable_under_test import export

        export(self.folder / "wearable.csv")
        for out, words in (("columns.toml", ("columns", "wearable.csv")), ("study.toml", ("new", "activity"))):
            Path(out).write_text(self.need("study", *words))
        self.need("study", "examples", "wearable.csv", "--out", "tables")
        for command, (less, _) in LONG.items():
            self.show(command, *less.split(), codes=(0, 1) if "--fail-above" in command else (0,))


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    os.environ["HOME"] = str(place)  # before anything of ours is imported: the homes that commands take by themselves
    os.chdir(place)
    (place / ".wardround").mkdir()
    (place / ".wardround" / "hub").symlink_to(place / "hub")
    (place / ".wardround" / "edge").symlink_to(place / "icu-a")
    for name in ("backups", "kept"):
        (place / name).mkdir()
    player = Player(place)
    try:
        getattr(player, sys.argv[2])()
    finally:
        (place / "played.json").write_text(json.dumps(player.played))
