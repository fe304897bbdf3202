"""Other methods, on the pictures that ours get."""

import time

import numpy as np

from truvae.io import to_dtype


def bm3d(noisy: np.ndarray, levels: list[float]) -> tuple[np.ndarray, float]:
    """Run BM3D (doi:10.1109/TIP.2007.901238) on (R, C) or on each channel of (R, C, K).

    It is told the noise level of each channel. Returns the picture in 8 bit, and the seconds taken.
    """
    from bm3d import bm3d as restore

    start = time.perf_counter()
    planes = np.moveaxis(np.atleast_3d(noisy).astype(float), 2, 0)
    restored = [restore(plane, level) for plane, level in zip(planes, levels, strict=True)]
    seconds = time.perf_counter() - start
    return to_dtype(np.stack(restored, -1).reshape(noisy.shape), np.uint8), seconds
