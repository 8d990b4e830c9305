"""Statistics of windows of any signal, in time and in frequency: pure, vectorised over windows and channels.

Sources: the list is that of Anguita et al., ESANN 2013; auto-regression by the Yule-Walker equations, spectral entropy
after Inouye et al., Electroencephalogr. Clin. Neurophysiol. 79(3), 1991.
Spreads and powers are decimal logarithms; `FLOOR` keeps the logarithm of a constant finite.
"""

from __future__ import annotations

import numpy as np

from wardround.records import Floats

FLOOR = 1e-3
AR_ORDER = 4
BANDS_HZ = ((0.3, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 6.0), (6.0, 8.0), (8.0, 12.0), (12.0, 18.0), (18.0, 25.0))
TIME_STATISTICS = ("mean", "std", "mad", "max", "min", "iqr", "energy", *(f"ar{k}" for k in range(1, AR_ORDER + 1)))
FREQUENCY_STATISTICS = (
    "mean frequency",
    "peak frequency",
    "spectral entropy",
    "spectral skewness",
    "spectral kurtosis",
    *(f"power {low:g}-{high:g} Hz" for low, high in BANDS_HZ),
)


def time_features(windows: Floats) -> Floats:
    """TIME_STATISTICS of each window, shape (..., len(TIME_STATISTICS)), of windows of shape (..., n_samples)."""
    low, middle, high = np.percentile(windows, [25, 50, 75], axis=-1)
    columns = [
        windows.mean(axis=-1),
        np.log10(windows.std(axis=-1) + FLOOR),
        np.log10(np.median(np.abs(windows - middle[..., None]), axis=-1) + FLOOR),
        windows.max(axis=-1),
        windows.min(axis=-1),
        np.log10(high - low + FLOOR),
        np.log10(np.square(windows).mean(axis=-1) + FLOOR),
    ]
    return np.concatenate([np.stack(columns, axis=-1), auto_regression(windows, AR_ORDER)], axis=-1)


def auto_regression(windows: Floats, order: int) -> Floats:
    """Yule-Walker coefficients a of x[t] = sum_k a[k] x[t-k], shape (..., order); zero for a constant window."""
    centred = windows - windows.mean(axis=-1, keepdims=True)
    n = windows.shape[-1]
    r = np.stack([(centred[..., : n - k] * centred[..., k:]).sum(axis=-1) / n for k in range(order + 1)], axis=-1)
    power = np.maximum(r[..., :1], 1e-9)
    r = r / power
    r[..., 0] = 1.0 + 1e-6  # keeps the equations solvable for a pure tone
    lags = np.abs(np.arange(order)[:, None] - np.arange(order))
    return np.asarray(np.linalg.solve(r[..., lags], r[..., 1:, None])[..., 0])


def frequency_features(windows: Floats, rate_hz: float) -> Floats:
    """FREQUENCY_STATISTICS of each window (mean removed, Hann), shape (..., len(FREQUENCY_STATISTICS))."""
    n = windows.shape[-1]
    hann = np.hanning(n)
    centred = (windows - windows.mean(axis=-1, keepdims=True)) * hann
    power = np.square(np.abs(np.fft.rfft(centred)))[..., 1:] / (n * np.square(hann).sum() / 2)
    frequency = np.fft.rfftfreq(n, 1 / rate_hz)[1:]
    share = power / np.maximum(power.sum(axis=-1, keepdims=True), 1e-12)
    mean = (share * frequency).sum(axis=-1)
    centred_frequency = frequency - mean[..., None]
    spread = np.sqrt(np.maximum((share * np.square(centred_frequency)).sum(axis=-1), 1e-6))
    columns = [
        mean,
        frequency[power.argmax(axis=-1)],
        -(share * np.log(np.maximum(share, 1e-12))).sum(axis=-1) / np.log(len(frequency)),
        (share * centred_frequency**3).sum(axis=-1) / spread**3,
        np.log((share * centred_frequency**4).sum(axis=-1) / spread**4 + FLOOR),
    ]
    for low, high in BANDS_HZ:
        band = power[..., (frequency > low) & (frequency <= high)].sum(axis=-1)
        columns.append(np.log10(band + FLOOR**2))
    return np.stack(columns, axis=-1)
