"""What holds for every noise model: densities, gaps, gradients, updates, samples, planted truth."""

import numpy as np
import pytest
import torch
from conftest import all_states, make_model, make_population
from scipy import stats
from scipy.optimize import linear_sum_assignment

from truvae import (
    MLP,
    Bernoulli,
    BernoulliNoise,
    CorrelatedGaussian,
    DiagonalGaussian,
    Evolution,
    Gaussian,
    GradientFlips,
    InputError,
    LowRankGaussian,
    Model,
    Neighbours,
    PoissonNoise,
    ShuffledChunks,
    bits,
)
from truvae.moments import Statistics
from truvae.noise import Noise
from truvae.training import e_step, fit, m_step

D = 5


def orthonormal(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64)).Q


def one(value):
    return torch.tensor(value, dtype=torch.float64)


def scale():
    return torch.linspace(0.2, 1.4, D, dtype=torch.float64)


MODELS = {
    "gaussian": lambda: Gaussian(torch.tensor(0.3, dtype=torch.float64)),
    "gaussian-each": lambda: Gaussian(scale()),
    "correlated": lambda: CorrelatedGaussian(scale(), orthonormal()),
    "diagonal": lambda: DiagonalGaussian(one(0.3), orthonormal(), scale()),
    "low-rank": lambda: LowRankGaussian(one(0.3), rank=2),
    "bernoulli": BernoulliNoise,
    "poisson": PoissonNoise,
}
# Decoder outputs for each observable, where they are not means alone.
WIDTH = {"diagonal": 2, "low-rank": 3}


def density(name, x, output):
    """Return log p(x | z) of the entries of one data point that are not NaN, by SciPy."""
    known = np.isfinite(x)
    if name == "bernoulli":
        return stats.bernoulli(1 / (1 + np.exp(-output[known]))).logpmf(x[known]).sum()
    if name == "poisson":
        return stats.poisson(np.exp(output[known])).logpmf(x[known]).sum()
    mean, covariance = gaussian(name, output)
    return stats.multivariate_normal(mean[known], covariance[np.ix_(known, known)]).logpdf(x[known])


def gaussian(name, output):
    """Return mean and covariance of the data that decoder outputs stand for."""
    basis = orthonormal().numpy()
    if name == "diagonal":
        mean, log_variance = output.reshape(2, D)
        variances = scale().numpy() * np.exp(log_variance) + 0.3
        return basis @ mean, basis * variances @ basis.T
    if name == "low-rank":
        mean, *loadings = output.reshape(3, D)
        return mean, np.transpose(loadings) @ loadings + 0.3 * np.eye(D)
    covariance = {
        "gaussian": 0.3 * np.eye(D),
        "gaussian-each": np.diag(scale()),
        "correlated": basis * scale().numpy() @ basis.T,
    }[name]
    return output, covariance


@pytest.fixture(params=list(MODELS))
def name(request):
    return request.param


def model_of(name, seed=0):
    model = make_model(n_observables=D * WIDTH.get(name, 1), seed=seed)
    model.noise = MODELS[name]()
    return model


def data_of(model, n_data=40, missing=0.0, seed=1):
    g = torch.Generator().manual_seed(seed)
    _, x = model.sample(n_data, g)
    gaps = torch.rand(x.shape, generator=g) < missing
    gaps[:, 0] = False
    return x.masked_fill(gaps, torch.nan)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_log_likelihood_is_that_of_the_known_entries(name, missing):
    """And so the masked F is that of the model with the other columns deleted (oracle 7)."""
    model = model_of(name)
    x, z = data_of(model, 12, missing), all_states(6).double()[::7]
    with torch.no_grad():
        outputs = model.decoder(z)
        found = model.noise.log_likelihood(x, outputs)
    expected = [[density(name, point, o) for o in outputs.numpy()] for point in x.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_single_observable(name):
    """The shapes of terms with and without gaps coincide there."""
    noise = MODELS[name]()
    if name == "gaussian-each":
        noise = Gaussian(one([0.7]))
    if name in ("correlated", "diagonal"):
        basis, variances = torch.ones(1, 1, dtype=torch.float64), one([0.7])
        noise = (
            CorrelatedGaussian(variances, basis)
            if name == "correlated"
            else DiagonalGaussian(one(0.3), basis, variances)
        )
    outputs = one([[-0.5], [0.8]]).repeat(1, WIDTH.get(name, 1))
    x = torch.tensor([[1.0], [torch.nan]], dtype=torch.float64)
    both, whole = noise.log_likelihood(x, outputs), noise.log_likelihood(x[:1], outputs)
    torch.testing.assert_close(both[:1], whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both[1], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_gradient_of_the_m_step_is_that_of_the_bound(name, missing):
    """Oracle 3."""
    model = model_of(name)
    x = data_of(model, missing=missing)
    population = make_population(model, len(x), 16)
    e_step(model, population, x, torch.arange(40), [Evolution(4, 3)], torch.Generator())
    parameters = list(model.decoder.parameters())
    gradients = []

    class Recorder:
        def zero_grad(self):
            for parameter in parameters:
                parameter.grad = None

        def step(self):
            gradients.extend(parameter.grad.clone() for parameter in parameters)

    rows = torch.arange(40)
    m_step(model, Recorder(), population, x, rows, Statistics(model), torch.Generator(),
           minibatch=40, threshold=0.0)  # fmt: skip
    states = bits.unpack(population.words, 6, torch.float64)
    bound = torch.stack([
        torch.logsumexp(model.noise.log_likelihood(x[n : n + 1], model.decoder(z))[0]
                        + model.prior.log_prob(z), 0)
        for n, z in enumerate(states)
    ])  # fmt: skip
    expected = torch.autograd.grad(-bound.sum() / x.numel(), parameters)
    for f, e in zip(gradients, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("shared", [False, True])
def test_no_step_lowers_the_bound(name, missing, shared):
    """Oracle 5: neither the E-step nor the closed-form updates."""
    model = model_of(name)
    x = data_of(model, missing=missing)
    population = make_population(model, len(x), 12)
    rows, g = torch.arange(len(x)), torch.Generator().manual_seed(0)
    search = [Evolution(3, 2), GradientFlips(1, 3), *[Neighbours()] * shared]
    e_step(model, population, x, rows, search, g)
    for _ in range(4):
        before = population.bound(rows)
        statistics = Statistics(model)
        m_step(model, None, population, x, rows, statistics, g, minibatch=9, threshold=0.0)
        statistics.update(model)
        e_step(model, population, x, rows, [], g)
        updated = population.bound(rows)
        assert updated.sum() >= before.sum() - 1e-9
        e_step(model, population, x, rows, search, g)
        assert (population.bound(rows) >= updated - 1e-9).all()


def test_samples_are_from_the_density(name):
    model = model_of(name)
    outputs = model.decoder(torch.ones(1, 6).double()).detach()
    x = model.noise.sample(outputs.expand(100_000, -1), torch.Generator().manual_seed(0))
    error = x.std(0) / 100_000**0.5
    assert ((x.mean(0) - model.noise.mean(outputs)[0]).abs() < 5 * error).all()
    if name in ("correlated", "diagonal", "low-rank"):
        expected = gaussian(name, outputs[0].numpy())[1]
        np.testing.assert_allclose(np.cov(x.numpy().T), expected, atol=0.02 * np.trace(expected))


def test_outputs_for_a_mean_say_that_mean(name):
    noise = MODELS[name]()
    mean = torch.linspace(0.1, 0.9, D, dtype=torch.float64)
    torch.testing.assert_close(noise.mean(noise.outputs_for(mean)[None])[0], mean)


def test_a_rank_without_data_goes_along(name):
    model = model_of(name)
    statistics, population = Statistics(model), make_population(model, 4, 3)
    m_step(model, None, population, data_of(model, 4), torch.arange(0), statistics,
           torch.Generator())  # fmt: skip
    assert statistics.n_data == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64])
def test_data_of_few_bits_are_numbers(name, dtype):
    """Their squares would wrap around."""
    model = model_of(name)
    g = torch.Generator().manual_seed(0)
    most = 2 if name == "bernoulli" or dtype == torch.bool else 200
    x = torch.randint(most, (40, D), generator=g).to(dtype)
    bounds = []
    for data in (x, x.double()):
        model, population = model_of(name), make_population(model, 40, 3)
        g = torch.Generator().manual_seed(0)
        epochs = fit(model, population, data, epochs=2, chunks=ShuffledChunks(40, 20),
                     search=[Evolution(2, 2)], generator=g)  # fmt: skip
        bounds.append([epoch.elbo for epoch in epochs])
    assert bounds[0] == bounds[1]
    words = population.words[0]
    torch.testing.assert_close(model.log_joint(x, words), model.log_joint(x.double(), words))


@pytest.mark.parametrize(
    ("noise", "x"), [(BernoulliNoise(), [[0.0, 1.5]]), (PoissonNoise(), [[-1.0, 2.0]])]
)
def test_data_out_of_range_are_refused(noise, x):
    with pytest.raises(ValueError, match="not"):
        noise.data_terms(torch.tensor(x))


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("name", ["gaussian-each", "correlated"])
def test_variances_of_each_observable_or_coefficient_are_recovered(name, missing):
    model = make_model(n_latents=3, hidden=(), n_observables=D)
    model.noise = MODELS[name]()
    x = data_of(model, 3000, missing)
    truth = scale()
    if name == "correlated":
        model.noise.variances = torch.ones(D, dtype=torch.float64)
    else:
        model.noise.sigma2 = torch.ones(D, dtype=torch.float64)
    population = make_population(model, len(x), 8)  # all states
    rows, g = torch.arange(len(x)), torch.Generator().manual_seed(0)
    for _ in range(25):
        e_step(model, population, x, rows, [], g)
        statistics = Statistics(model)
        m_step(model, None, population, x, rows, statistics, g, minibatch=1000, threshold=0.0)
        statistics.update(model)
    found = model.noise.variances if name == "correlated" else model.noise.sigma2
    torch.testing.assert_close(found, truth, rtol=0.15, atol=0.0)
    assert model.noise.sigma == pytest.approx(float(truth.mean()) ** 0.5, rel=0.03)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "rest", "gain"), [("bernoulli", -2.5, 5.0), ("poisson", 0.0, 2.0)]
)
def test_planted_parameters_are_recovered(name, rest, gain, missing):
    """Three latents raise three log-odds or log-rates each; the better of two starts."""
    truth = make_model(n_latents=3, hidden=(), n_observables=9, dtype=torch.float32)
    truth.noise, truth.prior = MODELS[name](), Bernoulli(torch.tensor([0.15, 0.2, 0.3]))
    with torch.no_grad():
        truth.decoder.first.weight.copy_(gain * torch.eye(3).repeat_interleave(3, 0))
        truth.decoder.first.bias.fill_(rest)
    x = data_of(truth, 1000, missing)
    model, last = max((learned(name, x, seed) for seed in range(2)), key=lambda run: run[1].elbo)
    assert np.isnan(last.sigma)
    found, expected = means_of(model), means_of(truth)
    order = linear_sum_assignment(torch.cdist(expected, found))[1]
    assert float(((found[order] - expected).abs() / (expected + 1)).max()) < 0.12
    np.testing.assert_allclose(model.prior.pi[order], truth.prior.pi, atol=0.05)


def learned(name, x, seed):
    g = torch.Generator().manual_seed(seed)
    decoder = MLP(3, (), 9, generator=g)
    model = Model(Bernoulli(torch.full((3,), 0.2)), decoder, MODELS[name]())
    with torch.no_grad():
        decoder.first.bias.copy_(model.noise.outputs_for(x.nanmedian(0).values))
    population = make_population(model, len(x), 8)
    *_, last = fit(model, population, x, epochs=20, chunks=ShuffledChunks(len(x), 250),
                   search=[GradientFlips()], generator=g,
                   rate=lambda progress: 0.1 * (1 - progress))  # fmt: skip
    return model, last


@torch.no_grad()
def means_of(model):
    """Return what the data are on average if a single latent is active, (H, D)."""
    return model.noise.mean(model.decode_dense(torch.eye(model.n_latents)))


class NegativeBinomial(Noise):
    """Counts of more spread than Poisson's: a noise model of one's own, learned by gradient."""

    def __init__(self, dispersion):
        self.log_r = torch.nn.Parameter(torch.tensor(dispersion).log())

    def parameters(self):
        return [self.log_r]

    def data_terms(self, x):
        r = self.log_r.exp()
        own = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        return torch.cat([x, torch.ones_like(x[:, :1]), own.sum(1, keepdim=True)], 1)

    def state_terms(self, outputs, n_terms):
        r = self.log_r.exp()
        log_total = torch.logaddexp(outputs, self.log_r)
        constant = (r * (self.log_r - log_total)).sum(1, keepdim=True)
        return torch.cat([outputs - log_total, constant, torch.ones_like(constant)], 1)

    def mean(self, outputs):
        return outputs.exp()


def test_a_noise_model_of_ones_own_learns_by_gradient():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.negative_binomial(2.0, 2 / (2 + 5), (2000, 4)), dtype=torch.float32)
    model = make_model(n_latents=2, hidden=(), n_observables=4, dtype=torch.float32)
    model.noise, model.prior = NegativeBinomial(20.0), Bernoulli(torch.full((2,), 0.02))
    model.prior.limit = 0.01
    rows = torch.arange(8)
    outputs = torch.log(torch.full((1, 4), 5.0))
    expected = stats.nbinom(20, 20 / 25).logpmf(x[rows].numpy()).sum(1)
    with torch.no_grad():
        found = model.noise.log_likelihood(x[rows], outputs)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    population, g = make_population(model, 2000, 4), torch.Generator().manual_seed(0)
    for _ in fit(model, population, x, epochs=15, chunks=ShuffledChunks(2000, 250),
                 search=[GradientFlips()], generator=g, rate=lambda _: 0.03):  # fmt: skip
        pass
    assert float(model.noise.log_r.detach().exp()) == pytest.approx(2.0, rel=0.35)


def test_a_shared_prior_learns_the_mean_activity():
    prior = Bernoulli(torch.full((3,), 0.5), shared=True)
    prior.update(torch.tensor([1.0, 2.0, 6.0]), 10)
    torch.testing.assert_close(prior.pi, torch.full((3,), 0.3))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Gaussian(1.0), "sigma2 must be a tensor of floats above 0, a single one or"),
    (lambda: Gaussian(torch.tensor(-1.0)), "the least is -1, the greatest -1"),
    (lambda: Gaussian(torch.tensor([1.0, torch.nan])), "the least is nan"),
    (lambda: Gaussian(torch.tensor(1)), "not torch.int64 of shape"),
    (lambda: Gaussian(torch.ones(2, 2)), r"of shape \(2, 2\)"),
    (lambda: LowRankGaussian(torch.ones(3), 1), r"a single one, not torch.float32 of shape \(3,\)"),
    (lambda: LowRankGaussian(torch.tensor(0.0), 1), "floats above 0"),
    (lambda: CorrelatedGaussian(torch.zeros(3), torch.eye(3)), "variances must be"),
    (lambda: CorrelatedGaussian(torch.ones(3), torch.eye(4)), r"shape \(3, 3\), not \(4, 4\)"),
    (lambda: DiagonalGaussian(torch.tensor(-1.0), torch.eye(3), torch.ones(3)), "of 0 or more"),
    (lambda: DiagonalGaussian(torch.tensor(1.0), torch.eye(4), torch.ones(3)), r"shape \(3, 3\)"),
])  # fmt: skip
def test_parameters_that_make_no_sense_are_told(make, message):
    with pytest.raises(InputError, match=message):
        make()
