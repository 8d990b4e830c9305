"""A model as a folder that stands by itself: the file, its card, its signed manifest, and a program that predicts with it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wardround.errors import StudyError
from wardround.learn.cards import Registered, TaskFacts, card, markdown
from wardround.learn.grpc_wire import CHUNK
from wardround.learn.manifests import Signed, make_manifest
from wardround.learn.models import decode_model, encode_model, without_controls
from wardround.learn.study import Study

FORMATS = ("safetensors", "onnx")
EXAMPLE_KINDS = ("mlp", "cnn", "tcn", "gru", "sklearn", "xgboost")  # learners that the loading example knows


def export_model(
    folder: Path, study: Study, task: TaskFacts, registered: Registered, data: bytes, sign: Callable[[bytes], Signed]
) -> list[str]:
    """Write the folder; the names of its files. `data` is the model's file.

    Raises:
        StudyError: the folder cannot be written.
    """
    files = export_files(study, task, registered, data, sign)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as exc:
        raise StudyError(f"{folder} cannot be written: {exc.strerror}", remedy="name another folder") from exc
    return list(files)


def export_files(
    study: Study, task: TaskFacts, registered: Registered, data: bytes, sign: Callable[[bytes], Signed]
) -> dict[str, bytes]:
    """What is in the folder, by name. `data` is the model's file."""
    plain = encode_model(without_controls(decode_model(data)))
    sha256 = hashlib.sha256(plain).hexdigest()
    facts = card(study, task, registered, file_sha256=sha256)
    files: dict[str, bytes] = {
        "model.safetensors": plain,
        "card.json": json.dumps(facts, indent=2).encode(),
        "card.md": markdown(facts).encode(),
        "manifest.json": json.dumps(_manifest(study, sha256, plain, sign), indent=2).encode(),
    }
    if study.learner.kind in EXAMPLE_KINDS:
        files["predict.py"] = _example()
    return files


def _manifest(study: Study, sha256: str, data: bytes, sign: Callable[[bytes], Signed]) -> Mapping[str, Any]:
    parts = (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
    signed = sign(make_manifest(study.name, sha256, CHUNK, parts))
    return {
        "study": study.name,
        "file": "model.safetensors",
        "sha256": sha256,
        "size": len(data),
        "manifest": base64.b64encode(signed.manifest).decode(),  # MessagePack, as edges receive it
        "signature": base64.b64encode(signed.signature).decode(),  # ECDSA P-256, SHA-256
        "certificate": signed.certificate.decode(),
    }


def _example() -> bytes:
    found = importlib.util.find_spec("wardround.learn.loading_example")
    assert found is not None  # noqa: S101 - it lies beside this file
    assert found.origin is not None  # noqa: S101
    return Path(found.origin).read_bytes()
