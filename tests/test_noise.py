"""States with a covariance of their own, against the dense Gaussian."""

import math

import numpy as np
import pytest
import torch
from conftest import all_states, make_data, make_model, make_population
from scipy.stats import multivariate_normal

from truvae import MLP, DiagonalGaussian, Gaussian, Neighbours, ShuffledChunks, bits
from truvae.patches import cosine_basis
from truvae.training import fit


def orthonormal(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q


def diagonal_model(seed=0):
    """Return a model whose decoder gives 5 means and 5 log-variances."""
    model = make_model(seed=seed)
    g = torch.Generator().manual_seed(seed)
    model.decoder = MLP(6, (7,), 10, generator=g).double()
    scale = torch.linspace(0.1, 2.0, 5, dtype=torch.float64)
    model.noise = DiagonalGaussian(model.noise.sigma2, orthonormal(5), scale)
    return model


def dense(noise, outputs):
    """Return the mean and the signal's covariance in data space of one decoded state."""
    m, log_v = outputs.detach().double().numpy().reshape(2, -1)
    basis = noise.basis.numpy()
    return basis @ m, basis @ np.diag(noise.scale.numpy() * np.exp(log_v)) @ basis.T


def test_log_joint_is_that_of_the_dense_gaussian():
    model = diagonal_model()
    x, z = make_data(model), all_states(6).double()
    with torch.no_grad():
        found = model.log_joint(x, bits.pack(z)) - model.prior.log_prob(z)
        outputs = model.decoder(z)
    for u in range(0, 64, 7):
        mean, covariance = dense(model.noise, outputs[u])
        density = multivariate_normal(mean, covariance + float(model.noise.sigma2) * np.eye(5))
        np.testing.assert_allclose(found[:, u], density.logpdf(x.numpy()), rtol=1e-9)


def test_without_variances_it_is_white_noise():
    """R = 0: v = 0 gives Eq. 1 with the mean B m."""
    basis, g = orthonormal(5), torch.Generator().manual_seed(1)
    x, m = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (9, 4))
    sigma2 = torch.tensor(0.3, dtype=torch.float64)
    noise = DiagonalGaussian(sigma2, basis, torch.zeros(5, dtype=torch.float64))
    outputs, means = torch.cat([m, m], 1), m @ basis.T
    white = Gaussian(sigma2)
    torch.testing.assert_close(
        noise.log_likelihood(x, outputs), white.log_likelihood(x, means), rtol=1e-10, atol=1e-10
    )
    q = torch.softmax(torch.randn(9, 4, generator=g, dtype=torch.float64), 1)
    for ours, theirs in zip(noise.signal(x, q, outputs), white.signal(x, q, means), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_posterior_of_the_signal_is_that_of_the_dense_mixture():
    model = diagonal_model()
    x, z = make_data(model, 3), all_states(6).double()[::9]
    g = torch.Generator().manual_seed(2)
    q = torch.softmax(torch.randn(3, len(z), generator=g, dtype=torch.float64), 1)
    with torch.no_grad():
        outputs = model.decoder(z)
        mean, variance = model.noise.signal(x, q, outputs)
    for n in range(3):
        first, second = np.zeros(5), np.zeros((5, 5))
        for weight, output in zip(q[n].tolist(), outputs, strict=True):
            mu, covariance = dense(model.noise, output)
            gain = covariance @ np.linalg.inv(covariance + float(model.noise.sigma2) * np.eye(5))
            estimate = mu + gain @ (x[n].numpy() - mu)
            first += weight * estimate
            second += weight * (covariance - gain @ covariance + np.outer(estimate, estimate))
        np.testing.assert_allclose(mean[n], first, rtol=1e-9)
        expected = np.trace(second - np.outer(first, first)) / 5
        assert float(variance[n]) == pytest.approx(expected, rel=1e-9)


def test_samples_have_the_covariance_they_should():
    model = diagonal_model()
    outputs = model.decoder(torch.ones(1, 6).double()).detach()
    x = model.noise.sample(outputs.expand(200_000, -1), torch.Generator().manual_seed(0))
    mean, covariance = dense(model.noise, outputs[0])
    np.testing.assert_allclose(x.mean(0), mean, atol=0.02)
    expected = covariance + float(model.noise.sigma2) * np.eye(5)
    np.testing.assert_allclose(np.cov(x.numpy().T), expected, atol=0.02 * np.trace(expected))


def test_training_finds_the_variances_and_keeps_sigma():
    """Without structure in the means, v has to explain what exceeds the noise."""
    g = torch.Generator().manual_seed(0)
    spread = torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0])
    x = spread * torch.randn(2000, 5, generator=g) + 0.5 * torch.randn(2000, 5, generator=g)
    model = diagonal_model()
    model.decoder = MLP(6, (7,), 10, generator=g)
    model.prior.pi = torch.full((6,), 0.2)
    model.noise = DiagonalGaussian(torch.tensor(0.25), torch.eye(5), torch.ones(5))
    population = make_population(model, 2000, 8)
    chunks, search = ShuffledChunks(2000, 250), [Neighbours()]
    *_, last = fit(model, population, x, epochs=15, chunks=chunks, search=search, generator=g)
    assert float(model.noise.sigma2) == pytest.approx(0.25)
    log_variance = torch.log(2 * math.pi * math.e * (spread.square() + 0.25))
    assert last.elbo == pytest.approx(-float(log_variance.sum()) / 2, abs=0.15)


def test_cosine_basis_holds_products_of_cosines():
    size = 6
    basis = cosine_basis(size).numpy().reshape(size, size, size, size)
    place = (np.arange(size) + 0.5) * np.pi / size
    expected = np.outer(np.cos(2 * place), np.cos(3 * place)) * 2 / size
    np.testing.assert_allclose(basis[:, :, 2, 3], expected, atol=1e-6)
