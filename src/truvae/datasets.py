"""Data for experiments: bars with known parameters, and whitened patches of natural pictures."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from truvae.decoders import MLP, linear
from truvae.errors import InputError, check_whole
from truvae.model import Bernoulli, Model
from truvae.noise import Gaussian

Array = npt.NDArray[np.float64]


def bars(n_bars: int = 8, amplitude: float = 1.0, sigma2: float = 0.01) -> Model:
    """Return the model that bars come from: horizontal and vertical ones, added up (App. B.2).

    Two bars are active in the mean (pi = 2 / H, at most 1 / 2).

    Parameters
    ----------
    n_bars
        H, an even number; the data are pictures of H / 2 x H / 2 pixels.
    amplitude
        Brightness of a bar.
    sigma2
        Variance of the noise.

    Returns
    -------
    A model with linear decoder; `Model.sample` draws data, `Model.log_likelihood` is exact.

    Examples
    --------
    >>> model = bars(4)
    >>> model.decoder(torch.eye(4))[1].view(2, 2).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    if n_bars < 2 or n_bars % 2:
        raise ValueError(f"bars come in pairs of rows and columns: {n_bars} is not even")
    decoder = linear(n_bars, (n_bars // 2) ** 2)
    with torch.no_grad():
        decoder.first.weight.copy_(_fields(n_bars, amplitude).T)
    return Model(_prior(n_bars), decoder, Gaussian(torch.tensor(float(sigma2))))


def correlated_bars(n_bars: int = 8, amplitude: float = 1.0, sigma2: float = 0.01) -> Model:
    """Return the model of bars of which some avoid each other (App. B.2, Fig. 10).

    The first latent suppresses the bar of the second one, and the last latent that of the last but
    one, through a hidden layer of rectified units: these pairs of bars never appear together. The
    parameters are those of `bars`, with at least 4 bars.
    """
    if n_bars < 4 or n_bars % 2:
        raise ValueError(f"correlated bars are 4 or more, and an even number, not {n_bars}")
    decoder = MLP(n_bars, (n_bars,), (n_bars // 2) ** 2)
    output = decoder.rest[-1]
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        nn.init.eye_(decoder.first.weight)
        decoder.first.weight[1, 0] = decoder.first.weight[-2, -1] = -1.0
        output.weight.copy_(_fields(n_bars, amplitude).T)
    return Model(_prior(n_bars), decoder, Gaussian(torch.tensor(float(sigma2))))


def whitened_patches(
    pictures: list[npt.ArrayLike],
    n: int,
    size: int,
    *,
    clamp: float = 0.02,
    keep: float = 0.95,
    random_state: int = 0,
) -> Array:
    """Cut random patches out of natural pictures and whiten them.

    As the paper's source describes (Guiraud et al. 2018): the highest amplitudes of each picture
    are clamped, and the patches whitened by ZCA, the whitening that changes them least. Before that
    each picture is brought to mean 0 and variance 1, so that all count alike.

    Parameters
    ----------
    pictures
        Grey pictures (rows, columns) of any size and units, none of them constant.
    n
        Number of patches, spread evenly over the pictures.
    size
        Their side in pixels, at most the smallest side of a picture.
    clamp
        Share of the pixels of each picture that are set to the brightest of the others, in [0, 1).
    keep
        Share of the variance whose principal components are kept, in (0, 1].
    random_state
        Seed of the places.

    Returns
    -------
    (n, size * size), mean 0 and variance 1 along each principal axis that is kept.
    """
    check_whole("n", n)
    rng = np.random.default_rng(random_state)
    counts = [len(part) for part in np.array_split(np.arange(n), len(pictures))]
    parts = []
    for picture, count in zip(pictures, counts, strict=True):
        array = np.asarray(picture, dtype=np.float64)
        array = np.minimum(array, np.quantile(array, 1 - clamp))
        array = (array - array.mean()) / array.std()
        windows = np.lib.stride_tricks.sliding_window_view(array, (size, size))
        places = [rng.integers(side, size=count) for side in windows.shape[:2]]
        parts.append(windows[tuple(places)].reshape(count, -1))
    return zca(np.concatenate(parts), keep)


def zca(x: Array, keep: float = 0.95) -> Array:
    """Whiten data (N, D) in the leading principal components with a share `keep` of the variance.

    The components are turned back, so that data stay as near to what they were as white data can
    (zero-phase component analysis, doi:10.1016/S0042-6989(97)00121-1).

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([1.0, 5.0, 9.0])
    >>> np.allclose(np.cov(zca(x, 1.0).T), np.eye(3))
    True
    """
    if len(x) < 2:
        raise InputError(f"whitening needs 2 rows or more, not {len(x)}")
    x = x - x.mean(0)
    variances, axes = np.linalg.eigh(x.T @ x / (len(x) - 1))
    # The smallest components go, as long as they hold no more than what need not be kept.
    kept = np.cumsum(variances) > (1 - keep) * variances.sum()
    turned: Array = (x @ axes[:, kept]) / np.sqrt(variances[kept]) @ axes[:, kept].T
    return turned


def _fields(n_bars: int, amplitude: float) -> Tensor:
    """(H, D): the rows, then the columns of a picture."""
    side = n_bars // 2
    lines = torch.eye(side)
    rows, columns = lines[:, :, None].expand(-1, -1, side), lines[:, None].expand(-1, side, -1)
    return amplitude * torch.cat([rows, columns]).flatten(1)


def _prior(n_bars: int) -> Bernoulli:
    return Bernoulli(torch.full((n_bars,), min(2 / n_bars, 0.5)))


__all__ = ["bars", "correlated_bars", "whitened_patches", "zca"]
