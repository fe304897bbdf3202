"""How much white noise a picture has, from the noisy picture alone."""

import math

import torch
from torch import Tensor

from truvae.censored import mean_of_evenly_scattered, variance_at_end
from truvae.clipping import variance_left
from truvae.patches import Patches, cosine_basis, principal_axes

# Sums of both frequencies, in half periods for each side of a patch: up to the first one all cosine
# coefficients of a patch tell whether it is flat; from the second one on half of them do, and the
# others tell its noise.
_LOW, _HIGH = 3 / 8, 5 / 8
# Share of the patches that count as flat, and the fewest patches to choose them from; of those
# without a pixel at an end of the range, the least share.
_FLAT, _FEWEST, _SOUND = 0.1, 1000, 0.015
# Share of a patch that noise around the end of the range cuts off, and a little more.
_HALF = 0.6
# How far from the ends of the range no noise is cut off, in units of its standard deviation; how
# often patches that lie so far are chosen by the level that such ones have, and the fewest.
_AWAY, _ROUNDS, _SOME = 4, 6, 200
# Patches of which those of a lattice are enough.
_ENOUGH = 1 << 20
# Where few patches are without gaps: the fewest of these for each of their entries whose principal
# axes tell something; the side of windows, the fewest known pixels of one half of a window beside
# their mean, and the share of those of a window that a constant place, as a margin, has.
_AXES, _WINDOW, _KNOWN, _CONSTANT = 16, 8, 3, 1 / 3


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

    Patches with gaps take no part; if too few are without, windows are chosen by how little one
    half of their known pixels varies, and the other half tells the noise. Nor do patches with a
    pixel as dark or as bright as any, since their noise may be cut off. Where most are of that
    kind, those that are left have too little noise: then flat patches count, and tell how much of
    it was cut off, and those that lie far from the ends of the range. Where nearly all are, as in a
    fluorescence picture whose dark background was subtracted, the noise around the ends of the
    range tells its level (`censored.variance_at_end`), and flat patches only where neither that nor
    the others do.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> picture = torch.arange(64.0).expand(64, 64) + 3 * torch.randn(64, 64, generator=g)
    >>> round(noise_level(Patches(picture, 8)))
    3
    """
    patches = _thinned(patches)
    ends = _ends(patches)
    cut = torch.cat([_cut(block, ends) for block in patches.blocks()])
    sound = (cut == 0).nonzero()[:, 0]
    varied = int((cut < 1).sum())
    enough = len(sound) >= max(_FEWEST, _SOUND * varied)
    whole = (cut <= (_HALF if enough else 1)).nonzero()[:, 0]
    if len(sound) >= max(_FEWEST, varied // 2):
        chosen = patches.some(sound)
        variance = min(_of_least_axes(chosen), _of_flat_patches(chosen, cut[sound]))
    elif len(whole) >= _FEWEST:
        found = [_of_patches_away(patches.some(sound), ends)]
        if not enough:
            known = patches.some((cut < math.inf).nonzero()[:, 0])
            found += [
                variance_at_end(known, float(end), sign)
                for end, sign in zip(ends, (1, -1), strict=True)
            ]
        if enough or min(found) == math.inf:
            found.append(_of_flat_patches(patches.some(whole), cut[whole]))
        variance = min(found)
    elif bool((cut == math.inf).any()):
        variance = _of_flat_windows(patches.resized(_WINDOW), ends)
        whole = (cut < 1).nonzero()[:, 0]
        if len(whole) >= _AXES * patches.n_entries:
            variance = min(variance, _of_least_axes(patches.some(whole)))
    else:
        variance = math.inf
    return math.sqrt(max(variance if variance < math.inf else _of_least_axes(patches), 0.0))


def _thinned(patches: Patches) -> Patches:
    """Return patches of a lattice, where these are enough."""
    return patches.some(patches.lattice(math.isqrt(len(patches) // _ENOUGH) + 1))


def _ends(patches: Patches) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value."""
    bounds = [
        (b.nan_to_num(math.inf).min(), b.nan_to_num(-math.inf).max()) for b in patches.blocks()
    ]
    lows, highs = zip(*bounds, strict=True)
    return torch.stack(lows).min(), torch.stack(highs).max()


def _cut(x: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Return the share of the pixels of patches (B, D) that are as dark or as bright as any, (B,):
    1 where a patch is constant, infinite where it has gaps.
    """
    share = _at_end(x, ends).to(x).mean(1)
    share = torch.where(x.amin(1) < x.amax(1), share, 1.0)
    return torch.where(x.isfinite().all(1), share, math.inf)


def _at_end(x: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Tell which values are as dark or as bright as any."""
    return (x == ends[0]) | (x == ends[1])


def _of_least_axes(patches: Patches) -> float:
    """Return the variance of the noise along the axes that the signal does not reach."""
    _, variances, _ = principal_axes(patches)
    return float(mean_of_evenly_scattered(variances))


def _of_flat_patches(patches: Patches, cut: Tensor) -> float:
    """Return the variance of the noise in flat patches, also of what was cut off at the ends of the
    range, where the share `cut` of each patch lies; infinite if cosines cannot tell them.
    """
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
        left = variance_left(float(cut[flattest].mean()))
        variances.append(float(other[flattest].mean() / n) / left)
    return math.fsum(variances) / 2


def _of_patches_away(patches: Patches, ends: tuple[Tensor, Tensor]) -> float:
    """Return the variance of the noise in flat patches of which none is cut off, as they lie far
    enough from the ends of the range for noise of that level; infinite if they are few.
    """
    if len(patches) < _SOME:
        return math.inf
    means = torch.cat([block.mean(1) for block in patches.blocks()])
    room = torch.minimum(means - ends[0], ends[1] - means)
    variance = 0.0
    for _ in range(_ROUNDS):
        away = (room > _AWAY * math.sqrt(variance)).nonzero()[:, 0]
        if len(away) < _SOME:
            return math.inf
        variance = _of_flat_patches(patches.some(away), torch.zeros_like(means[away]))
    return variance


def _of_flat_windows(windows: Patches, ends: tuple[Tensor, Tensor]) -> float:
    """Return the variance of the noise in windows with gaps, of one channel, where one half of the
    known pixels varies least: that of the other half, which has noise of its own. Infinite if too
    few are known.
    """
    windows = _thinned(windows)
    black = torch.cartesian_prod(*map(torch.arange, windows.sides)).sum(1) % 2 == 0
    black = black.to(windows.device)
    blocks = [
        (_scatter(b[:, black]), _scatter(b[:, ~black]), _at_end(b, ends).any(1), _has_constant(b))
        for b in windows.blocks()
    ]
    one, other, cut, constant = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    known = (one[:, 1] >= _KNOWN) & (other[:, 1] >= _KNOWN) & ~constant
    sound = known & ~cut
    chosen = sound if sound.sum() >= _SOME else known
    if not chosen.any():
        return math.inf
    variances = []
    for by, of in ((one[chosen], other[chosen]), (other[chosen], one[chosen])):
        n = max(1, round(_FLAT * len(by)))
        squares, n_free = of[(by[:, 0] / by[:, 1]).topk(n, largest=False).indices].sum(0)
        variances.append(float(squares / n_free))
    return math.fsum(variances) / 2


def _has_constant(x: Tensor) -> Tensor:
    """Tell in which rows (B, D) so many known values are the same that no noise is there."""
    values, n = x.sort(1).values, x.isfinite().sum(1, keepdim=True)  # NaN comes last
    further = torch.arange(x.shape[1], device=x.device) + (n * _CONSTANT).ceil().long() - 1
    same = values == values.gather(1, further.clamp(0, x.shape[1] - 1))
    return (same & (further < n)).any(1)


def _scatter(x: Tensor) -> Tensor:
    """Return the squared deviations from the mean of the known values of each row (B, D), summed,
    and their number less one: (B, 2).
    """
    known = x.isfinite()
    n, x = known.sum(1, keepdim=True), x.nan_to_num()
    deviations = torch.where(known, x - x.sum(1, keepdim=True) / n.clamp(min=1), 0.0)
    return torch.cat([deviations.square().sum(1, keepdim=True), (n - 1).to(x)], 1)


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
