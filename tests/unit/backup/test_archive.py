"""An archive is whole, holds no key, and one that is damaged or made by somebody else leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest

from wardround.backup.archive import FORMAT, MANIFEST, ArchiveBroken, Manifest, Source, unpack, verify_archive, write_archive
from wardround.backup.keys import Needles, is_secret, needles_of
from wardround.backup.restoring import restore
from wardround.clock import ManualClock
from wardround.errors import SettingsError, TrustError
from wardround.trust.certificates import Authority, key_pem, new_key

NONE = Needles([])
BARE = Manifest(role="hub", name="hub", software="0", made_us=1)


@pytest.fixture
def archive(tmp_path):
    """Three files, one of several chunks and one of none."""
    contents = {"hub.toml": b'site = "X"\n', "lake/t/part.parquet": bytes(range(256)) * 20_000, "studies/s/empty": b""}
    sources = []
    for number, (name, data) in enumerate(contents.items()):
        (tmp_path / f"source-{number}").write_bytes(data)
        sources.append(Source(name, tmp_path / f"source-{number}"))
    out = tmp_path / "a.wrb"
    write_archive(out, sources, BARE, NONE)
    return out, contents


def test_what_goes_in_comes_out_for_its_owner_alone(archive, tmp_path):
    out, contents = archive
    assert out.stat().st_mode & 0o777 == 0o600
    manifest = verify_archive(out)
    assert {i.name: (i.size, i.sha256) for i in manifest.items} == {
        n: (len(d), hashlib.sha256(d).hexdigest()) for n, d in contents.items()
    }
    (tmp_path / "home").mkdir()
    unpack(out, tmp_path / "home")
    found = {p.relative_to(tmp_path / "home").as_posix(): p for p in (tmp_path / "home").rglob("*") if p.is_file()}
    assert {n: p.read_bytes() for n, p in found.items()} == contents
    assert {p.stat().st_mode & 0o777 for p in found.values()} == {0o600}
    assert not list(tmp_path.glob(".*"))


def refused(path, tmp_path, words):
    with pytest.raises(ArchiveBroken, match=words):
        verify_archive(path)
    with pytest.raises(ArchiveBroken, match=words):
        restore(path, tmp_path / "home", ManualClock(), lambda _home: None)
    assert not (tmp_path / "home").exists()
    assert not list(tmp_path.glob(".home*"))


def test_a_changed_byte_anywhere_is_seen(archive, tmp_path):
    out, contents = archive
    data = bytearray(out.read_bytes())
    for wanted in contents["hub.toml"], bytes(range(256)) * 2:
        at = data.index(wanted)
        data[at] ^= 1
        (tmp_path / "b.wrb").write_bytes(data)
        refused(tmp_path / "b.wrb", tmp_path, "is damaged")
        data[at] ^= 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_part_of_an_archive_is_none(archive, tmp_path, share):
    out, _ = archive
    (tmp_path / "b.wrb").write_bytes(out.read_bytes()[: int(out.stat().st_size * share)])
    with pytest.raises(ArchiveBroken):
        verify_archive(tmp_path / "b.wrb")


def forged(path, members, **facts):
    """An archive with these members, whose manifest fits them."""
    items = [{"name": m.name, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for m, d in members]
    said = {"format": FORMAT, "role": "hub", "name": "h", "software": "0", "made_us": 1, "items": items} | facts
    with tarfile.open(path, "w") as tar:
        for member, data in [*members, (tarfile.TarInfo(MANIFEST), json.dumps(said).encode())]:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"" if kind != tarfile.REGTYPE else b"x"


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "./a", "a//b", "a\\b", "..", "a/./b"])
def test_a_name_that_leaves_the_home_is_refused(tmp_path, name):
    forged(tmp_path / "b.wrb", [member(name)])
    refused(tmp_path / "b.wrb", tmp_path, "no plain file|not in its manifest")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    forged(tmp_path / "b.wrb", [member("a", kind, "/etc/passwd"), member("a2")])
    refused(tmp_path / "b.wrb", tmp_path, "no plain file")


def test_keys_extra_and_missing_files_and_names_twice_are_refused(tmp_path):
    cases = {
        "no backup holds one": ([member("pki/ca.key")], {}),
        "not in its manifest": ([member("a"), member("b")], {"items": []}),
        "are missing": (
            [member("a")],
            {"items": [{"name": n, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()} for n in "ab"]},
        ),
        "a name twice": ([member("a"), member("a")], {}),
        "is of a 'ward'": ([member("a")], {"role": "ward"}),
        "reads up to": ([member("a")], {"format": FORMAT + 1, "items": "of another form"}),
        "Expected `int`": ([member("a")], {"format": None}),
        "cannot be read": ([member("a")], {"items": 7}),
    }
    for words, (members, facts) in cases.items():
        forged(tmp_path / "b.wrb", members, **facts)
        refused(tmp_path / "b.wrb", tmp_path, words)


def test_another_tar_and_no_tar_are_no_backup(tmp_path):
    with tarfile.open(tmp_path / "b.wrb", "w") as tar:
        tar.addfile(*[member("a")[0], io.BytesIO(b"x")])
    refused(tmp_path / "b.wrb", tmp_path, "no manifest")
    (tmp_path / "b.wrb").write_bytes(b"\x1f\x8b" + bytes(5_000))
    refused(tmp_path / "b.wrb", tmp_path, "no archive")
    refused(tmp_path / "nothing", tmp_path, "no such file")


def test_a_folder_with_something_in_it_is_left_alone(archive, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("x")
    with pytest.raises(SettingsError, match="not empty"):
        restore(archive[0], tmp_path / "home", ManualClock(), lambda _home: None)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["mine"]


# -- keys


def test_a_key_in_what_goes_out_stops_the_backup_wherever_in_a_file_it_is(tmp_path):
    key = tmp_path / "some.key"
    key.write_bytes(bytes(range(7, 39)))
    needles = needles_of([key])
    (tmp_path / "plain").write_bytes(b"data")
    form = key.read_bytes()
    for number, hidden in enumerate((form, form.hex().encode(), key_pem(new_key()))):
        for before in (0, 10 * 1024 - 20, 16 * 1024 - 5, 1024 * 1024 - 7):  # across the chunks that tar reads
            path = tmp_path / f"f-{number}-{before}"
            path.write_bytes(b"." * before + hidden + b"." * 100_000)
            out = tmp_path / "a.wrb"
            with pytest.raises(TrustError, match="holds a key"):
                write_archive(out, [Source("a", tmp_path / "plain"), Source("b", path)], BARE, needles)
            assert not out.exists()
            assert not list(tmp_path.glob(".a*"))


def test_the_lines_of_a_pem_key_are_known_and_a_certificate_is_not_taken_for_one(tmp_path):
    authority = Authority.create(tmp_path / "pki", "hub")
    pem = (tmp_path / "pki" / "ca.key").read_bytes()
    needles = needles_of([tmp_path / "pki" / "ca.key"])
    with pytest.raises(TrustError):
        needles.check(b"x" + pem.splitlines()[2] + b"x", "f")
    needles.check(authority.pem, "f")
    assert is_secret(tmp_path / "pki" / "ca.key")
    assert not is_secret(tmp_path / "pki" / "ca.pem")
