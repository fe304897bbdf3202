"""Other methods, on the pictures that ours get."""

import time

import numpy as np

from truvae.io import to_dtype


def bm3d(noisy: np.ndarray, level: float) -> tuple[np.ndarray, float]:
    """Run BM3D (doi:10.1109/TIP.2007.901238) on (R, C), in colour (R, C, 3) CBM3D
    (doi:10.1109/ICIP.2007.4378954).

    It is told the noise level. Returns the picture in 8 bit, and the seconds taken.
    """
    import bm3d

    start = time.perf_counter()
    restore = bm3d.bm3d if noisy.ndim == 2 else bm3d.bm3d_rgb
    restored = restore(noisy.astype(float), level)
    seconds = time.perf_counter() - start
    return to_dtype(restored, np.uint8), seconds


def bm3d_by_spectrum(noisy: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, float]:
    """Run BM3D for correlated noise (doi:10.1109/TIP.2020.3014721) on (R, C).

    It is told the spectrum of the noise, (R, C): its expected square at each frequency of `fft2`.
    Returns the picture and the seconds taken.
    """
    import bm3d

    # The package wants a function by a name that NumPy has given up.
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid
    start = time.perf_counter()
    restored = bm3d.bm3d(noisy, powers)
    return restored, time.perf_counter() - start


def non_local_means(noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """Run non-local means (doi:10.5201/ipol.2011.bcm_nlm) on (R, C), as scikit-image advises.

    It is told the noise level. Returns the picture in 8 bit, and the seconds taken.
    """
    from skimage.restoration import denoise_nl_means

    start = time.perf_counter()
    restored = denoise_nl_means(noisy.astype(float), patch_size=5, patch_distance=6, h=0.8 * sigma,
                                sigma=sigma, fast_mode=True, preserve_range=True)  # fmt: skip
    return to_dtype(restored, np.uint8), time.perf_counter() - start


def total_variation(noisy: np.ndarray, _sigma: float) -> tuple[np.ndarray, float]:
    """Minimise total variation (doi:10.1023/B:JMIV.0000011325.36760.1e) of (R, C).

    Of ten weights it takes the one that predicts pixels from their neighbours best, so that it
    needs no noise level: what it is told is not used. Returns the picture in 8 bit, and the seconds
    taken.
    """
    from skimage.restoration import calibrate_denoiser, denoise_tv_chambolle

    start = time.perf_counter()
    scaled = noisy / 255.0
    weights = {"weight": np.geomspace(0.02, 0.5, 10)}
    _, (tried, losses) = calibrate_denoiser(
        scaled, denoise_tv_chambolle, weights, extra_output=True
    )
    restored = denoise_tv_chambolle(scaled, **tried[int(np.argmin(losses))])
    return to_dtype(255 * restored, np.uint8), time.perf_counter() - start
