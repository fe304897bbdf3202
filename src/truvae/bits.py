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
# More latents have too many states to list them all.
MOST_ENUMERABLE = 16


class Distinct(NamedTuple):
    """Distinct codes of a collection, in ascending order of their keys."""

    words: Tensor
    """(U, W) int64, the codes."""
    keys: Tensor
    """(U,) int64, ascending and unique."""
    inverse: Tensor
    """(n,) int64, the row of `words` that equals each input code."""


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
    return words ^ _ones(words.shape[-1], words.device)[bit]


@lru_cache(maxsize=32)
def _ones(n: int, device: torch.device) -> Tensor:
    """(64 n, n): codes of n words with one bit set."""
    places = torch.arange(n * WORD_BITS, device=device)
    return pack(places == places[:, None])


def count(words: Tensor) -> Tensor:
    """Return the number of set bits of each code: (..., W) to (...) int64."""
    ones = _table(words.device, torch.int64).sum(1)
    return ones[words.contiguous().view(torch.uint8).int()].sum(-1)


class RowSums:
    """Sums of the matrix rows that the set bits of codes select: z @ matrix, without the zeros.

    Codes of one word select one row of a table for each of their bytes; a longer code has mostly
    empty bytes, so that its few set bits are listed instead.

    Parameters
    ----------
    words
        (n, W) codes.
    n_latents
        H, their number of bits.

    Examples
    --------
    >>> RowSums(torch.tensor([[5]]), 3)(torch.tensor([[1.0], [10.0], [100.0]]))
    tensor([[101.]])
    """

    def __init__(self, words: Tensor, n_latents: int) -> None:
        self._padding = words.shape[1] * WORD_BITS - n_latents
        self._offsets: Tensor | None = None
        octets = words.contiguous().view(torch.uint8)
        if words.shape[1] == 1:
            self._indices = octets.int() + _byte_offsets(1, words.device)
        else:
            self._indices, self._offsets = _active(octets)

    def __call__(self, matrix: Tensor) -> Tensor:
        """Return the sums (n, K) of rows of a matrix (H, K)."""
        if self._offsets is not None:
            return torch.nn.functional.embedding_bag(
                self._indices, matrix, self._offsets, mode="sum", include_last_offset=True
            )
        padded = torch.nn.functional.pad(matrix, (0, 0, 0, self._padding))
        table = _table(matrix.device, matrix.dtype) @ padded.view(_BYTES, 8, -1)
        return torch.nn.functional.embedding_bag(self._indices, table.flatten(0, 1), mode="sum")


def _active(octets: Tensor) -> tuple[Tensor, Tensor]:
    """List the set bits of codes (n, 8 W), code after code, and where each code's list starts."""
    row, place = octets.nonzero(as_tuple=True)
    bits = _table(octets.device, torch.bool)[octets[row, place].int()]
    entry, bit = bits.nonzero(as_tuple=True)
    offsets = torch.zeros(len(octets) + 1, dtype=torch.int64, device=octets.device)
    torch.cumsum(torch.bincount(row[entry], minlength=len(octets)), 0, out=offsets[1:])
    return place[entry] * 8 + bit, offsets


@lru_cache(maxsize=32)
def _byte_offsets(n: int, device: torch.device) -> Tensor:
    """(8 n,): where the entries of each byte of n words start in tables of 256 for each."""
    return torch.arange(0, n * _BYTES * 256, 256, dtype=torch.int32, device=device)


def keys(words: Tensor) -> Tensor:
    """Return one int64 key for each code (..., W).

    The key of a one-word code is the word itself. The key of a longer one is the sum, mod 2^64,
    of random integers that belong to its set bits (Zobrist hashing): two different codes share a
    key with probability 2^-64, so 10^5 codes that are compared at once with 3e-10.
    """
    n = words.shape[-1]
    if n == 1:
        return words[..., 0]
    octets = words.contiguous().view(torch.uint8).int() + _byte_offsets(n, words.device)
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
    """Draw codes of the given `shape` with independent bits: int64, W words in a last axis.

    Sixteen random words make one word of bits that are set with `probability` to 2^-17: each
    binary digit of the probability, from the last to the first, takes the union of a fair word
    with the result so far where it is 1, and the intersection where it is 0.
    """
    size = (*shape, n_words(n_latents))
    words = torch.zeros(size, dtype=torch.int64, device=generator.device)
    for digit in _binary_digits(probability, 16)[::-1]:
        for part in words.split(1 << 9):  # so that little memory is needed beside the codes
            fair = torch.empty_like(part).random_(-(1 << 63), None, generator=generator)
            part.bitwise_or_(fair) if digit else part.bitwise_and_(fair)
    spare = -n_latents % WORD_BITS
    words[..., -1] &= (1 << (WORD_BITS - spare)) - 1 if spare else -1
    return words


def all_states(n_latents: int, device: torch.device | None = None) -> Tensor:
    """Return all 2^H codes of up to 16 bits, in order: (2^H, 1).

    >>> all_states(2).T
    tensor([[0, 1, 2, 3]])
    """
    if n_latents > MOST_ENUMERABLE:
        raise ValueError(
            f"{n_latents} latents have too many states to list: {MOST_ENUMERABLE} at most"
        )
    return torch.arange(1 << n_latents, device=device)[:, None]


def _binary_digits(share: float, n_digits: int) -> list[int]:
    """Return the binary digits of `share` in [0, 1) after the point, without closing zeros."""
    scaled = min(round(share * (1 << n_digits)), (1 << n_digits) - 1)
    digits = format(scaled, f"0{n_digits}b").rstrip("0")
    return [int(digit) for digit in digits]


__all__ = [
    "MOST_ENUMERABLE",
    "WORD_BITS",
    "Distinct",
    "RowSums",
    "all_states",
    "count",
    "flip",
    "keys",
    "n_words",
    "pack",
    "random",
    "unique",
    "unpack",
]
