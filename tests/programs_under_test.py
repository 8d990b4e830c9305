"""Real programs in their own processes, on loopback ports of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wardround.clock import SystemClock
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.demo.programs import Program
from wardround.edge import EdgeHome
from wardround.hub import create_home
from wardround.ports import free_port
from wardround.records import Consent, Observation
from wardround.settings import HubSettings, parse_settings
from wardround.store import Person, Store, open_store
from wardround.trust.certificates import Authority, new_key
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.enrolment import join_hub
from wardround.trust.identity import IdentityFolder
from wardround.trust.join import mint
from wardround.trust.passwords import hash_password, new_password

READY_S = 150.0


def wardround(*arguments: str, stdin: str = "", timeout: float = 150.0) -> subprocess.CompletedProcess[str]:
    """The command line, as a person runs it."""
    command = [sys.executable, "-m", "wardround.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)


@dataclass
class Site:
    """A hub, and the edges that have joined it."""

    folder: Path
    more: str = ""  # of hub.toml
    programs: list[Program] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self.home = self.folder / "hub"
        self.ports = {name: free_port() for name in ("grpc", "enrolment", "console")}
        text = 'site = "Test"\nheartbeat_s = 1.0\n' + "".join(f"[{k}]\nport = {p}\n" for k, p in self.ports.items())
        text += "[processing]\nlake_commit_interval_s = 0.1\nlake_commits_an_hour = 36000\ninterval_s = 1.0\n" + self.more
        create_home(self.home, text, parse_settings(text, HubSettings, where="test")).close()
        self.hub = self._program("hub", ["wardround.cli.main", "hub", "run", "--home", str(self.home)], self.home)

    def _program(self, name, arguments, home):
        program = Program(name, arguments, self.folder / f"{name}.log", home / "ready.json")
        self.programs.append(program)
        return program

    def start_hub(self):
        self.hub.start()
        return self.hub.wait_ready(READY_S)

    def store(self) -> Store:
        return open_store(self.home / "hub.sqlite")

    def token(self, name: str) -> str:
        store = self.store()
        pin = Authority.load(self.home / "pki").fingerprint
        made = mint(store, SystemClock(), name=name, host="127.0.0.1", port=self.ports["enrolment"], pin=pin)
        store.close()
        return made

    def sign_in(self, name: str = "oncall", role: str = "operator") -> str:
        """Someone who may sign in to the console; the password."""
        store = self.store()
        password = new_password()
        store.put_person(Person(name, role, hash_password(password), None))
        store.close()
        return password

    def edge(self, name: str) -> Program:
        """Join an edge; its program, not started yet."""
        home = self.folder / name
        joined = join_hub(self.token(name), home)
        (home / "edge.toml").write_text(
            f'name = "{name}"\nhub_host = "{joined.hub_host}"\nhub_port = {joined.hub_port}\n[mqtt]\nport = {free_port()}\n'
        )
        return self._program(name, ["wardround.cli.main", "edge", "run", "--home", str(home)], home)

    def certify(self, edge: str, life_s: float) -> None:
        """Give an edge certificates of this life from now on: a running one takes them up, and renews them in their time."""
        authority, key = Authority.load(self.home / "pki"), new_key()
        hours = life_s / 3600
        IdentityFolder(self.folder / edge / "identity").replace(
            key,
            certificate=authority.issue_edge(edge, key.public_key(), hours),
            listener=authority.issue_listener(edge, key.public_key(), ["127.0.0.1", "localhost"], hours),
            authority=authority.pem,
        )

    def lone_edge(self, name: str) -> Program:
        """An edge of a hub that is never there; its program, not started yet."""
        home = self.folder / name
        home.mkdir()
        (home / "edge.toml").write_text(
            f'name = "{name}"\nhub_host = "127.0.0.1"\nhub_port = {free_port()}\n[mqtt]\nport = {free_port()}\n'
        )
        self.certify(name, 86_400.0)
        return self._program(name, ["wardround.cli.main", "edge", "run", "--home", str(home)], home)

    def device(self, edge: str, device: str, consent: Consent) -> tuple[str, str]:
        """Register a device; its secret and its subject."""
        home = EdgeHome.open(self.folder / edge)
        secret = home.registry().add(device, f"patient-of-{device}")
        subject = home.pseudonyms().of(f"patient-of-{device}")
        consents = home.consents()
        consents.set(subject, "*", consent)
        consents.close()
        return secret, subject

    def keep(self, edge: str, observations: Iterable[Observation], consent: Consent = Consent.LOCAL) -> None:
        """Put into an edge's local store what subjects who allow it have sent."""
        rows = list(observations)
        store = LocalStore(FolderStorage(self.folder / edge / "local"))
        store.keep(rows)
        store.close()
        consents = EdgeHome.open(self.folder / edge).consents()
        for subject in {o.subject for o in rows}:
            consents.set(subject, "*", consent)
        consents.close()

    def allow_at_hub(self, edge: str, *subjects: str) -> None:
        """Let the hub know that these subjects of an edge allow everything."""
        consents = ConsentRegister(self.home / "consent.sqlite")
        consents.apply([ConsentRecord(s, "*", Consent.RAW, 1) for s in subjects], edge)
        consents.close()

    def mqtt_port(self, edge: str) -> int:
        return json.loads((self.folder / edge / "ready.json").read_text())["mqtt_port"]

    def stop(self):
        for program in self.programs:
            program.stop()
