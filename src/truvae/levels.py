"""How much white noise a picture has, from the noisy picture alone."""

import math

import torch
from torch import Tensor

from truvae.patches import Patches, cosine_basis, principal_axes

# Sums of both frequencies, in half periods for each side of a patch: up to the first one the cosine
# coefficients of a patch tell whether it is flat; from the second one on they tell its noise.
_LOW, _HIGH = 3 / 8, 5 / 8
# Share of the patches that count as flat, and the fewest patches to choose them from.
_FLAT, _FEWEST = 0.1, 1000
# Patches of which those of a lattice are enough.
_ENOUGH = 1 << 20


def noise_level(patches: Patches) -> float:
    """Estimate the standard deviation of white noise from all patches of a picture.

    Texture is taken for noise, never noise for texture: so of two estimates that err on different
    textures the lower one counts.

    1. The signal lies in a few principal axes, and the variances along the others are that of the
       noise, scattered evenly around it: the largest ones are left out until the mean of the rest
       is no more than their median (Chen, Zhu and Heng 2015, doi:10.1109/ICCV.2015.62).
    2. The tenth of all patches that has least energy at low frequencies has hardly any signal at
       high ones, where white noise is independent of that choice (the principle of Ponomarenko et
       al. 2007, see Colom and Buades 2013, doi:10.5201/ipol.2013.45).

    Patches with gaps take no part, nor do those with a pixel as dark or as bright as any, since
    their noise may be cut off, unless there are hardly any others.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> picture = torch.arange(64.0).expand(64, 64) + 3 * torch.randn(64, 64, generator=g)
    >>> round(noise_level(Patches(picture, 8)))
    3
    """
    sound = _sound(patches.some(patches.lattice(math.isqrt(len(patches) // _ENOUGH) + 1)))
    if len(sound) < _FEWEST:
        return math.sqrt(max(_of_least_axes(patches), 0.0))
    return math.sqrt(max(min(_of_least_axes(sound), _of_flat_patches(sound)), 0.0))


def _sound(patches: Patches) -> Patches:
    """Return the patches that are whole and neither cut off nor constant."""
    bounds = [
        (b.nan_to_num(math.inf).min(), b.nan_to_num(-math.inf).max()) for b in patches.blocks()
    ]
    lows, highs = zip(*bounds, strict=True)
    least, most = torch.stack(lows).min(), torch.stack(highs).max()
    sound = [
        ((b > least) & (b < most)).all(1) & (b.amin(1) < b.amax(1))  # none of it is true of a gap
        for b in patches.blocks()
    ]
    return patches.some(torch.cat(sound).nonzero()[:, 0])


def _of_least_axes(patches: Patches) -> float:
    """Return the variance of the noise along the axes that the signal does not reach."""
    _, variances, _ = principal_axes(patches)
    for n in range(len(variances), 1, -1):
        if variances[:n].mean() <= variances[:n].median():
            break
    return float(variances[:n].mean())


def _of_flat_patches(patches: Patches) -> float:
    """Return the variance of the noise in flat patches; infinite if cosines cannot tell these."""
    low, high = (band.to(patches.device) for band in _bands(patches))
    if not low.any():
        return math.inf
    basis = cosine_basis(patches.sides, patches.n_channels).to(patches.device)
    squares = ((block @ basis).square() for block in patches.blocks())
    energies = [torch.stack([s[:, band].mean(1) for band in (low, high)], 1) for s in squares]
    flatness, noise = torch.cat(energies).T
    flattest = flatness.topk(round(_FLAT * len(noise)), largest=False).indices
    return float(noise[flattest].mean())


def _bands(patches: Patches) -> tuple[Tensor, Tensor]:
    """Return which cosines of patches tell whether they are flat, and which tell their noise."""
    rows, columns = (torch.arange(side) / side for side in patches.sides)
    frequency = (rows[:, None] + columns).flatten().repeat(patches.n_channels)
    return (frequency > 0) & (frequency <= _LOW), frequency >= _HIGH


__all__ = ["noise_level"]
