#!/usr/bin/env python3
"""What Wardround is made of, as a CycloneDX 1.6 bill of materials: every library of a lock file, its hashes and who needs it.

    scripts/sbom.py [requirements.lock] > wardround.cdx.json

The same lock file gives the same bytes: the serial number is a digest, the one time in it SOURCE_DATE_EPOCH, if that is set.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
VIA = re.compile(r"^\s+#\s+(?:via\s+)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\s|$)")
ITSELF = "wardround"


def components(text: str) -> list[dict[str, object]]:
    """Every pinned library of a lock file, in its order, each with `via`: whose need it is."""
    found: list[dict[str, object]] = []
    for line in text.splitlines():
        if (package := PACKAGE.match(line)) is not None:
            found.append({**package.groupdict(), "hashes": [], "via": []})
        elif found and (digest := HASH.search(line)) is not None:
            found[-1]["hashes"].append(digest[1])  # type: ignore[attr-defined]
        elif found and (via := VIA.match(line)) is not None and via["name"] not in ("via", "c"):
            found[-1]["via"].append(via["name"])  # type: ignore[attr-defined]
    return found


def bill(text: str, version: str) -> dict[str, object]:
    """The bill of materials of a lock file."""
    pinned = components(text)
    if not pinned:
        raise SystemExit("no pinned library in that file: give it a lock file")
    root = f"pkg:pypi/{ITSELF}@{version}"
    called: dict[str, list[str]] = {ITSELF: [root]}  # a lock for every Python may have a library in two versions
    for c in pinned:
        called.setdefault(str(c["name"]), []).append(_ref(c))
    needs: dict[str, list[str]] = {root: [], **{_ref(c): [] for c in pinned}}
    for c in pinned:
        for via in c["via"]:  # type: ignore[attr-defined]
            for ref in called[via]:
                needs[ref].append(_ref(c))
    metadata: dict[str, object] = {
        "component": {"type": "application", "bom-ref": root, "name": ITSELF, "version": version, "purl": root,
                      "licenses": [{"license": {"id": "Apache-2.0"}}]},
    }  # fmt: skip
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        metadata = {
            "timestamp": dt.datetime.fromtimestamp(int(epoch), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **metadata,
        }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)}",
        "version": 1,
        "metadata": metadata,
        "components": [_component(c, _ref(c)) for c in pinned],
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(on))} for ref, on in needs.items()],
    }


def _ref(c: dict[str, object]) -> str:
    return f"pkg:pypi/{c['name']}@{c['version']}"


def _component(c: dict[str, object], ref: str) -> dict[str, object]:
    made: dict[str, object] = {"type": "library", "bom-ref": ref, "name": c["name"], "version": c["version"], "purl": ref}
    made["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in c["hashes"]]  # type: ignore[attr-defined]
    if c["marker"]:
        made["properties"] = [{"name": "wardround:marker", "value": c["marker"]}]
    return made


def main() -> None:
    """Print it."""
    lock = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "requirements.lock"
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "src" / "wardround" / "__init__.py").read_text())
    if version is None:
        raise SystemExit("src/wardround/__init__.py names no version")
    json.dump(bill(lock.read_text(encoding="utf-8"), version[1]), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
