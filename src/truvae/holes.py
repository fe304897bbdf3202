"""Holes: pixels so deep in a gap that no patch around them knows enough of the picture.

They are filled from the outside in, one ring of pixels after the other. The patch around each pixel
of a ring is compared, as far as it is known by now, with complete patches near the hole, and the
few that are most alike say what is missing in it (after Criminisi, Perez and Toyama 2004,
doi:10.1109/TIP.2004.833105; these go pixel by pixel along edges first, and copy one patch).
What comes out continues edges and textures of the surroundings; what a hole hides nobody can tell.
"""

import torch
from torch import Tensor

from truvae.fill import nearest_known
from truvae.patches import Patches

# The most alike patches that are averaged: one alone is sharper, but more often a wrong one.
_NEAR = 4
# How many pixels around a tile of references to look for them, and when to look twice as far.
# What is near is more likely to belong there: 60 pixels were worse, not only slower.
_REACH, _FEWEST = 30, 500
# Side of a tile of references that share their candidates, in pixels.
_TILE = 24
# The most candidates, and the most references that are compared with them at once: 32 MiB.
_CANDIDATES, _BATCH = 1 << 14, 512
# Mean squared differences below this are none, in units of the variance of the picture.
_SAME = 1e-4
# Power of the known share of a patch that it weighs where patches overlap.
_TRUST = 4


def deep(missing: Tensor, size: int) -> Tensor:
    """Return which pixels are too deep in a hole for patches of P x P pixels to tell: (R, C).

    Their chessboard distance to the nearest pixel with a known value is more than P // 2. What is
    outside of the picture is not known.

    Parameters
    ----------
    missing
        Which values are missing, (R, C) or (R, C, K), boolean; a pixel of which any channel is
        known is known.
    size
        P, in pixels.

    Examples
    --------
    >>> missing = torch.tensor([[True, True, True, True, False, True, True]])
    >>> deep(missing, 4)
    tensor([[ True,  True, False, False, False, False, False]])
    """
    return _depth(missing) > size // 2


def widest(missing: Tensor) -> int:
    """Return the width of the widest hole, in pixels: twice the largest depth of its pixels.

    Parameters
    ----------
    missing
        As in `deep`. A hole at the border of the picture goes on outside of it.

    Examples
    --------
    >>> missing = torch.zeros(20, 20, dtype=torch.bool)
    >>> missing[2:8, 5:19] = True
    >>> widest(missing)
    6
    """
    return 2 * int(_depth(missing).max())


def _depth(missing: Tensor) -> Tensor:
    """Return the chessboard distance of each pixel to the nearest known one, 0 at these: (R, C)."""
    from scipy.ndimage import distance_transform_cdt

    gaps = missing if missing.ndim == 2 else missing.all(2)
    if gaps.all():  # nothing is known, however far
        return torch.full(gaps.shape, max(gaps.shape), device=gaps.device)
    depth = distance_transform_cdt(gaps.cpu().numpy(), "chessboard")
    return torch.as_tensor(depth, device=gaps.device).long()


@torch.no_grad()
def fill_holes(image: Tensor, size: int) -> Tensor:
    """Fill the holes of a picture from the outside in.

    All that is filled in is a weighted mean of known values, hence in their range. Nothing is drawn
    at random.

    Parameters
    ----------
    image
        The picture (R, C) or (R, C, K) in units of its spread, all channels of a pixel NaN where it
        is missing; at least one pixel is known.
    size
        P: patches are P x P pixels, or as large as the smaller side of the picture.

    Returns
    -------
    The picture without holes, same shape; what was known is as it was.

    Examples
    --------
    >>> stripes = torch.arange(40.0).mul(1.5).sin().expand(40, 40)
    >>> image = stripes.clone()
    >>> image[12:28, 12:28] = torch.nan
    >>> bool((fill_holes(image, 8) - stripes).abs().max() < 0.1)
    True
    """
    depth = _depth(image.isnan())
    if not depth.any():
        return image
    if (depth > 0).all():
        raise ValueError("all pixels are missing; at least one must be known")
    size = min(size, *image.shape[:2])
    complete = _complete(depth == 0, size)
    if size < 3 or complete.sum() < _NEAR:  # there is nothing to compare, or to compare with
        return nearest_known(image)
    filled = image.clone(memory_format=torch.contiguous_format)
    data, source = Patches(filled, size), Patches(image, size)  # views: what is filled shows
    pixels = depth.flatten().nonzero()[:, 0]
    rings = depth.flatten()[pixels]
    for ring in range(1, int(depth.max()) + 1):
        _fill_ring(filled, pixels[rings == ring], data, source, complete)
    return filled


def _complete(known: Tensor, size: int) -> Tensor:
    """Return on the grid of all patches which are complete: (R - P + 1, C - P + 1)."""
    return known.unfold(0, size, 1).all(2).unfold(1, size, 1).all(2)


def _fill_ring(
    filled: Tensor, ring: Tensor, data: Patches, source: Patches, complete: Tensor
) -> None:
    """Fill in place the pixels of a ring, given as ascending numbers (n,)."""
    channels = torch.arange(data.n_channels, device=ring.device)
    values = (ring[:, None] * data.n_channels + channels).flatten()
    total = torch.zeros(len(values), dtype=torch.float64, device=ring.device)
    weight = torch.zeros_like(total)
    for tile in _tiles(_around(ring, data), data.grid[1]):
        candidates = source[_candidates(complete, tile)]
        for rows in tile.split(_BATCH):
            estimate, share = _estimate(data[rows], candidates)
            trust = (share**_TRUST).expand_as(estimate).double()
            place = data.pixels(rows)
            index = torch.searchsorted(values, place).clamp(max=len(values) - 1)
            wanted = values[index] == place
            total.index_add_(0, index[wanted], (estimate * trust)[wanted])
            weight.index_add_(0, index[wanted], trust[wanted])
    filled.view(-1)[values] = (total / weight).to(filled)


def _around(ring: Tensor, patches: Patches) -> Tensor:
    """Return the row numbers of the patches that have a pixel of the ring in their middle.

    Even patches have four pixels there: with one of them alone, they would look farther to one side
    of a hole than to the other.
    """
    (rows, columns), size = patches.grid, patches.sides[0]
    width = columns + size - 1
    middles = torch.arange((size - 1) // 2, size // 2 + 1, device=ring.device)
    row = (ring[:, None] // width - middles).clamp(0, rows - 1)
    column = (ring[:, None] % width - middles).clamp(0, columns - 1)
    numbers: Tensor = (row[:, :, None] * columns + column[:, None, :]).unique()
    return numbers


def _tiles(rows: Tensor, width: int) -> list[Tensor]:
    """Group patches by the tile of the grid that they lie in."""
    tile = rows // width // _TILE * width + rows % width // _TILE
    return [rows[tile == number] for number in tile.unique()]


def _candidates(complete: Tensor, rows: Tensor) -> Tensor:
    """Return complete patches around others: from farther away if they are few, evenly thinned out
    if they are many.
    """
    height, width = complete.shape
    row, column = rows // width, rows % width
    reach = _REACH
    while True:
        top, left = (max(0, int(x.min()) - reach) for x in (row, column))
        window = complete[top : int(row.max()) + reach + 1, left : int(column.max()) + reach + 1]
        if window.sum() >= _FEWEST or window.shape == complete.shape:
            break
        reach *= 2
    y, x = window.nonzero().unbind(1)
    found = (y + top) * width + x + left
    return found[:: -(-len(found) // _CANDIDATES)]


def _estimate(patches: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate incomplete patches (B, D) as the mean of those candidates (N, D) most alike.

    A candidate weighs less the more it differs in known entries, measured by the best one: where
    that is not exact, others that are little worse are as likely.

    Returns
    -------
    The estimates (B, D), and the shares of entries that are known (B, 1).
    """
    known = patches.isfinite().to(patches)
    x = patches.nan_to_num(0.0)
    energy = x.square().sum(1, keepdim=True) + known @ candidates.square().T
    difference = (energy - 2 * x @ candidates.T).clamp(min=0) / known.sum(1, keepdim=True)
    least, nearest = difference.topk(_NEAR, largest=False)
    weights = torch.softmax(-least / (2 * least[:, :1].clamp(min=_SAME)), 1)
    estimate = torch.einsum("bn,bnd->bd", weights, candidates[nearest])
    return estimate, known.mean(1, keepdim=True)


__all__ = ["deep", "fill_holes", "widest"]
