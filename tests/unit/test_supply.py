"""What leaves this repository: the bill of materials names what the lock file pins, and the wheel is the same each time."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "sbom.py"
EPOCH = "1700000000"


@pytest.fixture(scope="module")
def sbom():
    spec = importlib.util.spec_from_file_location("sbom", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_of_materials_has_every_pinned_library_with_its_hashes_and_who_needs_it(sbom, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    text = (ROOT / "requirements.lock").read_text()
    bill = sbom.bill(text, "0.1.0")
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    assert [(c["name"], c["version"]) for c in bill["components"]] == pinned
    assert sum(len(c["hashes"]) for c in bill["components"]) == text.count("--hash=sha256:")
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert uuid.UUID(bill["serialNumber"].removeprefix("urn:uuid:")).version == 4
    refs = [bill["metadata"]["component"]["bom-ref"], *(c["bom-ref"] for c in bill["components"])]
    assert len(set(refs)) == len(refs)
    assert all(c["purl"] == f"pkg:pypi/{c['name']}@{c['version']}" for c in bill["components"])
    needs = {d["ref"]: d["dependsOn"] for d in bill["dependencies"]}
    assert list(needs) == refs
    assert {ref for on in needs.values() for ref in on} == set(refs[1:]), "everything is there because something needs it"
    root = {ref.partition("@")[0] for ref in needs[refs[0]]}
    assert {"pkg:pypi/grpcio", "pkg:pypi/sqlalchemy", "pkg:pypi/psycopg"} <= root
    assert "pkg:pypi/psycopg-binary" not in root
    assert sbom.bill(text, "0.1.0") == bill


def test_what_is_no_lock_file_gives_no_bill(sbom):
    with pytest.raises(SystemExit, match="lock file"):
        sbom.bill("numpy>=2\n", "0.1.0")


def test_a_library_for_some_machines_alone_says_so(sbom):
    text = "a==1 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "0" * 64 + "\n    # via wardround (pyproject.toml)\n"
    (component,) = sbom.bill(text, "0")["components"]
    assert component["properties"] == [{"name": "wardround:marker", "value": "sys_platform == 'win32'"}]


def test_two_builds_of_the_wheel_are_the_same_bytes(tmp_path):
    digests = []
    for name, mask, at in (("one", 0o022, 1_600_000_000), ("two", 0o077, 1_690_000_000)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
            shutil.copy(ROOT / file, folder / file)
        for part in ("src", "deploy"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.rglob("*"):
            path.chmod((0o777 if path.is_dir() or os.access(path, os.X_OK) else 0o666) & ~mask)
            os.utime(path, (at, at))
        built = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / f"{name}-dist"],
            cwd=folder, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}, capture_output=True, text=True, timeout=55, check=False,
        )  # fmt: skip
        assert built.returncode == 0, built.stderr
        (wheel,) = (tmp_path / f"{name}-dist").glob("*.whl")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    names = zipfile.ZipFile(wheel).namelist()
    assert {"wardround/deploy/templates/service", "wardround/deploy/program.Containerfile", "wardround/cli/main.py"} <= set(names)
