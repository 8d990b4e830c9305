"""A study's model as one file to take away from the console: what `wardround study export` writes, as a ZIP archive."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from wardround.errors import StudyError
from wardround.learn.blobs import FolderBlobs
from wardround.learn.cards import Registered
from wardround.learn.exports import export_files
from wardround.learn.journal import model_name
from wardround.learn.manifests import Signed
from wardround.learn.study import parse_study
from wardround.process.transforms import TASKS
from wardround.store import Store
from wardround.trust.roles import Act
from wardround.trust.signatures import HubSigner


class ModelExports:
    """Of one hub. May be called from any thread."""

    def __init__(self, home: Path, store: Store, *, check: Callable[[str, Act], None], record: Callable[..., None]) -> None:
        """`check(who, act)` raises NotAllowed; `record` makes an entry of the audit log."""
        self._home, self._store, self._check, self._record = home, store, check, record

    def archive(self, who: str, name: str, number: int) -> bytes | None:
        """The archive of the model that a round made; None: there is none. It stands in the audit log before it is given.

        Raises:
            NotAllowed: their role does not cover it.
            StudyError: the model is not kept any more, or this version cannot read its study.
        """
        self._check(who, Act.EXPORT)
        study = next((s for s in self._store.studies() if s.name == name), None)
        found = next((m for m in self._store.models(name) if m.number == number), None) if study is not None else None
        if study is None or found is None:
            return None
        parsed = parse_study(study.toml, where=name)
        try:
            data = FolderBlobs(self._home / "studies" / name).read(model_name(found.model))
        except FileNotFoundError as exc:
            raise StudyError(f"the model of round {number} is not kept any more", remedy="choose a newer one") from exc
        signer = HubSigner(self._home / "pki")
        registered = Registered(found.number, found.model, found.parent, found.stage, found.made_us, found.facts)

        def sign(manifest: bytes) -> Signed:
            return Signed(manifest, signer.sign(manifest), signer.certificate)

        files = export_files(parsed, TASKS[parsed.task], registered, data, sign)
        self._record("export", "model taken away at the console", who, study=name, round=number, model=found.model)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in files.items():
                archive.writestr(f"{name}-round-{number}/{file}", content)
        return packed.getvalue()
