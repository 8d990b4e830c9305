"""Who draws a hub's noise: our own sampler (noise.py), or OpenDP's, which others have audited. Both draw the same distribution.

The discrete Gaussian on whole numbers, exact, from random numbers of the operating system; `privacy.sampler` of a study chooses.
OpenDP's is single draws with rational numbers: some 10 microseconds each, a hundred times ours, and 270 MB on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import StudyError
from wardround.learn.privacy.noise import SIGMA_MAX, SIGMA_MIN

Integers = NDArray[np.int64]
Sampler = Callable[[float, int], Integers]  # of sigma and size: independent draws, shape (size,)

EXACT, OPENDP = "exact", "opendp"
SAMPLERS = (EXACT, OPENDP)
CHUNK = 65_536  # draws at a time: OpenDP takes and gives lists of Python's numbers


def sampler_of(name: str) -> Sampler | None:
    """The sampler of this name; None: our own.

    Raises:
        StudyError: it is OpenDP's, which is not installed here.
    """
    if name == OPENDP:
        _opendp()
        return opendp_gaussian
    return None


def opendp_gaussian(sigma: float, size: int) -> Integers:
    """As noise.discrete_gaussian, by OpenDP.

    Raises:
        ValueError: sigma is not from SIGMA_MIN to SIGMA_MAX.
        StudyError: OpenDP is not installed here.
    """
    if not SIGMA_MIN <= sigma <= SIGMA_MAX:
        raise ValueError(f"sigma {sigma:g} of a discrete Gaussian is not from {SIGMA_MIN:g} to {SIGMA_MAX:g}")
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    measure = dp.m.make_gaussian(*space, scale=float(sigma))
    found = np.empty(size, np.int64)
    for start in range(0, size, CHUNK):
        found[start : start + CHUNK] = measure([0] * min(CHUNK, size - start))
    return found


def _opendp() -> Any:
    try:
        import opendp.prelude as dp  # noqa: PLC0415 - a second or more
    except ImportError as error:
        raise StudyError(
            'privacy.sampler is "opendp", and OpenDP is not installed here',
            remedy="pip install 'wardround[opendp]' at the hub, or choose privacy.sampler = \"exact\"",
        ) from error
    dp.enable_features("contrib")  # what is not yet verified line by line calls itself so: the Gaussian's constructor does
    return dp
