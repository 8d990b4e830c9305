"""The commands of the pages, and what runs each of them.

Every `wardround` command in a block of README.md or docs/ is in one of the tables below, as it stands in its page:

- HOME: `make test` types it, in a new folder with the homes of a hub and an edge, neither of which runs;
- LIVE: `make test-docs` types it, where both run;
- LONG: `make test-docs` types it, and it takes minutes; `make test` has the test that is named, which asks for less;
- ELSEWHERE: the test that is named types it, or plays its whole page.

Words that stand for the reader's own are given in OURS; nothing else is changed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
TYPED = {"", "sh", "bash", "text", "console"}
REMARK = re.compile(r"\s{2,}|\s#")  # after two blanks our pages say what a command does


def lines(text: str) -> list[list[str]]:
    """The commands of ours in the blocks of a page, as words; what a shell does around them is left out."""
    found = []
    for language, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if language not in TYPED or "wardround " not in line:
                continue
            typed = REMARK.split(line.strip().removeprefix("$ "))[0]
            lexer = shlex.shlex(typed, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split, words = True, []
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;<>"):
                    if words[:1] == ["wardround"]:
                        found.append(words[1:])
                    words = []
                else:
                    words.append(word)
    return found


def commands() -> set[str]:
    """Every one of every page, its words one blank apart."""
    return {" ".join(words) for page in PAGES for words in lines(page.read_text())}


# Of those that name nothing of the reader's: what stands in a page, and what is typed here.
OURS = {
    "/mnt/backups": "backups",
    "/mnt/keys/icu-a": "kept/icu-a",
    "/srv/wardround/hub": "hub",
    "/etc/wardround/wifi": "wifi",
    "ARCHIVE": "backups/hub.wrb",
    "ENTRY": "{entry}",
    "FINGERPRINT": "{fingerprint}",
    "HOME": "icu-a",
    "EDGE": "icu-a",
    "NAME": "steps",
    "PATIENT": "P1",
    "PSEUDONYM": "{subject}",
    "DIR": "tables",
    "ana": "oncall",
}

# In this order; what follows `>` gets the output, what follows `<` is typed when it asks, what follows `?` are the exit codes
# that may be (0 where none stands). `python` lines are functions of docs_player.py.
HOME = """
hub init --home hub
hub invite icu-a --home hub
python: an_edge_that_has_joined
edge device patch-1 --patient P1 --consent local --home icu-a
edge import recording.hea --patient P1 --device holter-1 --home icu-a
edge consent PATIENT
python: the_pseudonym
edge consent PATIENT local
edge consent PATIENT none --purpose training
edge consent PATIENT raw --signal heart-rate
edge status --home icu-a
edge quarantine list --home icu-a
edge budget
edge budget PATIENT
keys status --home HOME
keys rotate --home HOME
study new --signals heart-rate,spo2 > vitals.toml
study new activity --name own > own.toml
study new activity > study.toml
python: a_study_with_noise
study check study.toml
study budget --plan study.toml
study start study.toml --home hub
study status --home hub
study models NAME --home hub
study updates NAME --home hub
study budget NAME
python: what_edges_told
hub consent PSEUDONYM none
hub erasures
python: a_tree
edge tree --home hub
alert list --home hub
response list --home hub
trend list --home hub
process plan --home hub
process status --home hub
process exports
automation --home hub
audit show --kind denied
audit verify
token new dashboard --person ana --scope read
node key --home hub
node list --home hub
store status --home hub
drill --list
roster new --key roster.key > fingerprint
edge roster --pin FINGERPRINT --home icu-a > entry
roster sign ENTRY ENTRY ... --key roster.key
hub roster roster.json --home hub
wifi server --out /etc/wardround/wifi
wifi profile --format hostapd --ssid Ward > hostapd.conf
wifi profile icu-a --format wpa_supplicant --ssid Ward
wifi crl --out /etc/wardround/wifi
doctor ? 0 1
deploy render --home hub --out units
deploy render --home /srv/wardround/hub --out units
backup /mnt/backups --home hub
python: the_archive
restore ARCHIVE --check
backup /mnt/backups --home icu-a
python: an_archive_put_away
backup /mnt/backups --wrapped-keys /mnt/keys/icu-a --home icu-a
edge key export --out icu-a.key --home icu-a < a long passphrase, twice
python: an_edge_restored
edge key import icu-a.key --home icu-a < a long passphrase, twice
python: a_new_machine
restore ARCHIVE --home hub --ca-key ca.key
"""

# Where hub and edge run, in this order; and the test of `make test` that types it, or plays what it does.
PROGRAMS = ("tests/programs_under_test.py", '"run", "--home"')
PRIVACY = "tests/integration/test_privacy.py"
LIVE = {
    "hub run --home hub": PROGRAMS,
    "edge join - --home icu-a": ("tests/integration/test_limits.py", '"edge", "join", "-"'),
    "edge run --home icu-a": PROGRAMS,
    "edge alerts list --home icu-a": ("tests/integration/test_bedside_edge.py", '"edge", "alerts"'),
    "audit head --home EDGE": (PRIVACY, '"audit", "head"'),
    "audit verify --head head.json": (PRIVACY, '"audit", "verify", "--head"'),
    "process export --study trial-a --out trial-a": (PRIVACY, '"process", "export", "--study"'),
    "process export PSEUDONYM --study trial-a --out trial-a --wait-s 600": (PRIVACY, '"process", "export", "--study"'),
    "erase PSEUDONYM --reason request of 3 May": (PRIVACY, '"erase"'),
    "hub run --standby --home hub": ("tests/integration/test_takeover.py", '"hub", "run", "--standby"'),
}

# With what makes it ask for less, as whole ones take an hour together; and the test of `make test` that plays it.
REHEARSES = ("tests/unit/rehearsal/test_run.py", '"study", "rehearse"')
DRILLS = ("tests/unit/drill/test_drill.py", '"drill", "--seeds"')
ATTACKS = ("tests/unit/attacks/test_page.py", '"attack",')
LONG = {
    "study rehearse study.toml": ("--edges 4 --rounds 2", REHEARSES),
    "study rehearse study.toml --edges 100": ("--rounds 2", REHEARSES),
    "study rehearse study.toml --edges 1000 --rounds 20": ("", REHEARSES),
    "drill --fault label-flip --seeds 0": ("", DRILLS),
    "drill --fault all --healthy 2000": ("--seeds 0 --healthy 20", DRILLS),
    "drill --fault all --markdown": ("--seeds 0 --fault nan", DRILLS),
    "drill --fault all --from-round 0": ("--seeds 0", DRILLS),
    "drill --fault all --study study.toml": ("--seeds 0", DRILLS),
    "drill --fault all --study study.toml --data DIR": ("--seeds 0 --fault label-flip", DRILLS),
    "study attack study.toml": ("--modes clear --models 6 --trials 2 --seeds 0 --rounds 3", ATTACKS),
    "study attack study.toml --data DIR": ("--modes clear --models 6 --trials 2 --seeds 0 --rounds 3", ATTACKS),
    "study attack study.toml --only inversion --trials 20": ("--modes clear --rounds 3", ATTACKS),
    "study attack study.toml --data DIR --modes blind --fail-above auc=0.6,read=0.05 --json": ("--models 6 --trials 2", ATTACKS),
    "study attack study.toml --data DIR --write page.md": ("--modes clear --models 6 --trials 2 --seeds 0 --rounds 3", ATTACKS),
}

FIRST_STUDY = ("tests/integration/test_first_study.py", '"first-study.md"')
OWN_MODEL = ("tests/integration/test_own_model.py", '"own-model.md"')
DEVICES = ("tests/integration/test_devices.py", '"devices.md"')
CLIENT = ("tests/unit/client/test_remote.py", "remote(")
POSTGRES = ("tests/unit/store/test_places.py", '"store", "copy"')
NODES = ("tests/nodes/test_nodes.py", '"node"')
LIVE_DRILLS = ("tests/integration/test_drill_live.py", '"drill", "--live"')
CONNECTING = """
edge signals
edge device thermo-1 --patient P1 --consent local --home icu-a
edge device belt-1 --patient P1 --home icu-a
edge device cuff-1 --patient P2 --consent local --format fhir --home icu-a
edge device strap-1 --patient P2 --format gatt --home icu-a
edge devices list --home icu-a
edge completeness --home icu-a
edge quarantine list --reason unknown-code --home icu-a
edge map hr heart-rate --home icu-a
edge quarantine replay --reason unknown-code --home icu-a
edge devices revoke thermo-1 --home icu-a
"""
ELSEWHERE = {
    "study columns wearable.csv": FIRST_STUDY,
    "study tasks": FIRST_STUDY,
    "drill --live --fault label-flip --home hub": LIVE_DRILLS,
    "drill --live --fault label-flip --seeds 0 --home HUB": LIVE_DRILLS,
    "drill --live --fault all --strike icu-b --home HUB": LIVE_DRILLS,
    "drill --live --fault scaling --tell --home HUB": LIVE_DRILLS,
    "study examples wearable.csv --dry-run": FIRST_STUDY,
    "study examples wearable.csv --out examples": FIRST_STUDY,
    "study new activity --name first": FIRST_STUDY,
    "study rehearse study.toml --data examples --out result": FIRST_STUDY,
    "study rehearse study.toml --data examples --rounds 10 --faults absent=0.1,label-flip=0.08": FIRST_STUDY,
    "study rehearse study.toml --edges 4 --rounds 3 --out result": OWN_MODEL,
    "study export own -o model --home hub": ("tests/integration/test_releases.py", '"export"'),
    "study result NAME --home hub": ("tests/integration/test_statistics.py", '"result"'),
    "trend PSEUDONYM heart-rate --last 24h --home hub": (
        "tests/integration/test_process_commands.py",
        '"heart-rate", "--last", "24h"',
    ),
    "hub init --store postgresql://wardround@db.example.org/wardround --home hub": (
        "tests/unit/store/test_places.py",
        '"--store"',
    ),
    "store copy --home hub": POSTGRES,
    "store copy --out hub.sqlite --home hub": POSTGRES,
    "node build": NODES,
    "node add node-1 ssh://wardround@node-1 --workers 4 --home hub": NODES,
    **dict.fromkeys(CONNECTING.strip().splitlines(), DEVICES),
    "remote status": CLIENT,
    "remote alerts --state all": CLIENT,
    "remote ack A-0007": CLIENT,
    "remote study beats rollback --to-round 12 --reason scores fell": CLIENT,
    "remote watch --json": CLIENT,
    "flower run my-app --home HUB --python /opt/flower/bin/python -c num-server-rounds=10": (
        "tests/integration/test_flower.py",
        '"flower"',
    ),
    "flower export study.toml --out my-study --wardround-python /opt/wardround/bin/python": (
        "tests/integration/test_flower_study.py",
        '"flower"',
    ),
}


@dataclass(frozen=True, slots=True)
class Step:
    """A line of HOME."""

    command: str
    out: str  # the file that gets its output
    typed: str
    codes: tuple[int, ...]


def steps() -> list[Step]:
    """The lines of HOME."""
    found = []
    for line in HOME.strip().splitlines():
        command, _, codes = line.partition(" ? ")
        command, _, typed = command.partition(" < ")
        command, _, out = command.partition(" > ")
        found.append(Step(command, out, typed, tuple(map(int, codes.split())) or (0,)))
    return found


def where() -> dict[str, str]:
    """What runs each command."""
    runs = dict.fromkeys(LIVE, "LIVE") | dict.fromkeys(LONG, "LONG") | dict.fromkeys(ELSEWHERE, "ELSEWHERE")
    return runs | {step.command: "HOME" for step in steps() if not step.command.startswith("python: ")}


def filled(command: str, known: dict[str, str]) -> list[str]:
    """The words of a command with ours in place of the reader's."""
    words = [OURS.get(word, word).format(**known) for word in command.split()]
    if "--reason" in words:  # the one value of several words
        at = words.index("--reason")
        words[at + 1 :] = [" ".join(words[at + 1 :])]
    return [word for word in words if word != "..."]
