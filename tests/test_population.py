"""Pools and populations: the S best distinct states, the bound, and nothing ever lost."""

import math

import pytest
import torch
from conftest import all_states, make_data, make_model, make_population
from hypothesis import given
from hypothesis import strategies as st

from truvae import Pool, Population, bits


def pool_of(model, x, words, seed=0):
    with torch.no_grad():
        return Pool(model, x, words, torch.Generator().manual_seed(seed))


def brute_force_best(log_joint_of, offered, n_states):
    """Return the sorted log-joints of the S best distinct states among those offered."""
    distinct = {tuple(word) for word in offered.tolist()}
    return sorted((log_joint_of[word] for word in distinct), reverse=True)[:n_states]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12), st.booleans())
def test_best_are_the_s_best_distinct_states_offered(seed, n_states, n_candidates, share):
    model = make_model(seed=seed % 7)
    x, population = make_data(model, 4, seed=seed), make_population(model, 4, n_states, seed)
    g = torch.Generator().manual_seed(seed)
    first, second = (bits.random((4, n_candidates), 6, 0.4, g) for _ in range(2))
    everything = bits.pack(all_states(6))
    with torch.no_grad():
        table = model.log_joint(x, everything)
        pool = pool_of(model, x, population.words)
        pool.offer(first)
        if share:
            pool.share()
        pool.offer(second)
        log_joint, columns = pool.best(n_states)
    for b in range(4):
        offered = torch.cat([population.words, first, second], 1)
        offered = offered.flatten(0, 1) if share else offered[b]
        value_of = {tuple(w): float(v) for w, v in zip(everything.tolist(), table[b], strict=True)}
        expected = brute_force_best(value_of, offered, n_states)
        assert log_joint[b].tolist() == pytest.approx(expected, rel=1e-9)
        kept = pool.words[columns[b]].tolist()
        assert [value_of[tuple(w)] for w in kept] == pytest.approx(expected, rel=1e-9)
        assert len({tuple(w) for w in kept}) == n_states


def test_three_forms_of_the_bound_agree(dtype):
    """Oracle 1: Eq. 2 = Eq. 3 = Eq. 5."""
    model = make_model(dtype=dtype)
    x, population = make_data(model), make_population(model, 40, 9)
    z = bits.unpack(population.words, 6, dtype)
    with torch.no_grad():
        pool = pool_of(model, x, population.words)
        population.keep(
            torch.arange(40), population.words.clone(), pool.log_joint.gather(1, pool.columns)
        )
        log_prior = model.prior.log_prob(z.flatten(0, 1)).view(40, 9)
    log_joint, q = population.log_joint, population.responsibilities(torch.arange(40))
    entropy = -torch.special.xlogy(q, q).sum(1)
    eq_2 = (q * log_joint).sum(1) + entropy
    divergence = (torch.special.xlogy(q, q) - q * log_prior).sum(1)
    eq_3 = (q * (log_joint - log_prior)).sum(1) - divergence
    eq_5 = population.bound(torch.arange(40))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(eq_2, eq_5, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(eq_3, eq_5, rtol=tolerance, atol=tolerance)


def test_responsibilities_are_eq_12(dtype):
    model = make_model(dtype=dtype)
    x, population = make_data(model), make_population(model, 40, 9)
    z = bits.unpack(population.words, 6, dtype)
    with torch.no_grad():
        pool = pool_of(model, x, population.words)
        population.keep(
            torch.arange(40), population.words.clone(), pool.log_joint.gather(1, pool.columns)
        )
        error = (x[:, None] - model.decoder(z)).square().sum(2)
    odds = torch.log((1 - model.prior.pi) / model.prior.pi)
    eq_12 = torch.softmax(-error / (2 * model.noise.sigma2) - z @ odds, 1)
    torch.testing.assert_close(
        population.responsibilities(torch.arange(40)), eq_12, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_bound_is_below_the_likelihood_and_meets_it_with_all_states(dtype, missing):
    """Oracle 2, by enumeration of the 2^H states."""
    model = make_model(dtype=dtype)
    x, everything = make_data(model, missing=missing), bits.pack(all_states(6))
    with torch.no_grad():
        likelihood = torch.logsumexp(model.log_joint(x, everything), 1)
        for n_states in (1, 10, 64):
            population = make_population(model, 40, n_states)
            log_joint, _ = pool_of(model, x, population.words).best(n_states)
            bound = torch.logsumexp(log_joint, 1)
            assert (bound <= likelihood + 1e-5).all()
            if n_states == 64:
                torch.testing.assert_close(bound, likelihood, rtol=1e-5, atol=1e-5)
            else:
                assert (bound < likelihood - 1e-3).any()


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 32))
def test_random_states_are_distinct(seed, n_latents, n_states):
    g = torch.Generator().manual_seed(seed)
    if n_states > 2**n_latents:
        with pytest.raises(ValueError, match="distinct states need more than"):
            Population.random(7, n_states, n_latents, 0.1, g)
        return
    words = Population.random(7, n_states, n_latents, 0.1, g).words
    assert all(len({tuple(w) for w in row}) == n_states for row in words.tolist())
    assert words.max() < 2**n_latents and words.min() >= 0


def test_pool_tells_what_was_substituted():
    model = make_model()
    x, population = make_data(model, 5), make_population(model, 5, 4)
    pool = pool_of(model, x, population.words)
    assert pool.substitutions(pool.columns) == 0
    with torch.no_grad():
        new = pool.offer(bits.flip(population.words[:, :1], torch.zeros(5, 1, dtype=torch.int64)))
    known = sum(int(n in old) for n, old in zip(new[:, 0], pool.columns, strict=True))
    mixed = torch.cat([pool.columns[:, 1:], new], 1)
    assert pool.substitutions(mixed) == 5 - known


def test_a_state_that_was_not_offered_is_not_kept():
    model = make_model()
    x, population = make_data(model, 5), make_population(model, 5, 4)
    pool = pool_of(model, x, population.words)
    log_joint, columns = pool.best(4)
    assert torch.equal(columns.sort().values, pool.columns.sort().values)
    assert (log_joint > -math.inf).all()
