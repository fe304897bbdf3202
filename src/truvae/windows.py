"""Windows: stretches of a recording as data points, never stored."""

from collections.abc import Iterable

import torch
from torch import Tensor

from truvae.training import Posterior


class Windows:
    """Windows of `length` samples of all channels of a recording, at any places.

    The entries of a window go channel by channel: D = K * length for K channels. Windows of a
    recording are what patches are of a picture, and are merged as they are (`patches.merge`).

    Parameters
    ----------
    recording
        (n, K), NaN where missing.
    length
        Samples of each channel in a window, at most n.
    starts
        (N,), their first samples; None for all n - length + 1.

    Examples
    --------
    >>> windows = Windows(torch.arange(6.0).view(3, 2), 2)
    >>> len(windows), windows[torch.tensor([1])]
    (2, tensor([[2., 4., 3., 5.]]))
    """

    def __init__(self, recording: Tensor, length: int, starts: Tensor | None = None) -> None:
        self.length = length
        self.shape = recording.shape
        self.device = recording.device
        self._starts = starts
        self._view = recording.unfold(0, length, 1)
        step, channel = (torch.arange(n, device=self.device) for n in (length, self.n_channels))
        self._offsets = (step * self.n_channels + channel[:, None]).flatten()

    @property
    def n_channels(self) -> int:
        """K."""
        return self.shape[1]

    @property
    def n_entries(self) -> int:
        """D, entries of a window: its length for each channel."""
        return self.length * self.n_channels

    def __len__(self) -> int:
        """Return the number of windows, N."""
        return len(self._view) if self._starts is None else len(self._starts)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the windows `rows` (B,) as (B, D)."""
        return self._view[self._first(rows)].flatten(1)

    def some(self, rows: Tensor) -> "Windows":
        """Return the windows `rows` (B,) alone."""
        found = Windows.__new__(Windows)
        found.__dict__ |= vars(self) | {"_starts": self._first(rows)}
        return found

    def blocks(self, size: int = 1 << 12) -> Iterable[Tensor]:
        """Yield all windows in order, `size` at a time."""
        for rows in torch.arange(len(self), device=self.device).split(size):
            yield self[rows]

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the flat positions in the recording of the windows `rows`: (B, D)."""
        return self._first(rows)[:, None] * self.n_channels + self._offsets

    def _first(self, rows: Tensor) -> Tensor:
        return rows if self._starts is None else self._starts[rows]


def every(n: int, length: int, hop: int, device: torch.device) -> Tensor:
    """Return the first samples of windows every `hop` samples, up to the end of n samples.

    >>> every(10, 4, 4, torch.device("cpu"))
    tensor([0, 4, 6])
    """
    last = n - length
    starts = torch.arange(0, last + 1, hop, device=device)
    return starts if last % hop == 0 else torch.cat([starts, starts.new_tensor([last])])


def merge(windows: Windows, estimates: Iterable[Posterior], doubt: float) -> tuple[Tensor, Tensor]:
    """Average overlapping estimates of windows into a recording, as `patches.merge` does pictures.

    Parameters
    ----------
    windows
        Where the estimates belong.
    estimates
        Posterior moments of windows that cover the recording, in any order and grouping.
    doubt
        Each window weighs 1 / (1 + v / doubt), with v its posterior variance.

    Returns
    -------
    The recording (n, K) and the mean posterior variance of the windows around each sample, (n, K),
    in float64.
    """
    sums = torch.zeros(3, windows.shape.numel(), dtype=torch.float64, device=windows.device)
    for estimate in estimates:
        variance = estimate.variance[:, None].double()
        trust = (1 / (1 + variance / doubt)).expand_as(estimate.mean)
        place = windows.pixels(estimate.rows).flatten()
        sums[0].index_add_(0, place, (estimate.mean.double() * trust).flatten())
        sums[1].index_add_(0, place, (variance * trust).flatten())
        sums[2].index_add_(0, place, trust.flatten())
    mean, variance = (sums[:2] / sums[2]).view(2, *windows.shape)
    return mean, variance


__all__ = ["Windows", "every", "merge"]
