"""The generative model: Bernoulli prior x decoder x noise (Eq. 1). Knows nothing of populations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from truvae import bits
from truvae.decoders import MLP
from truvae.errors import InputError
from truvae.noise import Noise

# Row counts given to the decoder are multiples of this: libraries prepare a kernel for every new
# shape, which costs more than the product itself.
_ROWS = 128
# Weights of a first layer from which on a CPU learns faster from the few set bits of states than
# from all of them.
_MANY = 1 << 16


@dataclass
class Bernoulli:
    """Independent binary latents, p(z) = prod_h pi_h^z_h (1 - pi_h)^(1 - z_h) (Eq. 1).

    Parameters
    ----------
    pi
        (H,) probabilities that a latent is active.
    limit
        Learned probabilities stay in [limit, 1 - limit].
    shared
        Whether all latents have one probability, learned together.

    Raises
    ------
    InputError
        If a probability does not lie between 0 and 1: of a latent that is never active, or always,
        nothing can be learned.

    Examples
    --------
    >>> Bernoulli(torch.tensor([0.5, 0.5])).log_prob(torch.zeros(1, 2)).exp()
    tensor([0.2500])
    """

    pi: Tensor
    limit: float = 1e-5
    shared: bool = False

    def __post_init__(self) -> None:
        """Check the probabilities."""
        if not ((self.pi > 0) & (self.pi < 1)).all():
            raise InputError("the probabilities of a prior must be above 0 and below 1")

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) of states (U, H) as (U,) nats."""
        return z @ self.pi.logit() + torch.log1p(-self.pi).sum()

    def log_prob_codes(self, codes: bits.RowSums) -> Tensor:
        """Return log p(z) of packed states as (U,) nats."""
        return codes(self.pi.logit()[:, None])[:, 0] + torch.log1p(-self.pi).sum()

    def update(self, activity: Tensor, n_data: int) -> None:
        """Set pi by Eq. 10 from sum_n E_q[z], (H,)."""
        if self.shared:
            activity = activity.mean().expand(len(activity))
        pi = (activity / n_data).clamp(self.limit, 1 - self.limit)
        self.pi = pi.to(self.pi.dtype)


@dataclass
class Model:
    """p(x, z) = p(z) p(x | z) with latents, decoder and noise as exchangeable parts.

    Parameters
    ----------
    prior, decoder, noise
        The three factors; `decoder` is any module from (n, H) to
        (n, any) that says what `noise` wants to hear of a state: (n, D) means, or more.
    """

    prior: Bernoulli
    decoder: nn.Module
    noise: Noise

    @property
    def n_latents(self) -> int:
        """H, the number of latents."""
        return len(self.prior.pi)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all that is learned by gradient: the decoder's parameters, and those of the noise
        if it has any.
        """
        return chain(self.decoder.parameters(), self.noise.parameters())

    def state(self) -> dict[str, Tensor]:
        """Return all that is learned, by name; the tensors themselves, no copies."""
        decoder = {f"decoder.{name}": t for name, t in self.decoder.state_dict().items()}
        held = vars(self.noise).items()
        noise = {f"noise.{name}": t.detach() for name, t in held if isinstance(t, Tensor)}
        return {"prior": self.prior.pi, **decoder, **noise}

    def decode(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Decode packed states (U, W): the decoder's outputs (U, any) and log p(z) (U,)."""
        n = len(words)
        words = torch.nn.functional.pad(words, (0, 0, 0, -n % _ROWS))
        # A subclass may say something else of the states than its layers do.
        if type(self.decoder) is MLP and not _learns_densely(self.decoder):
            codes = bits.RowSums(words, self.n_latents)
            outputs, log_prior = self.decoder.decode(codes), self.prior.log_prob_codes(codes)
        else:
            z = bits.unpack(words, self.n_latents, self.prior.pi.dtype)
            outputs, log_prior = self.decode_dense(z), self.prior.log_prob(z)
        return outputs[:n], log_prior[:n]

    def decode_dense(self, z: Tensor) -> Tensor:
        """Decode states (n, H) given as zeros and ones: (n, any)."""
        outputs: Tensor = self.decoder(z)
        return outputs.flatten(1)

    def slope(self, words: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of a score, a scalar, of what the decoder says of packed states
        (n, W), along their bits: (n, H).
        """
        if type(self.decoder) is MLP:
            return self.decoder.slope(bits.RowSums(words, self.n_latents), score)
        z = bits.unpack(words, self.n_latents, self.prior.pi.dtype).requires_grad_()
        with torch.enable_grad():
            total = score(self.decode_dense(z))
        return torch.autograd.grad(total, z)[0]

    def log_joint(self, x: Tensor, words: Tensor) -> Tensor:
        """Return log p(x_b, z_u) for every pair of data (B, D) and packed states (U, W): (B, U)."""
        outputs, log_prior = self.decode(words)
        return self.noise.log_likelihood(x.to(log_prior.dtype), outputs) + log_prior

    def log_likelihood(self, x: Tensor, rows: int = 256) -> Tensor:
        """Return log p(x_b) of data (B, D) by enumeration of all 2^H states, up to H = 16: (B,).

        `rows` data points are handled at a time.
        """
        words = bits.all_states(self.n_latents, x.device)
        with torch.no_grad():
            parts = [torch.logsumexp(self.log_joint(part, words), 1) for part in x.split(rows)]
        return torch.cat(parts)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw `n` states (n, H) from the prior and data (n, D) from the model."""
        pi = self.prior.pi
        draw = torch.rand(n, len(pi), generator=generator, device=pi.device, dtype=pi.dtype)
        z = (draw < pi).to(pi.dtype)
        with torch.no_grad():
            return z, self.noise.sample(self.decode_dense(z), generator)


def _learns_densely(decoder: MLP) -> bool:
    """Whether a gradient is wanted of a decoder that zeros and ones pass faster than codes."""
    weight = decoder.first.weight
    on_cpu = weight.device.type == "cpu"
    return torch.is_grad_enabled() and not (on_cpu and weight.numel() >= _MANY)


__all__ = ["Bernoulli", "Model"]
