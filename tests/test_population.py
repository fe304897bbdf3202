"""Pools and populations: the S best distinct states, the bound, and nothing ever lost."""

import pytest
import torch
from conftest import all_states, make_data, make_model, make_population
from hypothesis import given
from hypothesis import strategies as st

import truvae.population as population_module
from truvae import OwnPool, Population, SharedPool, bits


class ThriftyPool(OwnPool):
    """One that looks for repeated states before it decodes them, as for a large decoder."""

    def __init__(self, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(population_module, "_COSTLY", 0)
            patch.setattr(population_module, "_BLOCK", 100)
            super().__init__(*arguments)


POOLS = [OwnPool, ThriftyPool, SharedPool]


def pool_of(kind, model, x, words, seed=0):
    with torch.no_grad():
        return kind(model, x, words, torch.Generator().manual_seed(seed))


def brute_force_best(log_joint_of, offered, n_states):
    """Return the sorted log-joints of the S best distinct states among those offered."""
    distinct = {tuple(word) for word in offered.tolist()}
    return sorted((log_joint_of[word] for word in distinct), reverse=True)[:n_states]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12), st.sampled_from(POOLS))
def test_best_are_the_s_best_distinct_states_offered(seed, n_states, n_candidates, kind):
    model = make_model(seed=seed % 7)
    x, population = make_data(model, 4, seed=seed), make_population(model, 4, n_states, seed)
    g = torch.Generator().manual_seed(seed)
    first, second = (bits.random((4, n_candidates), 6, 0.4, g) for _ in range(2))
    everything = bits.pack(all_states(6))
    with torch.no_grad():
        table = model.log_joint(x, everything)
        pool = pool_of(kind, model, x, population.words)
        own = pool.offer(first)
        pool.offer(second)
        log_joint, kept, new = pool.best(n_states)
    for b in range(4):
        offered = torch.cat([population.words, first, second], 1)
        offered = offered.flatten(0, 1) if kind is SharedPool else offered[b]
        value_of = {tuple(w): float(v) for w, v in zip(everything.tolist(), table[b], strict=True)}
        expected = brute_force_best(value_of, offered, n_states)
        assert sorted(log_joint[b].tolist(), reverse=True) == pytest.approx(expected, rel=1e-9)
        values = [value_of[tuple(w)] for w in kept[b].tolist()]
        assert values == pytest.approx(log_joint[b].tolist(), rel=1e-9)
        assert len({tuple(w) for w in kept[b].tolist()}) == n_states
        had = {tuple(w) for w in population.words[b].tolist()}
        assert [tuple(w) not in had for w in kept[b].tolist()] == new[b].tolist()
        values = [value_of[tuple(w)] for w in first[b].tolist()]
        assert own[b].tolist() == pytest.approx(values, rel=1e-9)


@pytest.mark.parametrize("kind", POOLS)
def test_three_forms_of_the_bound_agree(dtype, kind):
    """Oracle 1: Eq. 2 = Eq. 3 = Eq. 5."""
    model = make_model(dtype=dtype)
    x, population = make_data(model), make_population(model, 40, 9)
    z = bits.unpack(population.words, 6, dtype)
    with torch.no_grad():
        pool = pool_of(kind, model, x, population.words)
        population.keep(torch.arange(40), population.words.clone(), pool.log_joint)
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


@pytest.mark.parametrize("kind", POOLS)
def test_responsibilities_are_eq_12(dtype, kind):
    model = make_model(dtype=dtype)
    x, population = make_data(model), make_population(model, 40, 9)
    z = bits.unpack(population.words, 6, dtype)
    with torch.no_grad():
        pool = pool_of(kind, model, x, population.words)
        population.keep(torch.arange(40), population.words.clone(), pool.log_joint)
        error = (x[:, None] - model.decoder(z)).square().sum(2)
    odds = torch.log((1 - model.prior.pi) / model.prior.pi)
    eq_12 = torch.softmax(-error / (2 * model.noise.sigma2) - z @ odds, 1)
    torch.testing.assert_close(
        population.responsibilities(torch.arange(40)), eq_12, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_bound_is_below_the_likelihood_and_meets_it_with_all_states(dtype, kind, missing):
    """Oracle 2, by enumeration of the 2^H states."""
    model = make_model(dtype=dtype)
    x, everything = make_data(model, missing=missing), bits.pack(all_states(6))
    with torch.no_grad():
        likelihood = torch.logsumexp(model.log_joint(x, everything), 1)
        for n_states in (1, 10, 64):
            population = make_population(model, 40, n_states)
            log_joint, _, _ = pool_of(kind, model, x, population.words).best(n_states)
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


def test_states_without_repetition_are_drawn_by_their_probability():
    """H = 2, one state: Bernoulli; a probability out of range is an error."""
    words = Population.random(40_000, 2, 2, 0.2, torch.Generator().manual_seed(0)).words[..., 0]
    p = torch.tensor([0.64, 0.16, 0.16, 0.04])
    # Of two draws one after the other, state i is among them with this probability.
    among = torch.stack([p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i)
                         for i in range(4)])  # fmt: skip
    found = torch.bincount(words.flatten(), minlength=4) / 40_000
    torch.testing.assert_close(found, among, rtol=0, atol=0.012)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Population.random(3, 2, 4, 1.0, torch.Generator())


@pytest.mark.parametrize("kind", POOLS)
def test_without_offers_nothing_changes_but_what_is_shared(kind):
    model = make_model()
    x, population = make_data(model, 5), make_population(model, 5, 4)
    _, kept, new = pool_of(kind, model, x, population.words).best(4)
    if kind is not SharedPool:
        assert torch.equal(kept.sort(1).values, population.words.sort(1).values)
        assert not new.any()
    everything = {tuple(w) for w in population.words.flatten(0, 1).tolist()}
    assert {tuple(w) for w in kept.flatten(0, 1).tolist()} <= everything


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_signal_is_the_posterior_given_all_states_of_the_pool(kind, missing):
    """Repeated offers count once."""
    model = make_model()
    x, population = make_data(model, 20, missing), make_population(model, 20, 4)
    pool = pool_of(kind, model, x, population.words)
    with torch.no_grad():
        pool.offer(bits.flip(population.words, torch.zeros(20, 4, dtype=torch.int64)))
        pool.offer(population.words)
        mean, variance = pool.signal()
        states = [bits.unpack(words, 6, torch.float64) for words in offered_to(pool)]
        for b, z in enumerate(states):
            outputs = model.decoder(z)
            q = torch.softmax(model.log_joint(x[b : b + 1], bits.pack(z)), 1)
            torch.testing.assert_close(mean[b], (q @ outputs)[0])
            spread = (q @ (outputs - q @ outputs).square())[0].mean()
            torch.testing.assert_close(variance[b], spread, rtol=1e-6, atol=1e-9)


def offered_to(pool):
    """Return the distinct states that each data point of a pool was offered."""
    if isinstance(pool, SharedPool):
        return [pool.words] * len(pool.current)
    first = bits.flip(pool.current, torch.zeros(pool.current.shape[:2], dtype=torch.int64))
    return [torch.unique(words, dim=0) for words in torch.cat([pool.current, first], 1)]


def test_moments_are_free_of_subnormal_numbers():
    """A few of them make products five times as slow; what they stand for is nothing."""
    log_joint = torch.randn(40, 200, generator=torch.Generator().manual_seed(0)) * 60
    log_joint[0, :50] = -torch.inf  # repeated states
    plain, tiny = torch.softmax(log_joint, 1), torch.finfo(torch.float32).tiny
    assert ((plain > 0) & (plain < tiny)).any()
    q = population_module._responsibilities(log_joint)
    exact = torch.softmax(log_joint.double(), 1)
    assert (q >= tiny).all()
    assert torch.allclose(q.double(), exact, rtol=1e-5, atol=1e-25)
