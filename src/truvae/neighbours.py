"""Which patches belong together: those nearest in an estimate, or drawn of those that are alike."""

import torch
from torch import Tensor

from truvae.patches import Patches

# Candidates of which copies are made at a time.
_COMPARED = 1 << 13
# Patches count as those that differ by nothing but noise if their estimates do by less than this
# share of its variance, twice as many as are needed are such, and their noisy means vary by no more
# than noise makes them, and this share.
_ALIKE, _ENOUGH, _TOO_VARIED = 0.1, 2, 1.05
# Multiples of these, modulo 65536, are spread evenly, by frame, row and column of a place.
_STEPS, _MODULUS = (40503, 49472, 37345), 0x10000


def distances(patches: Patches, references: Tensor, candidates: Tensor) -> Tensor:
    """Return the Euclidean distances of references from candidates, (B, m)."""
    from_here = patches[references]
    parts = (torch.cdist(from_here, patches[some]) for some in candidates.split(_COMPARED))
    return torch.cat([*parts], 1)


def means(patches: Patches) -> Tensor:
    """Return the mean of each channel of patches, (N, K)."""
    blocks = (block.view(len(block), patches.n_channels, -1) for block in patches.blocks())
    return torch.cat([block.mean(2) for block in blocks])


def drawn(references: Tensor, candidates: Tensor, places: tuple[int, int, int]) -> Tensor:
    """Return numbers in [0, 1) of candidates (m,) for each of the references (B,), rows of patches
    in `places`: (B, m). Those with the least lie evenly all around, whatever the reference.
    """
    order, first = (_order(numbers, places) for numbers in (candidates, references))
    return (order - first[:, None]) % _MODULUS / _MODULUS


def _order(numbers: Tensor, places: tuple[int, int, int]) -> Tensor:
    """Return numbers of patches as others, which are spread evenly modulo `_MODULUS` wherever they
    begin in a row or a column.
    """
    _, rows, columns = places
    by_frame, by_row, by_column = _STEPS
    frame, row, column = numbers // (rows * columns), numbers // columns % rows, numbers % columns
    return frame * by_frame + row * by_row + column * by_column


def scattered(
    distance: Tensor, draws: Tensor, means: Tensor, n: int, sigma: float, n_entries: int
) -> Tensor:
    """Return distances (B, m) by which neighbours are drawn evenly of all patches that are alike,
    where these seem to differ by nothing but noise.

    Those nearest in an estimate would be those that share its error, so that it stays in their
    average. Weak texture that does not change the mean of a patch passes for noise.

    Parameters
    ----------
    distance
        Between estimates of patches.
    draws
        (B, m), numbers in [0, 1): those with the least are drawn.
    means
        Of each channel of the candidates as they are, noisy, (m, K).
    n
        How many neighbours are needed.
    sigma
        Standard deviation of the noise.
    n_entries
        Of a patch.
    """
    most = sigma * (_ALIKE * n_entries) ** 0.5
    alike = distance < most
    weights, means = alike.double(), means.double()  # of a difference between squares
    count = weights.sum(1, keepdim=True).clamp(min=1)
    variance = weights @ means.square() / count - (weights @ means / count).square()
    by_noise = sigma**2 * means.shape[1] / n_entries
    even = (variance <= _TOO_VARIED * by_noise).all(1, keepdim=True) & (count >= _ENOUGH * n)
    return torch.where(alike & even, most * draws.to(distance), distance)


def nearest(distance: Tensor, references: Tensor, candidates: Tensor, n: int) -> Tensor:
    """Return the `n` candidates nearest to each reference, by distances (B, m): (B, n).

    The reference itself comes first, also where others equal it, so that no pixel is left out.
    """
    distance = distance.masked_fill(candidates == references[:, None], -1.0)
    nearest = distance.topk(min(n, len(candidates)), largest=False).indices
    return candidates[nearest]


__all__ = ["distances", "drawn", "means", "nearest", "scattered"]
