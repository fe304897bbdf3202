"""What a proposal is, and the pool that it works with.

Any proposal is valid, since only better states are kept (Eq. 6); they differ in how fast they find
good ones. They compose: an E-step applies a list of them in turn.
"""

from collections.abc import Callable, Sequence

from truvae.population import OwnPool, Pool, SharedPool

Proposal = Callable[[Pool], None]


def pool_for(search: Sequence[Proposal]) -> type[Pool]:
    """Return the kind of pool that proposals work with: shared if one of them shares states."""
    return SharedPool if any(getattr(propose, "shares", False) for propose in search) else OwnPool


__all__ = ["Proposal", "pool_for"]
