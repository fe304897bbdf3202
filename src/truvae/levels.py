"""How much white noise a picture has, from the noisy picture alone."""

import math

import torch
from torch import Tensor

from truvae.patches import Patches, cosine_basis, principal_axes

# Sums of both frequencies, in half periods for each side of a patch: up to the first one all cosine
# coefficients of a patch tell whether it is flat; from the second one on half of them do, and the
# others tell its noise.
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
    2. The tenth of all patches that has least energy at low frequencies, and at half of the high
       ones, has hardly any signal at the other half of these, where white noise is independent of
       that choice (the principle of Ponomarenko et al. 2007, who choose by low frequencies alone;
       see Colom and Buades 2013, doi:10.5201/ipol.2013.45). The mean of both halves counts.

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
    for n in range(len(variances), min(1, len(variances) - 1), -1):
        if variances[:n].mean() <= variances[:n].median():
            break
    return float(variances[:n].mean())


def _of_flat_patches(patches: Patches) -> float:
    """Return the variance of the noise in flat patches; infinite if cosines cannot tell these."""
    bands = [band.to(patches.device) for band in _bands(patches)]
    if not all(band.any() for band in bands):
        return math.inf
    basis = cosine_basis(patches.sides, patches.n_channels).to(patches.device)
    squares = ((block @ basis).square() for block in patches.blocks())
    energies = [torch.stack([s[:, band].sum(1) for band in bands], 1) for s in squares]
    low, black, white = torch.cat(energies).T
    _, n_black, n_white = (band.sum() for band in bands)
    variances = []
    for chosen_by, other, n in ((black, white, n_white), (white, black, n_black)):
        flattest = (low + chosen_by).topk(round(_FLAT * len(low)), largest=False).indices
        variances.append(float(other[flattest].mean() / n))
    return math.fsum(variances) / 2


def _bands(patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
    """Return which cosines of patches tell whether they are flat, and two halves of those that tell
    their noise.

    Fine stripes have even or odd frequencies only, if they lie so in a patch: so both halves have
    all kinds, squares of four as on a chessboard.
    """
    places = torch.cartesian_prod(*map(torch.arange, patches.sides)).repeat(patches.n_channels, 1)
    frequency = (places / torch.tensor(patches.sides)).sum(1)
    black, high = (places // 2).sum(1) % 2 > 0, frequency >= _HIGH
    return (frequency > 0) & (frequency <= _LOW), high & black, high & ~black


__all__ = ["noise_level"]
