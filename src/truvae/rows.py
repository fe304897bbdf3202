"""Data points as training takes them, and what is checked of them."""

import math
import warnings
from typing import Protocol

import torch
from torch import Tensor

from truvae.errors import InputError
from truvae.model import Model

# Rows in which large offsets are looked for first, and how many standard deviations are large.
_LOOKED_AT, _OFFSET = 1000, 100


class Data(Protocol):
    """N data points: rows on demand, so that no N x D array need exist."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the data points `rows` as (B, D), NaN where missing."""
        ...


def check_rows(data: Data, n: int, device: torch.device) -> None:
    """Raise an `InputError` unless data give `n` rows as tensors."""
    if len(data) != n:
        raise InputError(f"there are states of {n} data points, but {len(data)} rows of data")
    row: object = data[torch.arange(min(1, len(data)), device=device)]
    if not isinstance(row, Tensor):
        raise InputError(
            f"data must be a tensor (N, D), or give rows as tensors, not {type(row).__name__}: "
            "torch.as_tensor(data) is one"
        )
    if isinstance(data, Tensor) and (data.ndim != 2 or bool(data.isinf().any())):
        raise InputError(f"data must be (N, D), finite, or NaN where missing, not {_faulty(data)}")


def _faulty(data: Tensor) -> str:
    return f"of shape {tuple(data.shape)}" if data.ndim != 2 else "infinite"


def warn_of_offsets(data: Tensor, model: Model) -> None:
    """Warn of features of data (N, D) that are too far from 0 for squares in float32."""
    if model.prior.pi.dtype == torch.float64:
        return
    some = data[:: math.ceil(len(data) / _LOOKED_AT) or 1].double()
    common = max(float(mean_and_spread(some)[1].square().nanmean().sqrt()), model.noise.sigma)
    suspects = _far(some, common).nonzero()[:, 0]
    # In all rows: some may be alike, or far from one that counts.
    found = data[:, suspects].double()
    far = _far(found, common).nonzero()[:, 0].tolist()
    if far:
        mean, spread = (values[far[0]] for values in mean_and_spread(found))
        warnings.warn(
            f"the mean of feature {suspects[far[0]]} is {mean:.3g}, its standard deviation "
            f"{spread:.3g}: float32 does not bear squares of such data; centre and scale them",
            stacklevel=3,
        )


def _far(x: Tensor, common: float) -> Tensor:
    """Say which features of data (n, D) are many standard deviations from 0: (D,).

    Constant ones have none of their own: a `common` one counts.
    """
    mean, spread = mean_and_spread(x)
    constant = spread <= torch.finfo(torch.float32).eps * mean.abs()
    return mean.abs() > _OFFSET * spread.masked_fill(constant, common)


def mean_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of the features of data (n, D), NaN where missing."""
    mean = x.nanmean(0)
    return mean, (x - mean).square().nanmean(0).sqrt()


def check_complete(data: Data) -> None:
    """Raise a ValueError if anything is missing."""
    for rows in torch.arange(len(data)).split(1 << 14):
        if not data[rows].isfinite().all():
            raise ValueError("the closed form needs complete data: use the gradient for NaN")


__all__ = ["Data", "check_complete", "check_rows", "mean_and_spread", "warn_of_offsets"]
