"""Names of edges and devices: they become MQTT topics, certificate names and files, so they are kept plain."""

from __future__ import annotations

import re

from wardround.errors import TrustError
from wardround.settings import NAME_PATTERN

_NAME = re.compile(NAME_PATTERN)


def check_name(name: str, *, what: str = "name") -> str:
    """Return the name.

    Raises:
        TrustError: it is not 1 to 40 characters of a-z, 0-9 and inner hyphens.
    """
    if not _NAME.fullmatch(name):
        raise TrustError(
            f"{what} {name!r} is not allowed",
            remedy="use 1 to 40 characters out of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        )
    return name
