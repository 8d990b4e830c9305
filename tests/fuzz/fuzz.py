"""One target under atheris (libFuzzer): `python fuzz.py TARGET CORPUS [libFuzzer's options]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["wardround"]):
    import targets


def main() -> None:
    """Fuzz until the time is over, or something else than a refusal comes."""
    target = targets.TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: targets.one(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
