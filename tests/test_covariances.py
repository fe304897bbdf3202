"""Noise with a covariance for each state, with and without gaps, against dense Gaussians."""

import math

import pytest
import torch
from conftest import make_population
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from truvae import (
    MLP,
    TVAE,
    Bernoulli,
    DiagonalGaussian,
    Gaussian,
    GradientFlips,
    LowRankGaussian,
    Model,
    Neighbours,
    ShuffledChunks,
    load_model,
    save_model,
)
from truvae.noise import systems
from truvae.training import e_step, fit

EXACT = {"rtol": 1e-9, "atol": 1e-9}
KINDS = ["diagonal", "low-rank"]


def make(kind, d, rank=2, seed=0, sigma2=0.3):
    """Return a noise model of D = d observables and the decoder outputs of 4 states."""
    g = torch.Generator().manual_seed(seed)
    sigma2 = torch.tensor(sigma2, dtype=torch.float64)
    width = 2 if kind == "diagonal" else 1 + rank
    outputs = torch.randn(4, width * d, generator=g, dtype=torch.float64)
    if kind == "low-rank":
        return LowRankGaussian(sigma2, rank), outputs
    basis = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    return DiagonalGaussian(sigma2, basis, torch.linspace(0.1, 2, d).double()), outputs


def make_x(d, n=7, missing=0.4, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, d, generator=g, dtype=torch.float64)
    return x.masked_fill(torch.rand(n, d, generator=g) < missing, math.nan)


def responsibilities(n, n_states=4, seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(n, n_states, generator=g, dtype=torch.float64), 1)


def dense(noise, output):
    """Return the mean, and the covariance of the noise-free data, that outputs of a state say."""
    d = len(output)
    if isinstance(noise, LowRankGaussian):
        mean, *loadings = output.view(1 + noise.rank, -1)
        d = len(mean)
        return mean, sum((torch.outer(v, v) for v in loadings), torch.zeros(d, d).double())
    mean, log_variance = output.view(2, -1)
    return noise.basis @ mean, noise.basis @ torch.diag(
        noise.scale * log_variance.exp()
    ) @ noise.basis.T


def dense_log_likelihood(noise, x, outputs):
    """Return log p(x_b | z_u) of the observed entries, (B, U)."""
    found = torch.zeros(len(x), len(outputs), dtype=torch.float64)
    for b, point in enumerate(x):
        o = point.isfinite()
        for u, output in enumerate(outputs):
            mean, covariance = dense(noise, output)
            covariance = (covariance + noise.sigma2 * torch.eye(len(mean)).double())[o][:, o]
            if o.any():
                found[b, u] = MultivariateNormal(mean[o], covariance).log_prob(point[o])
    return found


# Sizes, ranks beyond the number of observables, gaps from none to all entries.
shapes = st.tuples(
    st.sampled_from(KINDS),
    st.integers(1, 6),
    st.integers(0, 7),
    st.floats(0, 1),
    st.integers(0, 99),
)


@given(shapes)
@settings(max_examples=60)
def test_log_likelihood_is_that_of_the_dense_gaussian_of_observed_entries(shape):
    kind, d, rank, missing, seed = shape
    noise, outputs = make(kind, d, rank, seed)
    x = make_x(d, missing=missing, seed=seed)
    expected = dense_log_likelihood(noise, x, outputs)
    torch.testing.assert_close(noise.log_likelihood(x, outputs), expected, **EXACT)
    data = noise.data_terms(x)
    states = noise.state_terms(outputs, data.shape[1])
    pairs = noise.score_pairs(data[:, None], states)
    torch.testing.assert_close(pairs, expected, **EXACT)
    offset = torch.arange(4.0).double()
    torch.testing.assert_close(noise.score(data, states, offset), expected + offset, **EXACT)
    point, column = torch.tensor([0, 3, 3]), torch.tensor([1, 0, 2])
    some = noise.log_likelihood(x, outputs, (point, column))[point, column]
    torch.testing.assert_close(some, expected[point, column], **EXACT)


@given(shapes)
@settings(max_examples=40)
def test_posterior_of_the_signal_is_the_conditional_gaussian(shape):
    kind, d, rank, missing, seed = shape
    noise, outputs = make(kind, d, rank, seed)
    x, q = make_x(d, missing=missing, seed=seed), responsibilities(7, seed=seed)
    mean, variance = noise.signal(x, q, outputs)
    for n, point in enumerate(x):
        o = point.isfinite()
        first, second = torch.zeros(d).double(), torch.zeros(d, d).double()
        for weight, output in zip(q[n], outputs, strict=True):
            mu, covariance = dense(noise, output)
            total = covariance[o][:, o] + noise.sigma2 * torch.eye(int(o.sum())).double()
            gain = torch.linalg.solve(total, covariance[o]).T
            estimate = mu + gain @ (point[o] - mu[o])
            first += weight * estimate
            second += weight * (covariance - gain @ covariance[o] + estimate.outer(estimate))
        torch.testing.assert_close(mean[n], first, **EXACT)
        torch.testing.assert_close(variance[n], (second - first.outer(first)).trace() / d, **EXACT)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_without_loadings_it_is_white_noise(missing):
    """R = 0."""
    noise, outputs = make("low-rank", 5, rank=0)
    white, x, q = Gaussian(noise.sigma2), make_x(5, missing=missing), responsibilities(7)
    expected = white.log_likelihood(x, outputs)
    torch.testing.assert_close(noise.log_likelihood(x, outputs), expected, rtol=1e-13, atol=0)
    for ours, theirs in zip(noise.signal(x, q, outputs), white.signal(x, q, outputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for model in (noise, white):
        model.update(model.gather(x, q, outputs, (q * expected).sum()))
    torch.testing.assert_close(noise.sigma2, white.sigma2, rtol=1e-12, atol=0)


def test_complete_data_of_diagonal_covariances_take_one_product():
    noise, outputs = make("diagonal", 5)
    x = make_x(5, missing=0)
    data = noise.data_terms(x)
    expected = data @ noise.state_terms(outputs, data.shape[1]).T
    assert torch.equal(noise.log_likelihood(x, outputs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_does_not_matter(kind):
    """Whatever stands for it; and rows of one pattern need not stand together."""
    noise, outputs = make(kind, 5)
    x, q = make_x(5).repeat(2, 1), responsibilities(14)
    other = x.nan_to_num(math.inf)
    assert torch.equal(noise.log_likelihood(other, outputs), noise.log_likelihood(x, outputs))
    for ours, theirs in zip(
        noise.signal(other, q, outputs), noise.signal(x, q, outputs), strict=True
    ):
        assert torch.equal(ours, theirs)
    mixed = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        noise.log_likelihood(x[mixed], outputs), noise.log_likelihood(x, outputs)[mixed], **EXACT
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [False, True])
def test_blocks_change_neither_values_nor_gradients(kind, pairs, monkeypatch):
    noise, outputs = make(kind, 5)
    x, q = make_x(5, n=9), responsibilities(9)
    some = (q > 0.2).nonzero(as_tuple=True) if pairs else None

    def results():
        leaf = outputs.clone().requires_grad_()
        scores = noise.log_likelihood(x, leaf, some)
        (gradient,) = torch.autograd.grad((q * scores).sum(), leaf)
        return scores.detach(), gradient, *noise.signal(x, q, outputs)

    whole = results()
    monkeypatch.setattr(systems, "_BLOCK", 1)
    monkeypatch.setattr(systems, "_TOGETHER", 2)
    for ours, theirs in zip(results(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    noise, outputs = make(kind, 3)
    x = make_x(3, n=4)
    leaf = outputs.requires_grad_()
    assert torch.autograd.gradcheck(lambda o: noise.log_likelihood(x, o), leaf)
    data = noise.data_terms(x)
    assert torch.autograd.gradcheck(
        lambda o: noise.score_pairs(data, noise.state_terms(o, data.shape[1])), leaf
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_float32_suffices_for_strong_signals(kind, missing):
    """Signals of a hundred times the noise: no system fails, and hardly a digit is lost."""
    noise, outputs = make(kind, 6, sigma2=1e-4)
    x = make_x(6, missing=missing)
    expected = noise.log_likelihood(x, outputs)
    for name, value in vars(noise).items():
        if isinstance(value, torch.Tensor):
            setattr(noise, name, value.float())
    found = noise.log_likelihood(x.float(), outputs.float())
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=0.1)


@given(shapes)
@settings(max_examples=40)
def test_an_em_step_follows_the_gradient_of_the_bound(shape):
    """Fisher's identity: sigma2 moves by 2 sigma2^2 / (number of entries) times dF / d sigma2."""
    _, d, rank, missing, seed = shape
    noise, outputs = make("low-rank", d, rank, seed)
    x, q = make_x(d, missing=missing / 2, seed=seed), responsibilities(7, seed=seed)
    before = noise.sigma2.clone().requires_grad_()
    noise.sigma2 = before
    expected = (q * noise.log_likelihood(x, outputs)).sum()
    (slope,) = torch.autograd.grad(expected, before)
    noise.sigma2 = before.detach()
    noise.update(noise.gather(x, q, outputs, expected.detach()))
    n_entries = x.isfinite().sum().clamp(min=1)
    step = 2 * before.detach() ** 2 / n_entries * slope
    torch.testing.assert_close(noise.sigma2 - before.detach(), step, **EXACT)


@given(shapes)
@settings(max_examples=40)
def test_an_em_step_never_lowers_the_bound(shape):
    _, d, rank, missing, seed = shape
    noise, outputs = make("low-rank", d, rank, seed)
    x, prior = make_x(d, missing=missing, seed=seed), responsibilities(1, seed=seed).log()
    last = -math.inf
    for _ in range(5):
        log_joint = noise.log_likelihood(x, outputs) + prior
        bound = float(log_joint.logsumexp(1).sum())
        assert bound >= last - 1e-9
        last, q = bound, log_joint.softmax(1)
        noise.update(noise.gather(x, q, outputs, torch.zeros(()).double()))


def test_a_known_sigma_is_held_and_a_floor_kept():
    noise, outputs = make("low-rank", 5)
    x, q = make_x(5), responsibilities(7)
    noise.fixed = True
    noise.update(noise.gather(x, q, outputs, torch.zeros(()).double()))
    assert float(noise.sigma2) == 0.3
    noise.fixed, noise.floor = False, 50.0
    noise.update(noise.gather(x, q, outputs, torch.zeros(()).double()))
    assert float(noise.sigma2) == 50.0


def test_a_negative_rank_is_refused():
    with pytest.raises(ValueError, match="0 or more, not -1"):
        LowRankGaussian(torch.tensor(1.0), rank=-1)


def planted(seed=0, n=800, missing=0.0):
    """Return a model of two states, each with a mean and a loading of its own, and its data."""
    g = torch.Generator().manual_seed(seed)
    decoder = MLP(1, (), 16, generator=g)
    outputs = torch.randn(2, 16, generator=g)
    with torch.no_grad():
        decoder.first.bias.copy_(outputs[0])
        decoder.first.weight[:, 0] = outputs[1] - outputs[0]
    model = Model(Bernoulli(torch.tensor([0.4])), decoder, LowRankGaussian(torch.tensor(0.1), 1))
    _, x = model.sample(n, g)
    return model, x.masked_fill(torch.rand(x.shape, generator=g) < missing, math.nan)


def learned(x, seed):
    """Return a model like the planted one, and the record of its last epoch."""
    g = torch.Generator().manual_seed(seed)
    noise, decoder = LowRankGaussian(x.nan_to_num().var(), 1), MLP(1, (), 16, generator=g)
    with torch.no_grad():
        decoder.first.bias.copy_(noise.outputs_for(x.nanmean(0)))
    model = Model(Bernoulli(torch.tensor([0.5])), decoder, noise)
    *_, last = fit(model, make_population(model, len(x), 2), x, epochs=10,
                   chunks=ShuffledChunks(len(x), 200), search=[Neighbours()], generator=g,
                   rate=lambda progress: 0.1 * (1 - progress))  # fmt: skip
    return model, last


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_planted_loadings_and_sigma_are_recovered(missing):
    """The better of two starts."""
    truth, x = planted(missing=missing)
    model, last = max((learned(x, seed) for seed in (1, 2)), key=lambda run: run[1].elbo)
    states = torch.tensor([[0.0], [1.0]])
    found, expected = (m.noise.split(m.decode_dense(states).detach()) for m in (model, truth))
    if torch.dist(found[0], expected[0]) > torch.dist(found[0].flip(0), expected[0]):
        found = [part.flip(0) for part in found]
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0.3)
    # A loading is known up to its sign.
    alike = torch.cosine_similarity(found[1], expected[1], dim=2).abs()
    assert float(alike.min()) > 0.99
    assert last.sigma == pytest.approx(0.1**0.5, rel=0.03)
    assert last.elbo == pytest.approx(float(truth.log_likelihood(x).mean()), abs=0.1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_with_gaps_raises_the_bound(kind, shared):
    """Every pool, flips by gradient, the M-step and the posterior, from one seed, in float32."""
    _, x = planted(n=60, missing=0.3)
    g = torch.Generator().manual_seed(0)
    noise = LowRankGaussian(torch.tensor(0.5), rank=2)
    if kind == "diagonal":
        noise = DiagonalGaussian(torch.tensor(0.1), torch.eye(8), torch.ones(8))
    decoder = MLP(6, (5,), 8 * (2 if kind == "diagonal" else 3), generator=g)
    model = Model(Bernoulli(torch.full((6,), 0.2)), decoder, noise)
    population = make_population(model, 60, 8)
    search = [GradientFlips(1, 3), *[Neighbours()] * shared]
    first, *_, last = fit(model, population, x, epochs=8, chunks=ShuffledChunks(60, 30),
                          search=search, generator=g)  # fmt: skip
    assert last.elbo > first.elbo
    pool, _ = e_step(model, population, x, torch.arange(60), search, g)
    mean, variance = pool.signal()
    assert mean.isfinite().all() and (variance > 0).all()


def test_it_is_saved_and_loaded(tmp_path):
    truth, x = planted(n=20, missing=0.2)
    truth.noise.fixed = True
    save_model(tmp_path / "model", truth)
    again = load_model(tmp_path / "model").model
    assert again.noise.rank == 1 and again.noise.fixed
    assert torch.equal(again.log_likelihood(x), truth.log_likelihood(x))


def test_the_estimator_fills_in_what_correlates():
    """Within a state, the loading tells missing entries from the others; white noise cannot."""
    truth, x = planted(n=200)
    x, gaps = x.numpy(), make_x(8, n=200, missing=0.2).isnan().numpy()
    given = x.copy()
    given[gaps] = math.nan
    options = {"n_latents": 2, "hidden": (), "n_states": 4, "max_epochs": 15, "batch_size": 16,
               "learning_rate": 0.05, "random_state": 0}  # fmt: skip

    def error(noise):
        est = TVAE(**options, noise=noise).fit(given)
        return ((est.reconstruct(given, looks=0) - x)[gaps] ** 2).mean() ** 0.5

    low_rank = error(LowRankGaussian(torch.tensor(0.5), rank=1))
    assert low_rank < 0.8 * error(Gaussian(torch.tensor(0.5)))
