"""Packed binary codes: the H bits of a latent state in ceil(H / 64) int64 words.

Bit ``h`` of a code is bit ``h % 64`` of word ``h // 64``. Packed, a state of 64 latents is one
machine word: equality is one comparison, and duplicates are found by sorting.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

WORD_BITS = 64
_BYTES = WORD_BITS // 8


class Distinct(NamedTuple):
    """Distinct codes of a collection, in ascending order of their keys."""

    words: Tensor
    """(U, W) int64, the codes."""
    keys: Tensor
    """(U,) int64, ascending and unique."""
    inverse: Tensor
    """(n,) int64, the row of `words` that equals each input code."""


class Active(NamedTuple):
    """The set bits of a collection of codes as one ragged list."""

    indices: Tensor
    """(total,) int64, positions of the set bits, code after code."""
    offsets: Tensor
    """(n + 1,) int64, where the list of each code starts; the last entry is its total length."""


def n_words(n_latents: int) -> int:
    """Return the number of int64 words that hold `n_latents` bits."""
    return -(-n_latents // WORD_BITS)


@lru_cache(maxsize=32)
def _table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(256, 8): the bits of every byte."""
    values = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)
    return (values & 1).to(dtype)


def pack(z: Tensor) -> Tensor:
    """Pack binary states (..., H), any dtype with non-zero as 1, into words (..., W).

    >>> pack(torch.tensor([[True, False, True]]))
    tensor([[5]])
    """
    padding = -z.shape[-1] % WORD_BITS
    bits = torch.nn.functional.pad((z != 0).to(torch.uint8), (0, padding))
    weights = (1 << torch.arange(8, device=z.device)).to(torch.uint8)
    octets: Tensor = (bits.unflatten(-1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)
    return octets.contiguous().view(torch.int64)


def unpack(words: Tensor, n_latents: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unpack words (..., W) into states (..., n_latents) of zeros and ones of `dtype`.

    A byte at a time through a table of 256 rows: many times faster than shifting and masking.

    >>> unpack(torch.tensor([[5]]), 3)
    tensor([[1., 0., 1.]])
    """
    octets = words.contiguous().view(torch.uint8)
    bits = _table(words.device, dtype).index_select(0, octets.flatten().int())
    return bits.view(*words.shape[:-1], words.shape[-1] * WORD_BITS)[..., :n_latents]


def flip(words: Tensor, bit: Tensor) -> Tensor:
    """Return codes (..., W) with one bit flipped in each; `bit` (...) int64 says which."""
    slot = torch.arange(words.shape[-1], device=words.device)
    one = torch.ones_like(bit) << (bit % WORD_BITS)
    return words ^ torch.where(slot == (bit // WORD_BITS)[..., None], one[..., None], 0)


def count(words: Tensor) -> Tensor:
    """Return the number of set bits of each code: (..., W) to (...) int64."""
    ones = _table(words.device, torch.int64).sum(1)
    return ones[words.contiguous().view(torch.uint8).int()].sum(-1)


def active(words: Tensor) -> Active:
    """List the set bits of codes (n, W); work and memory go with the non-zero bytes."""
    octets = words.contiguous().view(torch.uint8)
    row, place = octets.nonzero(as_tuple=True)
    bits = _table(words.device, torch.bool)[octets[row, place].int()]
    entry, bit = bits.nonzero(as_tuple=True)
    offsets = torch.zeros(len(words) + 1, dtype=torch.int64, device=words.device)
    torch.cumsum(torch.bincount(row[entry], minlength=len(words)), 0, out=offsets[1:])
    return Active(place[entry] * 8 + bit, offsets)


def keys(words: Tensor) -> Tensor:
    """Return one int64 key for each code (..., W).

    The key of a one-word code is the word itself. The key of a longer one is the sum, mod 2^64,
    of random integers that belong to its set bits (Zobrist hashing): two different codes share a
    key with probability 2^-64, so 10^5 codes that are compared at once with 3e-10.
    """
    n = words.shape[-1]
    if n == 1:
        return words[..., 0]
    octets = words.contiguous().view(torch.uint8).int()
    octets += torch.arange(0, n * _BYTES * 256, 256, dtype=torch.int32, device=words.device)
    sums = _key_table(n, words.device).index_select(0, octets.flatten())
    return sums.view(*words.shape[:-1], n * _BYTES).sum(-1)


@lru_cache(maxsize=32)
def _key_table(n: int, device: torch.device) -> Tensor:
    """(n * 2048,): for every byte of n words and each of its values, the sum over its set bits."""
    numbers = torch.empty(n * _BYTES, 8, 1, dtype=torch.int64)
    numbers.random_(-(1 << 63), None, generator=torch.Generator().manual_seed(0))
    bits = _table(torch.device("cpu"), torch.int64).T
    return (numbers * bits).sum(1).flatten().to(device)


def unique(words: Tensor) -> Distinct:
    """Find the distinct codes among (n, W) words.

    >>> unique(torch.tensor([[7], [3], [7]]))
    Distinct(words=tensor([[3],
            [7]]), keys=tensor([3, 7]), inverse=tensor([1, 0, 1]))
    """
    distinct, inverse = torch.unique(keys(words), return_inverse=True)
    if words.shape[-1] == 1:
        return Distinct(distinct[:, None], distinct, inverse)
    # Equal keys mean equal words, so it does not matter which occurrence is kept.
    occurrence = torch.empty_like(distinct)
    occurrence[inverse] = torch.arange(len(words), device=words.device)
    return Distinct(words[occurrence], distinct, inverse)


def random(
    shape: tuple[int, ...], n_latents: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Draw codes of the given `shape` with independent bits: (*shape, W) int64.

    Sixteen random words make one word of bits that are set with `probability` to 2^-17: each
    binary digit of the probability, from the last to the first, takes the union of a fair word
    with the result so far where it is 1, and the intersection where it is 0.
    """
    size = (*shape, n_words(n_latents))
    words = torch.zeros(size, dtype=torch.int64, device=generator.device)
    fair = torch.empty_like(words)
    for digit in _binary_digits(probability, 16)[::-1]:
        fair.random_(-(1 << 63), None, generator=generator)
        words = words | fair if digit else words & fair
    spare = -n_latents % WORD_BITS
    words[..., -1] &= (1 << (WORD_BITS - spare)) - 1 if spare else -1
    return words


def _binary_digits(share: float, n_digits: int) -> list[int]:
    """Return the binary digits of `share` in [0, 1) after the point, without closing zeros."""
    scaled = min(round(share * (1 << n_digits)), (1 << n_digits) - 1)
    digits = format(scaled, f"0{n_digits}b").rstrip("0")
    return [int(digit) for digit in digits]


__all__ = [
    "WORD_BITS",
    "Active",
    "Distinct",
    "active",
    "count",
    "flip",
    "keys",
    "n_words",
    "pack",
    "random",
    "unique",
    "unpack",
]
