"""Keys of encryption at rest: where the KEK comes from, what a wrong or damaged key does, rotation under SIGKILL, shredding."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from wardround.errors import KeyRefused, StorageFull, Unreadable
from wardround.trust import data_keys
from wardround.trust.at_rest import KEYS, MARK, OVERHEAD, PLAIN, open_seal, turn_on
from wardround.trust.data_keys import DataKeys
from wardround.trust.kek import Kek, KekSource, parse_kek, write_kek

PLACE = ("table", 7)
SUBJECTS = [f"q7k4-m2xd-aaaa-bbbb-{n:04}" for n in range(20)]


class Home:
    """A home that is encrypted, with the key-encryption key beside it."""

    def __init__(self, folder):
        self.path, self.kek = folder / "home", folder / "site.kek"
        self.path.mkdir()
        self.line = f"file:{self.kek}"

    def open(self):
        return turn_on(self.path, self.line)

    def keys(self):
        return DataKeys(self.path / KEYS, KekSource.parse(self.line, self.path))

    def versions(self):
        return sorted(parse_kek(self.kek.read_text(), "it").versions)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: a kill does not ask for a disk, and each key is a sync."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="wardround-") as folder:
        yield Path(folder)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


# -- where the key-encryption key comes from


def test_one_line_makes_the_key_and_a_second_opening_reads_what_the_first_sealed(home):
    sealed = home.open().seal("anna", PLACE, b"72 /min")
    assert home.kek.stat().st_mode & 0o777 == 0o600
    assert sealed[:1] == MARK
    assert len(sealed) == len(b"72 /min") + OVERHEAD
    assert home.open().unseal(PLACE, sealed) == b"72 /min"
    assert open_seal(home.path).unseal(PLACE, sealed) == b"72 /min"  # as a worker does, which has no settings


def test_a_credential_and_a_command_give_the_same_key(home, monkeypatch):
    sealed = home.open().seal("anna", PLACE, b"72")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home.kek.parent))
    for line in ("credential:site.kek", f"command:cat {home.kek}"):
        assert turn_on(home.path, line).unseal(PLACE, sealed) == b"72"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/etc/kek", "names no place"),
        ("file:kek", "no absolute path"),
        ("file:{home}/kek", "would hold its own key"),
        ("credential:../kek", "no name of a credential"),
        ("credential:kek", "no credentials"),
        ("command:false", "ended with 1"),
        ("command:/no/such/program", "FileNotFoundError"),
        ("command:echo wardround-kek 1 AAAA", "line 1 is no key"),
    ],
)
def test_a_place_that_gives_no_key_is_refused_with_what_to_do(home, monkeypatch, line, words):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KeyRefused, match=words) as caught:
        turn_on(home.path, line.format(home=home.path))
    assert caught.value.remedy


def test_a_key_that_others_may_read_is_refused(home):
    home.open()
    home.kek.chmod(0o640)
    with pytest.raises(KeyRefused, match="may be read by others"):
        home.open()


def test_an_error_repeats_no_word_of_a_key(home):
    home.open()
    secret = home.kek.read_text().split()[2]
    home.kek.write_text(home.kek.read_text().replace(secret, secret[:-4]))
    with pytest.raises(KeyRefused) as caught:
        home.open()
    assert secret[:12] not in f"{caught.value} {caught.value.remedy}"


def test_two_homes_do_not_share_a_file(home, tmp_path):
    home.open()
    (tmp_path / "other").mkdir()
    with pytest.raises(KeyRefused, match="other keys"):
        turn_on(tmp_path / "other", home.line)


# -- keys that are not the right ones: an error that says so, and nothing is changed


def test_without_the_key_or_with_another_nothing_opens_and_nothing_is_lost(home):
    sealed, right = home.open().seal("anna", PLACE, b"72"), home.kek.read_bytes()
    home.kek.unlink()
    with pytest.raises(KeyRefused, match="cannot be read"):
        home.open()
    assert not home.kek.exists()  # no new one is made where there are keys
    owner = parse_kek(right.decode(), "it").owner
    write_kek(home.kek, Kek(Kek({}).with_new_version().versions, owner))
    with pytest.raises(KeyRefused, match="is not the key-encryption key"):
        home.open()
    home.kek.write_bytes(right)
    assert home.open().unseal(PLACE, sealed) == b"72"


def test_settings_that_forget_the_line_do_not_turn_it_off(home):
    assert turn_on(home.path, "") is PLAIN
    home.open()
    with pytest.raises(KeyRefused, match=r"no at_rest\.kek") as caught:
        turn_on(home.path, "")
    assert home.line in caught.value.remedy


def test_a_damaged_wrapped_key_is_seen_when_the_home_is_opened(home):
    sealer = home.open()
    sealer.seal("anna", PLACE, b"72")
    sealer.keys.close()
    with sqlite3.connect(home.path / KEYS) as db:
        wrapped = bytearray(db.execute("SELECT wrapped FROM keys").fetchone()[0])
        wrapped[20] ^= 1
        db.execute("UPDATE keys SET wrapped = ?", (bytes(wrapped),))
    db.close()
    with pytest.raises(KeyRefused, match="is damaged") as caught:
        home.open()
    assert "copy" in caught.value.remedy


def test_a_wrapped_key_moved_to_another_patient_does_not_open(home):
    sealer = home.open()
    for subject in ("anna", "bert"):
        sealer.seal(subject, PLACE, b"72")
    sealer.keys.close()
    with sqlite3.connect(home.path / KEYS) as db:
        db.execute("UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE subject = 'bert')")
    db.close()
    with pytest.raises(KeyRefused, match="is damaged"):
        home.open()


def test_a_file_that_is_no_database_is_named(home):
    home.open().keys.close()
    (home.path / KEYS).write_bytes(b"no database at all, and long enough" * 40)
    with pytest.raises(KeyRefused, match=r"keys\.sqlite is damaged"):
        home.open()
    with pytest.raises(KeyRefused, match=r"keys\.sqlite is damaged"):
        open_seal(home.path)


def test_a_full_disk_keeps_no_key_and_says_so(home, monkeypatch):
    keys = home.keys()
    real = keys._db

    class Full:
        in_transaction = False

        def execute(self, query, *rest):
            if query.startswith("BEGIN"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(query, *rest)

    keys._db = Full()
    with pytest.raises(StorageFull):
        keys.for_subject("anna")
    keys._db = real
    assert keys.key(keys.for_subject("anna"))


# -- blobs


@pytest.mark.parametrize(
    "harm",
    [
        lambda blob: blob[:-1],
        lambda blob: blob[: OVERHEAD - 1],
        lambda blob: blob[:1],
        lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]),
        lambda blob: blob[:12] + bytes([blob[12] ^ 1]) + blob[13:],
    ],
)
def test_a_blob_that_was_cut_or_changed_is_unreadable(home, harm):
    sealer = home.open()
    with pytest.raises(Unreadable) as caught:
        sealer.unseal(PLACE, harm(sealer.seal("anna", PLACE, b"72 /min")))
    assert caught.value.reason == "damaged"


def test_a_blob_opens_at_its_place_alone(home):
    sealer = home.open()
    one, two = sealer.seal("anna", ("table", 1), b"one"), sealer.seal("anna", ("table", 2), b"two")
    assert sealer.unseal(("table", 1), one) == b"one"
    for place, blob in ((("table", 1), two), (("table", 2), one), (("other", 1), one)):
        with pytest.raises(Unreadable):
            sealer.unseal(place, blob)


def test_a_key_that_was_never_here_is_told_from_one_that_was_destroyed(home, tmp_path):
    (tmp_path / "b").mkdir()
    sealer, other = home.open(), Home(tmp_path / "b").open()
    blob = sealer.seal("anna", PLACE, b"72")
    assert sealer.shred("anna") == 1
    for who, reason in ((sealer, "destroyed"), (home.open(), "destroyed"), (other, "unknown-key")):
        with pytest.raises(Unreadable) as caught:
            who.unseal(PLACE, blob)
        assert caught.value.reason == reason


# Forks are for a process of its own: libraries of this one have threads.
FORKS = """
import os, sys
from pathlib import Path
from wardround.trust import at_rest

at_rest.COUNT_MAX = 20
for _ in range(3):
    sealer = at_rest.turn_on(Path(sys.argv[1]), sys.argv[2])
    blobs = [sealer.seal(subject, ("t", 1), b"72") for subject in ("anna", "bert") for _ in range(51)]
    child = os.fork()
    blobs = (blobs if child else []) + [sealer.seal("anna", ("t", 1), b"72") for _ in range(50)]
    if child:
        assert os.waitpid(child, 0)[1] == 0
    sys.stdout.write("".join(blob.hex() + chr(10) for blob in blobs))
    sys.stdout.flush()
    if not child:
        os._exit(0)
"""


def test_no_pair_of_key_and_nonce_comes_twice_over_restarts_forks_and_full_sessions(home):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(home.path), home.line], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    heads = [bytes.fromhex(line)[: OVERHEAD - 16] for line in done.stdout.split()]  # key id, session, counter
    assert len(set(heads)) == len(heads) == 606
    assert len({head[9:21] for head in heads}) > 25  # sessions: a full one is followed by another


def test_many_patients_from_several_processes_have_one_key_each(home):
    first, second = home.open(), home.open()
    blobs = [(s, who.seal(s, PLACE, s.encode())) for s in SUBJECTS for who in (first, second)]
    assert len({blob[1:9] for _, blob in blobs}) == len(SUBJECTS)
    assert all(home.open().unseal(PLACE, blob) == subject.encode() for subject, blob in blobs)


# -- shredding


def test_shredding_leaves_no_byte_of_the_wrapped_key_and_the_others_as_they_are(home, monkeypatch):
    monkeypatch.setattr(data_keys, "LOOK_S", 0.0)
    sealer, elsewhere = home.open(), home.open()
    blobs = {s: sealer.seal(s, PLACE, b"72") for s in SUBJECTS}
    with sqlite3.connect(home.path / KEYS) as db:
        wrapped = db.execute("SELECT wrapped FROM keys WHERE subject = ?", (SUBJECTS[3],)).fetchone()[0]
    db.close()
    folder = home.path / "keys"
    assert any(wrapped in p.read_bytes() for p in folder.iterdir())  # the control: it can be found
    assert elsewhere.unseal(PLACE, blobs[SUBJECTS[3]]) == b"72"
    assert sealer.shred(SUBJECTS[3]) == 1
    assert sealer.shred(SUBJECTS[3]) == 0
    for needle in (wrapped, SUBJECTS[3].encode()):
        assert not [p.name for p in folder.iterdir() if needle in p.read_bytes()]
    for who in (sealer, elsewhere, home.open()):  # another process forgets it too
        with pytest.raises(Unreadable):
            who.unseal(PLACE, blobs[SUBJECTS[3]])
        assert who.unseal(PLACE, blobs[SUBJECTS[4]]) == b"72"


def test_an_older_copy_of_everything_but_the_key_is_unreadable_after_erasing_and_rotating(home, tmp_path):
    sealer = home.open()
    blob = sealer.seal("anna", PLACE, b"72")
    sealer.keys.close()
    copy = tmp_path / "backup"
    copy.mkdir()
    (copy / "keys").mkdir()
    for path in (home.path / "keys").iterdir():
        (copy / "keys" / path.name).write_bytes(path.read_bytes())
    assert turn_on(copy, home.line).unseal(PLACE, blob) == b"72"  # so far the copy can be read: erasing alone is not enough
    keys = home.keys()
    keys.shred("anna")
    assert keys.facts().destroyed_under_this == 1  # what `keys status` warns of
    assert turn_on(copy, home.line).unseal(PLACE, blob) == b"72"
    keys.rotate()
    assert keys.facts().destroyed_under_this == 0
    with pytest.raises(KeyRefused, match="no version 1"):
        turn_on(copy, home.line)


# -- rotation


def test_rotating_wraps_every_key_anew_and_leaves_one_version(home, monkeypatch):
    monkeypatch.setattr(data_keys, "STEP_KEYS", 6)
    running = home.open()
    blobs = {s: running.seal(s, PLACE, s.encode()) for s in SUBJECTS}
    before = home.kek.read_text()
    with sqlite3.connect(home.path / KEYS) as db:
        wrapped = [w for (w,) in db.execute("SELECT wrapped FROM keys")]
    db.close()
    left = []
    keys = home.keys()
    assert keys.rotate(left.append) == len(SUBJECTS)
    assert left == [14, 8, 2, 0]
    assert home.versions() == [2]
    on_disk = b"".join(p.read_bytes() for p in (home.path / "keys").iterdir())
    assert not [w for w in wrapped if w in on_disk]  # nor in the write-ahead log
    assert not set(before.split()) & set(home.kek.read_text().split()) - {"wardround-kek", "wardround-kek-of", keys._fact("ring")}
    blobs["new"] = running.seal("new", PLACE, b"new")  # a program that ran all the while wraps with the new version
    assert running.keys.facts().by_version == {2: len(SUBJECTS) + 1}
    for who in (running, home.open()):
        assert all(who.unseal(PLACE, blob) == subject.encode() for subject, blob in blobs.items())


def test_a_source_that_is_no_file_rotates_with_the_line_that_was_added(home, tmp_path):
    keys = home.keys()
    keys.for_subject("anna")
    keys.close()
    source = KekSource.parse(f"command:cat {home.kek}", home.path)
    with pytest.raises(KeyRefused, match="cannot be changed from here"):
        DataKeys(home.path / KEYS, source).rotate()
    write_kek(home.kek, parse_kek(home.kek.read_text(), "it").with_new_version())
    keys = DataKeys(home.path / KEYS, source)
    assert keys.facts().rotating
    assert keys.rotate() == 1
    assert keys.facts().by_version == {2: 1}
    kek = parse_kek(home.kek.read_text(), "it")
    write_kek(home.kek, Kek({2: kek.versions[2]}, kek.owner))  # the older line is taken out
    assert not DataKeys(home.path / KEYS, source).facts().rotating


def test_two_rotations_at_once_are_refused(home):
    keys = home.keys()
    keys.for_subject("anna")

    def again(_left):
        with pytest.raises(KeyRefused, match="another process"):
            home.keys().rotate()

    assert keys.rotate(again) == 1


# For each line it reads: a process that rotates and rotates, killed after a random time.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from wardround.trust import data_keys
from wardround.trust.kek import KekSource

data_keys.STEP_KEYS = 3
chance = random.Random(5)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        home = Path(sys.argv[1])
        keys = data_keys.DataKeys(home / "keys" / "keys.sqlite", KekSource.parse(sys.argv[2], home))
        while True:
            keys.rotate()
    time.sleep(chance.uniform(0.01, 0.2))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    print("killed", flush=True)
"""


def test_a_kill_anywhere_in_a_rotation_leaves_every_key_readable_and_the_next_goes_on(home):
    sealer = home.open()
    blobs = {s: sealer.seal(s, PLACE, s.encode()) for s in SUBJECTS}
    sealer.keys.close()
    command = [sys.executable, "-c", KILLS, str(home.path), home.line]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killer:
        for _ in range(12):
            killer.stdin.write("\n")
            killer.stdin.flush()
            assert killer.stdout.readline() == "killed\n"
            opened = home.open()
            assert all(opened.unseal(PLACE, blob) == subject.encode() for subject, blob in blobs.items())
            opened.keys.close()
        killer.stdin.close()
    keys = home.keys()
    keys.rotate()
    facts = keys.facts()
    assert facts.version > 2  # it did rotate
    assert (facts.rotating, sum(facts.by_version.values())) == (False, len(SUBJECTS))
    assert home.versions() == [facts.version]


@pytest.mark.parametrize("point", range(8))
def test_a_rotation_that_ends_between_any_two_of_its_steps_goes_on(home, monkeypatch, point):
    monkeypatch.setattr(data_keys, "STEP_KEYS", 8)
    sealer = home.open()
    blobs = {s: sealer.seal(s, PLACE, s.encode()) for s in SUBJECTS}
    done = 0

    class Cut(Exception):
        pass

    def cut_after(real):
        def call(*given, **named):
            nonlocal done
            if done == point:
                raise Cut
            done += 1
            return real(*given, **named)

        return call

    with monkeypatch.context() as patched:
        for owner, name in ((KekSource, "store"), (DataKeys, "_use"), (DataKeys, "_rewrap")):
            patched.setattr(owner, name, cut_after(getattr(owner, name)))
        keys = home.keys()
        try:
            keys.rotate()
        except Cut:
            pass
        else:
            assert point >= 7  # two writes of the file, one going over, four steps: all of them were cut once
    opened = home.open()
    assert all(opened.unseal(PLACE, blob) == subject.encode() for subject, blob in blobs.items())
    opened.keys.rotate()
    assert not opened.keys.facts().rotating
    assert all(home.open().unseal(PLACE, blob) == subject.encode() for subject, blob in blobs.items())
