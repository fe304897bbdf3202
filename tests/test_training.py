"""The training loop: gradients, closed-form updates, and a bound that never falls."""

import math
import time

import numpy as np
import pytest
import torch
from conftest import all_states, make_data, make_model, make_population

from truvae import (
    Bernoulli,
    Evolution,
    Exhaustive,
    Gaussian,
    GradientFlips,
    InputError,
    Model,
    NearChunks,
    Neighbours,
    PoissonNoise,
    Population,
    ShuffledChunks,
    bits,
    datasets,
    linear,
    training,
)
from truvae.clock import Clock
from truvae.decoders import deepen
from truvae.moments import Statistics
from truvae.optim import Adam, Cyclic, OneCycle
from truvae.proposals import fitness
from truvae.training import e_step, fit, m_step, posterior


def settled(n_states=8, missing=0.0, hidden=(7,), dtype=torch.float64, n_data=30):
    """Return a model, data and a population with up-to-date log-joints."""
    model = make_model(hidden=hidden, dtype=dtype)
    x, population = make_data(model, n_data, missing), make_population(model, n_data, n_states)
    e_step(model, population, x, torch.arange(n_data), [], torch.Generator())
    return model, x, population


def bound_of(model, x, words):
    """Return F of Eq. 5 for all data points, differentiable."""
    z = bits.unpack(words, model.n_latents, x.dtype)
    log_prior = model.prior.log_prob(z.flatten(0, 1)).view(z.shape[:2])
    residual = torch.nan_to_num(x[:, None] - model.decoder(z), nan=0.0)
    entries = x.isfinite().sum(1, keepdim=True)
    s2 = model.noise.sigma2
    likelihood = -residual.square().sum(2) / (2 * s2) - entries * torch.log(2 * math.pi * s2) / 2
    return torch.logsumexp(likelihood + log_prior, 1)


class Recorder(Adam):
    """An optimiser that keeps the gradients and changes nothing."""

    def step(self):
        self.gradients = [p.grad.clone() for p in self._parameters]


def gradient_of_m_step(model, x, population):
    recorder = Recorder(model.decoder.parameters())
    rows = torch.arange(len(x))
    m_step(model, recorder, population, x, rows, Statistics(model), torch.Generator(),
           minibatch=len(x), threshold=0.0)  # fmt: skip
    return recorder.gradients


@pytest.mark.parametrize("by_codes", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_gradient_of_eq_9_is_that_of_the_bound(missing, hidden, by_codes, monkeypatch):
    """Oracle 3: Eq. 9 = autograd of Eq. 5 = finite differences."""
    monkeypatch.setattr("truvae.model._MANY", 0 if by_codes else 1 << 16)
    model, x, population = settled(missing=missing, hidden=hidden)
    found = gradient_of_m_step(model, x, population)
    parameters = list(model.decoder.parameters())
    loss = -bound_of(model, x, population.words).sum() / x.numel()
    expected = torch.autograd.grad(loss, parameters)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-6, atol=1e-9)
    step = 1e-5
    with torch.no_grad():
        entry = parameters[0].view(-1)
        sides = []
        for sign in (1, -1):
            entry[0] += sign * step
            sides.append(-bound_of(model, x, population.words).sum() / x.numel())
            entry[0] -= sign * step
    difference = (sides[0] - sides[1]) / (2 * step)
    assert found[0].view(-1)[0] == pytest.approx(float(difference), rel=1e-6, abs=1e-9)


def statistics_of(model, x, population):
    """Gather the statistics of Eq. 10 without changing the decoder."""
    statistics = Statistics(model)
    recorder = Recorder(model.decoder.parameters())
    m_step(model, recorder, population, x, torch.arange(len(x)), statistics, torch.Generator(),
           minibatch=7, threshold=0.0)  # fmt: skip
    return statistics


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_closed_form_updates_are_eq_10_and_obey_the_entropy_identity(missing):
    """Oracle 4, with the old q kept; and Eq. 5 at the new parameters is at least as high."""
    model, x, population = settled(missing=missing)
    rows = torch.arange(len(x))
    q = population.responsibilities(rows)
    z = bits.unpack(population.words, 6, torch.float64)
    before = bound_of(model, x, population.words).detach()
    statistics = statistics_of(model, x, population)
    model.prior.limit = 0.0
    statistics.update(model)
    with torch.no_grad():
        error = torch.nan_to_num(x[:, None] - model.decoder(z), nan=0.0).square().sum(2)
    entries = int(x.isfinite().sum())
    assert float(model.noise.sigma2) == pytest.approx(float((q * error).sum() / entries), rel=1e-9)
    pi = (q[..., None] * z).sum((0, 1)) / len(x)
    torch.testing.assert_close(model.prior.pi, pi, rtol=1e-9, atol=0)
    s2 = model.noise.sigma2
    likelihood = (
        -error / (2 * s2) - x.isfinite().sum(1, keepdim=True) * (2 * math.pi * s2).log() / 2
    )
    log_joint = likelihood + model.prior.log_prob(z.flatten(0, 1)).view(q.shape)
    entropy = -torch.special.xlogy(q, q).sum()
    eq_2 = ((q * log_joint).sum() + entropy) / len(x)
    bit_entropy = -(torch.special.xlogy(pi, pi) + torch.special.xlogy(1 - pi, 1 - pi)).sum()
    identity = (
        entropy / len(x)
        - bit_entropy
        - entries / (2 * len(x)) * torch.log(2 * math.pi * math.e * s2)
    )
    assert float(eq_2) == pytest.approx(float(identity), rel=1e-8)
    after = bound_of(model, x, population.words).detach().sum()
    assert after >= eq_2 * len(x) - 1e-9
    assert after >= before.sum() - 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shared", [False, True])
def test_e_step_lowers_no_bound(dtype, shared):
    """Oracle 5."""
    model, x, population = settled(missing=0.2, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    rows = torch.arange(len(x))
    search = [Evolution(3, 2, 2), GradientFlips(1, 3), *[Neighbours()] * shared]
    for _ in range(4 if shared else 12):
        before = population.bound(rows)
        e_step(model, population, x, rows, search, g)
        assert (population.bound(rows) >= before - 1e-5).all()
        fresh = bound_of(model, x, population.words).detach()
        torch.testing.assert_close(population.bound(rows), fresh, rtol=1e-4, atol=1e-4)
    everything = bits.pack(all_states(6))
    with torch.no_grad():
        optimum = torch.logsumexp(model.log_joint(x, everything).topk(8, 1).values, 1)
    assert (population.bound(rows) <= optimum + 1e-4).all()
    assert (optimum - population.bound(rows)).mean() < 0.01


def test_sigma_is_recovered_with_half_of_the_entries_missing():
    """Oracle 7: missing entries are left out, not counted as observed."""
    model = make_model(n_latents=4, hidden=(), n_observables=20)
    x = make_data(model, 2000, missing=0.5)
    population = make_population(model, 2000, 16)
    e_step(model, population, x, torch.arange(2000), [], torch.Generator())
    statistics_of(model, x, population).update(model)
    assert float(model.noise.sigma2) == pytest.approx(0.3, rel=0.02)


def trained(seed=0, epochs=20, **options):
    model = make_model(dtype=torch.float32, seed=9)
    x = make_data(make_model(dtype=torch.float32), 400)
    population = make_population(model, 400, 8)
    g = torch.Generator().manual_seed(seed)
    search = [Evolution(3, 2), Neighbours()]
    records = list(
        fit(model, population, x, epochs=epochs, chunks=NearChunks(x, 50, 2), search=search,
            generator=g, **options)
    )  # fmt: skip
    return model, x, population, records


@pytest.mark.parametrize("beside", [False, True])
def test_training_raises_the_bound_towards_the_true_likelihood(beside):
    truth = make_model(dtype=torch.float32)
    _, x, _, records = trained(epochs=60, rate=OneCycle(0.02), beside=beside)
    with torch.no_grad():
        likelihood = torch.logsumexp(truth.log_joint(x, bits.pack(all_states(6))), 1).mean()
    assert records[0].elbo < records[-1].elbo
    assert records[-1].elbo == pytest.approx(float(likelihood), abs=0.25)
    assert records[-1].sigma == pytest.approx(0.3**0.5, rel=0.15)
    assert [record.index for record in records] == list(range(60))


def test_same_seed_same_result():
    first, second, other = (trained(seed, 3) for seed in (0, 0, 1))
    assert torch.equal(first[2].words, second[2].words)
    for a, b in zip(first[0].decoder.parameters(), second[0].decoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [r.elbo for r in first[3]] == [r.elbo for r in second[3]]
    assert [r.elbo for r in first[3]] != [r.elbo for r in other[3]]


@pytest.fixture
def give_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_steps_beside_each_other_find_the_same_with_any_number_of_threads(give_threads):
    found = []
    for n in (1, 2, 4):
        give_threads(n)
        model, x, population, records = trained(epochs=3, beside=True)
        g = torch.Generator().manual_seed(1)
        parts = posterior(model, population, x, NearChunks(x, 50, 2), [Neighbours()], g)
        estimate = torch.cat([part.mean for part in parts])
        elbos = torch.tensor([record.elbo for record in records])
        found.append([population.words, elbos, estimate, *model.state().values()])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_every_point_takes_part_in_the_m_step_once_an_epoch_also_beside_e_steps(monkeypatch):
    seen = []
    real = training.m_step

    def m_step(model, optimizer, population, data, rows, **options):
        seen.append((optimizer.rate, rows))
        real(model, optimizer, population, data, rows, **options)

    monkeypatch.setattr(training, "m_step", m_step)
    rates = []
    for beside in (False, True):
        seen.clear()
        trained(epochs=2, beside=beside)
        assert torch.cat([rows for _, rows in seen]).bincount().tolist() == [2] * 400
        rates.append([rate for rate, _ in seen])
    assert rates[0] == rates[1] and len(set(rates[0])) == len(rates[0])


def test_no_states_are_lost_when_precision_grows_beside(give_threads, monkeypatch):
    """The first scores of a model in float64 make room for all of them, however long it takes."""
    give_threads(4)
    real = torch.Tensor.to

    def slowly(tensor, *args):
        found = real(tensor, *args)
        if found is not tensor and tensor.shape == (4000, 4):
            time.sleep(0.02)
        return found

    monkeypatch.setattr(torch.Tensor, "to", slowly)
    model = make_model(dtype=torch.float64)
    x, population = make_data(model, 4000), make_population(model, 4000, 4)
    population.log_joint = population.log_joint.float()
    chunks, search = ShuffledChunks(4000, 20), [Neighbours()]
    parts = posterior(model, population, x, chunks, search, torch.Generator())
    assert sum(len(part.rows) for part in parts) == 4000
    assert population.log_joint.dtype == torch.float64
    assert (population.log_joint != 0).all()


def test_whole_numbers_are_data():
    g = torch.Generator().manual_seed(0)
    model = make_model(dtype=torch.float32)
    model.noise = PoissonNoise()
    x = torch.randint(5, (60, 5), generator=g)
    population = make_population(model, 60, 4)
    records = list(fit(model, population, x, epochs=5, chunks=ShuffledChunks(60, 20),
                       search=[Evolution(2, 2)], generator=g))  # fmt: skip
    assert records[-1].elbo > records[0].elbo


@pytest.mark.parametrize("beside", [False, True])
def test_proposals_may_depend_on_the_progress(beside):
    told, model = [], make_model(dtype=torch.float32)
    x, population = make_data(model, 60), make_population(model, 60, 4)

    def search(progress):
        told.append(progress)
        return [Evolution(2, 2)] if progress < 0.5 else []

    epochs = fit(model, population, x, epochs=4, chunks=ShuffledChunks(60, 20), search=search,
                 generator=torch.Generator().manual_seed(0), beside=beside)  # fmt: skip
    first, second, *others = (epoch.substitutions for epoch in epochs)
    assert first > 0 < second and others == [0, 0]
    assert told == pytest.approx([k / 12 for k in range(12)])


def test_a_fault_in_a_step_beside_comes_to_light(give_threads):
    def fails(pool):
        raise ValueError("no states today")

    give_threads(2)
    model = make_model(dtype=torch.float32)
    x, population = make_data(model, 200), make_population(model, 200, 4)
    with pytest.raises(ValueError, match="no states today"):
        list(fit(model, population, x, epochs=1, chunks=NearChunks(x, 20, 4), search=[fails],
                 generator=torch.Generator(), beside=True))  # fmt: skip
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("shared", [False, True])
def test_where_memory_runs_out_half_of_the_points_go_at_a_time(shared):
    """As on a GPU: here a proposal says so, and only a few points fit."""
    tried, model = [], make_model(dtype=torch.float32)

    def greedy(pool):
        tried.append(len(pool.current))
        if len(pool.current) > 6:
            raise torch.OutOfMemoryError

    greedy.shares = shared
    search = [Neighbours() if shared else Evolution(2, 2), greedy]
    x, population = make_data(model, 60), make_population(model, 60, 4)
    g, chunks = torch.Generator().manual_seed(0), ShuffledChunks(60, 20)
    before = population.words.clone()
    (epoch,) = fit(model, population, x, epochs=1, chunks=chunks, search=search, generator=g)
    assert epoch.substitutions > 0 and math.isfinite(epoch.elbo)
    assert (population.words != before).any((1, 2)).sum() > 30
    parts = [*posterior(model, population, x, chunks, search, g)]
    assert torch.cat([part.rows for part in parts]).sort().values.equal(torch.arange(60))
    # Without proposals the moments are those of the states of each point, in whatever parts.
    all_at_once = [[torch.arange(60)]]
    greedy.shares = False
    (whole,), (halves,) = (
        posterior(model, population, x, lambda g: all_at_once, search, g)
        for search in ([], [greedy])
    )
    torch.testing.assert_close(halves.mean, whole.mean)
    torch.testing.assert_close(halves.variance, whole.variance)
    assert max(tried) == 60 and min(tried) <= 6

    def impossible(pool):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        [*posterior(model, population, x, chunks, [impossible], g)]


def test_posterior_moments_are_those_of_all_offered_states():
    """Without proposals these are the states that each data point has."""
    model, x, population, _ = trained(epochs=2)
    chunks = ShuffledChunks(400, 64)
    seen = []
    for part in posterior(model, population, x, chunks, [], torch.Generator().manual_seed(0)):
        q = population.responsibilities(part.rows)
        z = bits.unpack(population.words[part.rows], 6)
        with torch.no_grad():
            mean = model.decoder(z)
        expected = (q[..., None] * mean).sum(1)
        variance = (q[..., None] * (mean - expected[:, None]).square()).sum(1)
        torch.testing.assert_close(part.mean, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.variance, variance.mean(1), rtol=1e-3, atol=1e-4)
        seen += part.rows.tolist()
    assert sorted(seen) == list(range(400))


def test_posterior_mean_comes_closer_to_the_exact_one_with_shared_states():
    model, x, population, _ = trained(epochs=2)
    everything = all_states(6)
    with torch.no_grad():
        q = torch.softmax(model.log_joint(x, bits.pack(everything)), 1)
        exact = q @ model.decoder(everything)
    error = []
    for search in ([], [Neighbours()]):
        g = torch.Generator().manual_seed(0)
        parts = list(posterior(model, population, x, NearChunks(x, 50, 2), search, g))
        error.append(sum((part.mean - exact[part.rows]).square().sum() for part in parts))
    assert error[1] < error[0]


def test_prior_is_held_until_told_and_sigma_when_fixed():
    model, *_ = trained(epochs=2, learn_prior_from=2.0)
    assert torch.equal(model.prior.pi, make_model(dtype=torch.float32, seed=9).prior.pi)
    model = make_model(dtype=torch.float32)
    model.noise.fixed = True
    x, population = make_data(model, 50), make_population(model, 50, 4)
    list(fit(model, population, x, epochs=1, chunks=ShuffledChunks(50, 10), search=[],
             generator=torch.Generator()))  # fmt: skip
    assert float(model.noise.sigma2) == pytest.approx(0.3)


def test_training_stops_when_asked_and_when_time_is_up():
    asked = iter([False] * 6 + [True] * 100)
    *_, records = trained(epochs=50, clock=Clock(should_stop=lambda: next(asked)))
    assert 1 <= len(records) <= 3
    *_, records = trained(epochs=50, clock=Clock(budget=0.0))
    assert records == []


def test_the_last_epoch_ends_the_progress_though_time_ran_out_before_it():
    clock, told = Clock(budget=1e4), []
    model = make_model(dtype=torch.float32)
    x, population = make_data(model, 50), make_population(model, 50, 4)
    for epoch in fit(model, population, x, epochs=50, chunks=ShuffledChunks(50, 10), search=[],
                     generator=torch.Generator(), clock=clock):  # fmt: skip
        told.append(epoch.progress)
        if len(told) == 3:
            clock.watch.forward(2e4)
    assert len(told) == 4 and told[2] < 1 == told[3]


def test_one_cycle_rises_once_and_falls_once():
    rates = [OneCycle(0.01, 0.3)(i / 1000) for i in range(1001)]
    assert max(rates) == pytest.approx(0.01) and rates.index(max(rates)) == 300
    assert rates[:301] == sorted(rates[:301])
    assert rates[300:] == sorted(rates[300:], reverse=True)
    assert rates[-1] < 1e-5


def test_adam_is_that_of_torch():
    g = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = Adam(ours.parameters(), 0.01), torch.optim.Adam(theirs.parameters(), 0.01)
    for _ in range(20):
        x = torch.randn(5, 4, generator=g)
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_cyclic_rate_goes_up_and_down_in_straight_lines():
    rate = Cyclic(0.1, 1.1, 2.5)
    assert [rate(p / 10) for p in (0, 1, 2, 3, 4, 6, 8, 10)] == pytest.approx(
        [0.1, 0.6, 1.1, 0.6, 0.1, 1.1, 0.1, 1.1]
    )


def moments_of(model, x, population):
    statistics = Statistics(model, closed_form=True)
    m_step(model, None, population, x, torch.arange(len(x)), statistics, torch.Generator(),
           minibatch=7, threshold=0.0)  # fmt: skip
    return statistics


def test_closed_form_decoder_is_a_stationary_point_of_eq_9():
    """Oracle 6: with the responsibilities held, the gradient vanishes; sigma2 is the new error."""
    model, x, population = settled(hidden=())
    q = population.responsibilities(torch.arange(len(x)))
    z = bits.unpack(population.words, 6, torch.float64)
    moments_of(model, x, population).update(model)
    error = (q * (x[:, None] - model.decoder(z)).square().sum(2)).sum()
    gradients = torch.autograd.grad(error, list(model.decoder.parameters()))
    scale = float(error.detach())
    assert all(gradient.abs().max() < 1e-6 * scale for gradient in gradients)
    assert float(model.noise.sigma2) == pytest.approx(scale / x.numel(), rel=1e-8)


def test_closed_form_updates_never_lower_the_bound():
    """Oracle 5 for binary sparse coding: E-step and closed-form M-step in turn."""
    model, x, population = settled(hidden=(), n_data=200)
    g, rows = torch.Generator().manual_seed(0), torch.arange(200)
    bound = population.bound(rows).sum()
    for _ in range(10):
        moments_of(model, x, population).update(model)
        e_step(model, population, x, rows, [], g)
        after = population.bound(rows).sum()
        assert after >= bound - 1e-6
        e_step(model, population, x, rows, [Evolution(3, 2, selection=fitness)], g)
        bound = population.bound(rows).sum()
        assert bound >= after - 1e-9


def test_binary_sparse_coding_in_closed_form_recovers_bars():
    """From a disturbed truth: EM from a random start ends in local optima, as it is known to."""
    truth, g = datasets.bars(6), torch.Generator().manual_seed(0)
    _, x = truth.sample(500, g)
    decoder = linear(6, 9)
    with torch.no_grad():
        decoder.first.weight.copy_(truth.decoder.first.weight)
        decoder.first.weight += 0.4 * torch.randn(9, 6, generator=g)
    model = Model(Bernoulli(torch.full((6,), 1 / 6)), decoder, Gaussian(torch.tensor(0.3)))
    population = Population.random(500, 32, 6, 1 / 6, g)
    options = {"chunks": ShuffledChunks(500, 100), "search": [Exhaustive()], "closed_form": True}
    *_, last = fit(model, population, x, epochs=40, generator=g, **options)
    assert last.elbo == pytest.approx(float(truth.log_likelihood(x).mean()), abs=0.15)
    assert last.sigma == pytest.approx(0.1, rel=0.05)


def test_closed_form_needs_a_linear_decoder_and_complete_data():
    model, x, population = settled()
    common = {"epochs": 1, "chunks": ShuffledChunks(30, 10), "search": [], "closed_form": True}
    with pytest.raises(ValueError, match="linear"):
        list(fit(model, population, x, generator=torch.Generator(), **common))
    model, x, population = settled(hidden=(), missing=0.3)
    with pytest.raises(ValueError, match="complete"):
        list(fit(model, population, x, generator=torch.Generator(), **common))


@pytest.mark.parametrize("n_hidden", [1, 2])
def test_a_deepened_decoder_says_the_same(n_hidden):
    model = make_model(8, ())
    deep = deepen(model.decoder, n_hidden)
    z = all_states(8).double()
    torch.testing.assert_close(deep(z), model.decoder(z))
    with pytest.raises(ValueError, match="linear"):
        deepen(deep)


def trained_on(data, dtype=torch.float32, noise=None):
    """Train a small model for an epoch."""
    g = torch.Generator().manual_seed(0)
    model = make_model(dtype=dtype)
    model.noise = noise or model.noise
    population = make_population(model, len(data), 8)
    chunks, search = ShuffledChunks(len(data), 32), [Evolution(2, 2)]
    return [*fit(model, population, data, epochs=1, chunks=chunks, search=search, generator=g)]


@pytest.mark.parametrize("data", [np.zeros((30, 5)), [[0.0] * 5] * 30])
def test_data_that_are_no_tensors_are_told(data):
    with pytest.raises(InputError, match=r"data must be a tensor \(N, D\), .*torch.as_tensor"):
        trained_on(data)


@pytest.mark.parametrize("constant", [False, True])
def test_data_too_far_from_0_for_float32_are_told_once(constant):
    near = make_data(make_model(), 2500, missing=0.1).float()
    far = near + torch.tensor([0, 0, 0, 1e3, 0])
    if constant:
        far[:, 3] = 1e3
    with pytest.warns(UserWarning, match="the mean of feature 3 is ") as caught:
        trained_on(far)
    assert len(caught) == 1
    # Nothing is said of these.
    trained_on(far.double(), torch.float64)
    trained_on(far.abs(), noise=PoissonNoise())
    near[:, 0], near[:, 1] = 0, 3.0  # constant
    near[:2400, 2] = 3 + 1e-3 * torch.randn(2400)  # nearly, but for the last rows
    trained_on(near)
