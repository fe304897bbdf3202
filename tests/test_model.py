"""The model against its equations, by enumeration, autograd and finite differences."""

import math

import pytest
import torch
from conftest import all_states, make_data, make_model

from truvae import MLP, Bernoulli, Gaussian, InputError, bits


def dense_log_joint(model, x, z):
    """Return log p(x_b, z_u) term by term (Eq. 1), NaN entries left out."""
    with torch.no_grad():
        mean = model.decoder(z)
    s2, pi = model.noise.sigma2, model.prior.pi
    density = -((x[:, None] - mean) ** 2) / (2 * s2) - torch.log(2 * math.pi * s2) / 2
    prior = (z * pi.log() + (1 - z) * torch.log1p(-pi)).sum(1)
    return torch.nan_to_num(density, nan=0.0).sum(2) + prior


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_log_joint_is_eq_1(dtype, missing, hidden):
    model = make_model(hidden=hidden, dtype=dtype)
    x, z = make_data(model, missing=missing), all_states(6).to(dtype)
    with torch.no_grad():
        found = model.log_joint(x, bits.pack(z))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, dense_log_joint(model, x, z), rtol=tolerance, atol=tolerance)


def test_prior_and_likelihood_are_normalised():
    model = make_model()
    z = all_states(6).double()
    assert model.prior.log_prob(z).exp().sum() == pytest.approx(1, abs=1e-12)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    density = Gaussian(torch.tensor(0.3, dtype=torch.float64)).log_likelihood(
        grid, torch.tensor([[0.7]], dtype=torch.float64)
    )
    assert torch.trapezoid(density.exp()[:, 0], grid[:, 0]) == pytest.approx(1, abs=1e-9)


def test_masking_is_deleting_the_columns():
    """Oracle 7: the log-joint with a column missing everywhere is that of the model without it."""
    model, column = make_model(), 2
    x, words = make_data(model), bits.pack(all_states(6))
    kept = [d for d in range(5) if d != column]
    smaller = make_model()
    last = smaller.decoder.rest[-1]
    last.weight, last.bias = (torch.nn.Parameter(p[kept]) for p in (last.weight, last.bias))
    masked = x.clone()
    masked[:, column] = torch.nan
    with torch.no_grad():
        torch.testing.assert_close(
            model.log_joint(masked, words),
            smaller.log_joint(x[:, kept], words),
            rtol=1e-10,
            atol=1e-10,
        )


@pytest.mark.parametrize("hidden", [(), (9,), (9, 8)])
@pytest.mark.parametrize("n_latents", [5, 70])
def test_sparse_decoding_is_dense_decoding(hidden, n_latents, generator, dtype):
    decoder = MLP(n_latents, hidden, 4, generator=generator).to(dtype)
    words = bits.random((50,), n_latents, 0.2, generator)
    torch.testing.assert_close(
        decoder.decode(bits.RowSums(words, n_latents)),
        decoder(bits.unpack(words, n_latents, dtype)),
    )


@pytest.mark.parametrize("hidden", [(), (9,), (9, 8)])
@pytest.mark.parametrize("n_latents", [5, 70])
def test_gradients_by_codes_are_those_by_zeros_and_ones(hidden, n_latents, generator, monkeypatch):
    model = make_model(n_latents, hidden)
    words = bits.random((50,), n_latents, 0.2, generator)
    z = bits.unpack(words, n_latents, torch.float64).requires_grad_()
    loss = model.decode_dense(z).square().sum()
    slope, *expected = torch.autograd.grad(loss, [z, *model.decoder.parameters()])
    torch.testing.assert_close(model.slope(words, lambda out: out.square().sum()), slope)
    for many in (0, 1 << 16):  # by codes, and as zeros and ones
        monkeypatch.setattr("truvae.model._MANY", many)
        found = torch.autograd.grad(
            model.decode(words)[0].square().sum(), [*model.decoder.parameters()]
        )
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e)


def test_samples_follow_the_model():
    model = make_model()
    z, x = model.sample(200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), model.prior.pi, atol=5e-3, rtol=0)
    with torch.no_grad():
        residual = x - model.decoder(z)
    assert residual.var() == pytest.approx(0.3, rel=0.01)


def test_any_module_is_a_decoder():
    model = make_model()
    model.decoder = torch.nn.Sequential(
        torch.nn.Linear(6, 5).double(), torch.nn.Unflatten(1, (5, 1))
    )
    z = all_states(6).double()
    mean, _ = model.decode(bits.pack(z))
    assert mean.shape == (64, 5)
    torch.testing.assert_close(mean, model.decoder(z).flatten(1))
    weight = model.decoder[0].weight.detach()
    slope = model.slope(bits.pack(z), lambda outputs: outputs[:, 2].sum())
    torch.testing.assert_close(slope, weight[2].expand(64, -1))


@pytest.mark.parametrize("odd", [0.0, 1.0, -0.1, math.nan])
def test_probabilities_lie_between_0_and_1(odd):
    with pytest.raises(InputError, match="above 0 and below 1"):
        Bernoulli(torch.tensor([0.5, odd]))
