"""The image holds what a worker needs, and nothing that it does not."""

from __future__ import annotations

import subprocess
import sys

from wardround.process.nodes import image


def test_a_worker_starts_from_the_files_of_the_image_alone(tmp_path):
    image.copy_sources(tmp_path / "wardround")
    code = (
        "import sys; sys.path = [p for p in sys.path if not p.endswith('/src')]; sys.path.insert(0, sys.argv[1]);"
        "import wardround.process.worker, wardround.process.work, wardround;"
        "from wardround.process.catalogue import JOBS; print(len(JOBS), wardround.__file__);"
        "print([m for m in ('podman', 'sqlalchemy', 'grpc', 'jax', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert str(tmp_path) in first
    assert second == "[]" or second == "['cryptography']"  # Dask's own


def test_the_name_changes_with_the_code_and_only_with_it(tmp_path, monkeypatch):
    before = image.reference()
    image.reference.cache_clear()
    assert image.reference() == before
    changed = tmp_path / "lake.py"
    changed.write_text("other")
    monkeypatch.setattr(image, "sources", lambda: [changed])
    image.reference.cache_clear()
    assert image.reference() != before
    image.reference.cache_clear()
