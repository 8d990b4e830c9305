"""A user's own model code, found by name and compared before it is run.

`learner.module = "my_package.models:make"` names a function in a file that hub and edges each have installed. The digest of its
source travels in the study: an edge whose file differs refuses with both digests and imports nothing. Only a function that
is written in a file that itself imports torch can be named, so that a study cannot call `os:kill` at an edge.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from wardround.errors import StudyError

FILES_MAX = 500  # of a package that holds the function; more is no package of models
_loaded: dict[str, str] = {}  # digest of each module's source when it was imported into this process


@dataclass(frozen=True, slots=True)
class OwnCode:
    """Where a function stands, and the digest of its source."""

    module: str
    function: str
    digest: str


def find(named: str) -> OwnCode:
    """The code that `module:function` names, without running any of it.

    The digest is of the file; in a package, of every Python file in the folder that holds it and below, by path.

    Raises:
        StudyError: nothing of this name is installed here, or it is not a file that makes models.
    """
    module, _, function = named.partition(":")
    if not module or not function.isidentifier():
        raise StudyError(f"learner.module is `{named}`", remedy='name a function, such as "my_package.models:make"')
    path = _source(module, named)
    tree = ast.parse(path.read_bytes())
    if not any(isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == function for n in tree.body):
        raise StudyError(f"learner.module: {path.name} defines no `{function}`", remedy="name a function written in that file")
    if not any(_imports_torch(node) for node in ast.walk(tree)):
        raise StudyError(f"learner.module: {path.name} does not import torch", remedy="name a file of PyTorch models")
    return OwnCode(module, function, _digest(path, packaged="." in module or path.name == "__init__.py"))


def load(code: OwnCode) -> tuple[Callable[..., Any], ModuleType]:
    """The function and its module, imported.

    Raises:
        StudyError: the import fails, or this process holds an older version of it.
    """
    held = _loaded.setdefault(code.module, code.digest)
    if held != code.digest:
        raise StudyError(
            f"{code.module} has changed since it was loaded here", remedy="restart this program to load the new version"
        )
    try:
        module = importlib.import_module(code.module)
    except Exception as exc:
        del _loaded[code.module]
        raise StudyError(
            f"learner.module: importing {code.module} failed: {type(exc).__name__}: {exc}", remedy="correct it"
        ) from exc
    return getattr(module, code.function), module


def _source(module: str, named: str) -> Path:
    """The file of a module. Packages above it are looked through, not imported."""
    remedy = "install the package that holds it, the same version at the hub and at every edge"
    top, *below = module.split(".")
    if top in sys.stdlib_module_names:
        raise StudyError(f"learner.module `{named}` is in Python's own library", remedy="name a file of PyTorch models")
    spec: ModuleSpec | None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    name = top
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            break
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    if spec is None or name != module or not spec.origin or not spec.origin.endswith(".py"):
        raise StudyError(f"learner.module `{named}`: there is no module `{module}` here", remedy=remedy)
    return Path(spec.origin)


def _imports_torch(node: ast.AST) -> bool:
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(n.split(".")[0] == "torch" for n in names)


def _digest(path: Path, *, packaged: bool) -> str:
    folder = path.parent
    files = sorted(folder.rglob("*.py")) if packaged else [path]
    if len(files) > FILES_MAX:
        raise StudyError(
            f"learner.module: {folder.name} holds {len(files)} Python files", remedy="give the models a package of their own"
        )
    hash_ = hashlib.sha256()
    for file in files:
        text = file.read_bytes().replace(b"\r\n", b"\n")  # the same text, checked out on another system
        hash_.update(f"{file.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return hash_.hexdigest()[:32]
