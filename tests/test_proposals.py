"""Proposals: the laws by which parents and flips are drawn, and what candidates look like."""

from types import SimpleNamespace

import pytest
import torch
from conftest import all_states, make_data, make_model, make_population
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from truvae import (
    Bernoulli,
    Evolution,
    Exhaustive,
    GradientFlips,
    Neighbours,
    OwnPool,
    PosteriorSamples,
    PriorSamples,
    Random,
    SharedPool,
    Sparseflip,
    bits,
)
from truvae.proposals import (
    SELECTIONS,
    best,
    crossover,
    fitness,
    pool_for,
    randflip,
    released,
    softmax,
    uniform,
)

LOG_JOINT = torch.tensor([[-3.0, -1.0, -7.0, -2.5, -20.0]])


def test_fitness_is_the_log_joint_above_the_least():
    """App. A.1: proportional to the log-joint plus an offset that makes all values positive."""
    raised = LOG_JOINT[0] + 20 + 1e-3 * 19
    torch.testing.assert_close(fitness(LOG_JOINT)[0], raised / raised.sum())
    assert torch.equal(fitness(torch.full((1, 4), -5.0)), torch.full((1, 4), 0.25))


def test_softmax_uniform_and_best():
    weights = torch.exp(LOG_JOINT[0] / 3)
    torch.testing.assert_close(softmax(LOG_JOINT)[0], weights / weights.sum())
    torch.testing.assert_close(uniform(LOG_JOINT)[0], torch.full((5,), 0.2))
    assert best(LOG_JOINT).tolist() == [[0, 1, 0, 0, 0]]


@given(st.integers(0, 1000), st.integers(1, 70))
def test_released_follows_the_draw_of_the_released_code(seed, n_data):
    """Its draw: how many cumulated shares of the batch exceed u, counted from the end, less one."""
    g = torch.Generator().manual_seed(seed)
    log_joint = 30 * torch.randn(n_data, 6, generator=g, dtype=torch.float64) - 40
    chances = released(log_joint)
    torch.testing.assert_close(chances.sum(1), torch.ones(n_data, dtype=torch.float64))
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1] + 1 / 40_000
    for part, found in zip(log_joint.split(32), chances.split(32), strict=True):
        shares = part - 2 * min(part.min(), 0.0)
        cumulated = (shares / shares.sum()).cumsum(1)
        for row, chance in zip(cumulated[:2], found[:2], strict=True):
            index = 6 - 1 - (u[:, None] < row).sum(1)  # -1 is the last one
            frequency = torch.bincount(index % 6, minlength=6) / len(u)
            torch.testing.assert_close(frequency.double(), chance, rtol=0, atol=2e-4)


def test_released_takes_the_last_state_nearly_always():
    chances = released(torch.randn(32, 200) - 50)
    assert 0.96 < chances[:, -1].mean() < 0.98


def stand_in(n_latents, generator, pi=None):
    """Return what mutations need to know of a pool."""
    prior = Bernoulli(torch.full((n_latents,), 0.1) if pi is None else pi)
    model = SimpleNamespace(n_latents=n_latents, prior=prior)
    return SimpleNamespace(model=model, generator=generator)


def parents_of(children, words):
    """Return which of the states (S, W) each child (n, W) was made from."""
    return (bits.count(children[:, None] ^ words[None]) == 1).int().argmax(1)


@pytest.mark.parametrize("name", SELECTIONS)
def test_parents_are_drawn_by_their_law_and_flips_uniformly(name, generator):
    n_latents, n = 40, 20_000
    # Codes at a distance of more than two bits, so that every child tells its parent.
    words = bits.pack(
        torch.arange(n_latents).div(8, rounding_mode="floor") == torch.arange(5)[:, None]
    )
    evolution = Evolution(2, 3, selection=SELECTIONS[name])
    children = evolution.children(
        words.expand(n, 5, 1), LOG_JOINT.expand(n, 5), stand_in(n_latents, generator)
    )
    assert children.shape == (n, 6, 1)
    parent = parents_of(children.flatten(0, 1), words).view(n, 2, 3)
    assert (parent == parent[..., :1]).all()
    counts = torch.bincount(parent[..., 0].flatten(), minlength=5).double()
    expected = SELECTIONS[name](LOG_JOINT.expand(n, 5))[0].double() * 2 * n
    possible = expected > 1e-6
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        expected = expected[possible] / expected[possible].sum() * 2 * n
        assert chisquare(counts[possible], expected).pvalue > 1e-4
    flipped = bits.unpack(children ^ words[parent.flatten(1)], n_latents)
    assert (flipped.sum(-1) == 1).all()
    flips = flipped.sum((0, 1)).double()
    assert chisquare(flips, flips.sum().expand(n_latents) / n_latents).pvalue > 1e-4
    siblings = children.view(n, 2, 3)
    assert (siblings[..., 0] != siblings[..., 1]).all()
    assert (siblings[..., 1:] != siblings[..., [0, 0]]).all()
    assert (siblings[..., 1] != siblings[..., 2]).all()


def test_sets_of_flips_are_uniform(generator):
    """All 10 pairs of 5 bits are equally likely for two children."""
    parents = torch.zeros(20_000, 1, 1, dtype=torch.int64)
    children = randflip(parents, 2, stand_in(5, generator))[..., 0]
    pairs = torch.unique(children.sum(1), return_counts=True)
    assert len(pairs[0]) == 10
    assert chisquare(pairs[1]).pvalue > 1e-4


def test_flips_are_uniform_for_each_child(generator):
    """Also for the last one, which `released` takes for parent nearly always."""
    parents = torch.zeros(40_000, 1, 1, dtype=torch.int64)
    children = bits.unpack(randflip(parents, 9, stand_in(20, generator)), 20)
    for flips in children.sum(0):
        assert chisquare(flips.double()).pvalue > 1e-4


def test_released_takes_the_best_state_first(generator):
    """In the first generation the last state is the best one."""
    n = 3200
    pool = stand_in(40, generator)
    words = bits.pack(
        torch.arange(40).div(8, rounding_mode="floor") == torch.arange(5)[:, None]
    ).expand(n, 5, 1)
    pool.current, pool.log_joint = words, LOG_JOINT.expand(n, 5)
    offered = []
    pool.offer = offered.append
    Evolution(1, 1, selection=released)(pool)
    parent = parents_of(offered[0].flatten(0, 1), words[0])
    assert 0.94 < (parent == LOG_JOINT.argmax()).double().mean() < 0.99


def test_crossover_cuts_are_uniform(generator):
    z = torch.stack([torch.zeros(20), torch.ones(20)]).expand(20_000, 2, 20)
    children = bits.unpack(crossover(bits.pack(z), 20, generator), 20)
    cuts = torch.bincount(children[:, 1].sum(1).long(), minlength=20)[1:]
    assert len(cuts) == 19 and chisquare(cuts).pvalue > 1e-4
    with pytest.raises(ValueError, match="two latents"):
        crossover(torch.zeros(1, 2, 1, dtype=torch.int64), 1, generator)


def test_more_children_than_latents_is_an_error(generator):
    with pytest.raises(ValueError, match="children with different flips"):
        randflip(torch.zeros(1, 1, 1, dtype=torch.int64), 5, stand_in(4, generator))


@pytest.mark.parametrize("n_latents", [2, 40, 64, 100])
@pytest.mark.parametrize("n_parents", [2, 4])
def test_crossover_swaps_tails_of_all_pairs(n_latents, n_parents, generator):
    z = torch.rand(300, n_parents, n_latents, generator=generator) < 0.5
    children = bits.unpack(crossover(bits.pack(z), n_latents, generator), n_latents, torch.bool)
    assert children.shape == (300, n_parents * (n_parents - 1), n_latents)
    pairs = torch.combinations(torch.arange(n_parents), 2)
    heads = torch.arange(n_latents) < torch.arange(1, n_latents)[:, None]
    cuts = torch.zeros(len(heads))
    for k, (i, j) in enumerate(pairs.tolist()):
        made = torch.stack([children[:, k], children[:, k + len(pairs)]], 1)
        possible = torch.stack(
            [
                torch.where(heads, z[:, i, None], z[:, j, None]),
                torch.where(heads, z[:, j, None], z[:, i, None]),
            ],
            2,
        )
        fits = (made[:, None] == possible).all(3).all(2)
        assert fits.any(1).all()
        cuts += (fits & (fits.sum(1, keepdim=True) == 1)).sum(0)
    if n_latents == 40 and n_parents == 4:  # long enough that cuts can be told apart
        assert cuts.min() > 0


def test_sparseflip_keeps_both_promises(generator):
    """The expected number of flips is rate H; that of active bits moves to the sum of pi."""
    n_latents, n = 50, 4000
    for n_active, expected in ((2, 5.0), (5, 5.0), (7, 5.0), (20, 5.0), (0, 5.0), (5, 40.0)):
        pi = torch.full((n_latents,), expected / n_latents)
        z = torch.zeros(n, 1, n_latents)
        z[..., :n_active] = 1
        mutation = Sparseflip(4 / n_latents)
        children = mutation(bits.pack(z), 1, stand_in(n_latents, generator, pi))
        change = bits.unpack(children, n_latents)
        flips = (change != z).sum(2).double().mean()
        gain = change.sum(2).double().mean() - n_active
        assert flips == pytest.approx(4.0, abs=0.15)
        assert gain == pytest.approx(max(min(expected - n_active, 4), -4), abs=0.15)


def test_sparseflip_cannot_flip_more_than_there_is(generator):
    chances = Sparseflip(1.0).chances(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor(3.0))
    assert chances.tolist() == [[0.5, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "selection", "cross", "flips"),
    [
        ("fit-randflip", fitness, False, True),
        ("fitparents-randflips", fitness, False, True),
        ("rand-cross-randflip", uniform, True, True),
        ("randparents-cross-randflips", uniform, True, True),
        ("fit-cross", fitness, True, False),
        ("released-randflip", released, False, True),
        ("softmax-cross-randflip", softmax, True, True),
    ],
)
def test_operators_by_the_names_of_the_paper(name, selection, cross, flips):
    evolution = Evolution.named(name, 3, 2, 1)
    assert evolution.selection is selection
    assert evolution.cross is cross
    assert (evolution.mutation is randflip) is flips


@pytest.mark.parametrize("name", ["fit", "cross-randflip", "fit-randflip-cross", "good-randflip"])
def test_other_names_are_errors(name):
    with pytest.raises(ValueError, match="no operators"):
        Evolution.named(name)


def test_operators_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="mutation"):
        Evolution(mutation=None)
    with pytest.raises(ValueError, match="2 parents"):
        Evolution(1, cross=True)


def pool_after(*search, n_data=6, n_states=4, n_latents=8):
    model = make_model(n_latents)
    x, population = make_data(model, n_data), make_population(model, n_data, n_states)
    with torch.no_grad():
        kind = pool_for(search)
        pool = kind(model, x, population.words, torch.Generator().manual_seed(3))
        for propose in search:
            propose(pool)
    return model, x, population, pool


@pytest.mark.parametrize(
    ("search", "n_offered"),
    [
        (Evolution(3, 2, 3), 18),
        (Evolution(4, cross=True, n_generations=2), 24),
        (Evolution(4, cross=True, mutation=None), 12),
        (Evolution(3, 2, mutation=Sparseflip(0.2)), 6),
        (GradientFlips(2, 3), 6),
        (GradientFlips(2, 3, swaps=True), 6),
        (Random(7), 7),
        (PriorSamples(5), 5),
        (PosteriorSamples(5), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_proposals_offer_as_many_states_as_they_say(search, n_offered):
    """And the pool knows their log-joints."""
    model, x, population, pool = pool_after(search)
    assert isinstance(pool, OwnPool)
    words = torch.cat(pool._words, 1)
    assert words.shape == (6, 4 + n_offered, 1)
    assert words.min() >= 0 and words.max() < 256
    with torch.no_grad():
        for b in range(6):
            expected = model.log_joint(x[b : b + 1], words[b])[0]
            torch.testing.assert_close(torch.cat(pool._scores, 1)[b], expected)


def test_generations_reach_further_from_the_first_parents():
    _, _, population, pool = pool_after(Evolution(3, 2, n_generations=3))
    reached = torch.cat(pool._words, 1).flatten(0, 1)
    distance = bits.count(reached[:, None] ^ population.words.flatten(0, 1)[None]).amin(1)
    assert distance.max() > 1


def test_neighbours_offer_every_state_to_every_point():
    model, x, _, pool = pool_after(Evolution(2, 2), Neighbours())
    assert isinstance(pool, SharedPool)
    log_joint, *_ = pool.best(4)
    with torch.no_grad():
        expected = model.log_joint(x, pool.words).topk(4, 1).values
    torch.testing.assert_close(log_joint.sort(1, descending=True).values, expected)


def test_exhaustive_search_finds_the_posterior():
    model, x, population, pool = pool_after(Exhaustive())
    log_joint, words, _ = pool.best(256)
    with torch.no_grad():
        likelihood = torch.logsumexp(model.log_joint(x, bits.pack(all_states(8))), 1)
    torch.testing.assert_close(torch.logsumexp(log_joint, 1), likelihood)
    assert (words.sort(1).values == torch.arange(256)[:, None]).all()


def test_random_states_have_one_active_bit_in_the_mean():
    *_, pool = pool_after(Random(4000), n_data=5, n_latents=20)
    z = bits.unpack(pool._words[1], 20)
    active = z.sum(-1).flatten()
    counts = torch.bincount(active.long(), minlength=6)[:6].double()
    law = torch.tensor(binom.pmf(range(6), 20, 1 / 20))
    assert chisquare(counts, law / law.sum() * counts.sum()).pvalue > 1e-4


def test_samples_follow_prior_and_posterior_marginals():
    model, _, population, pool = pool_after(PriorSamples(4000), PosteriorSamples(4000))
    prior, posterior = (bits.unpack(words, 8, torch.float64) for words in pool._words[1:])
    torch.testing.assert_close(prior.mean((0, 1)), model.prior.pi, rtol=0, atol=0.02)
    q = torch.softmax(pool.log_joint, 1)
    marginals = (q[..., None] * bits.unpack(population.words, 8, torch.float64)).sum(1)
    torch.testing.assert_close(posterior.mean(1), marginals, rtol=0, atol=0.05)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_flip_gains_are_first_order_gains(missing):
    """With a linear decoder and a tiny change the gain is exact up to its second order."""
    model = make_model(8, ())
    x = make_data(model, 5, missing)
    words = make_population(model, 5, 3).words
    with torch.no_grad():
        pool = OwnPool(model, x, words, torch.Generator())
        gains = pool.flip_gains(words)
        z = bits.unpack(words, 8, torch.float64)
        weight = model.decoder.first.weight
        for h in range(8):
            flipped = bits.flip(words, torch.full((5, 3), h))
            after = torch.stack([model.log_joint(x[b : b + 1], flipped[b])[0] for b in range(5)])
            before = torch.stack([model.log_joint(x[b : b + 1], words[b])[0] for b in range(5)])
            norm = (weight[:, h].square() * x.isfinite()).sum(1, keepdim=True)
            second_order = norm / (2 * model.noise.sigma2)
            torch.testing.assert_close(gains[..., h], after - before + second_order)
    assert gains.shape == z.shape


@pytest.mark.parametrize("swaps", [False, True])
def test_gradient_flips_prefer_gains(swaps):
    def mean_gain(temperature):
        search = GradientFlips(4, 2, temperature=temperature, swaps=swaps)
        *_, pool = pool_after(search, n_data=60)
        return pool._scores[1].mean()

    assert mean_gain(0.01) > mean_gain(1e6)


def test_gradient_flips_follow_their_law():
    """One child: drawn with probability proportional to exp(gain / temperature)."""
    model = make_model(5, ())
    x, n = make_data(model, 1).expand(20_000, -1), 20_000
    words = torch.full((n, 1, 1), 3)
    with torch.no_grad():
        pool = OwnPool(model, x, words, torch.Generator().manual_seed(0))
        gains = pool.flip_gains(words)[0, 0]
        temperature = float(gains.std())
        GradientFlips(1, 1, temperature=temperature)(pool)
    flipped = bits.unpack(pool._words[1] ^ words, 5).sum((0, 1))
    law = torch.softmax(gains / temperature, 0) * n
    assert chisquare(flipped, law * flipped.sum() / law.sum()).pvalue > 1e-4


def test_swaps_of_full_states_change_nothing_that_cannot_be():
    *_, pool = pool_after(GradientFlips(2, 8, swaps=True), n_data=50, n_latents=8)
    distance = bits.count(pool._words[1][:, :, None] ^ pool.current[:, None]).amin(2)
    assert distance.max() <= 2


def test_swaps_keep_the_number_of_active_bits_unless_there_is_none():
    _, _, population, pool = pool_after(GradientFlips(1, 3, best, swaps=True), n_data=200)
    first = pool.log_joint.argmax(1)
    parents = population.words[torch.arange(200), first]
    active = bits.count(parents)[:, None]
    assert active.min() == 0 and active.max() > 1
    swapped = pool._words[1]
    assert (bits.count(swapped) == torch.where(active == 0, 1, active)).all()
    assert (bits.count(swapped ^ parents[:, None]) == torch.where(active == 0, 1, 2)).all()


def test_a_probability_of_0_is_0():
    *_, pool = pool_after(Random(5, probability=0.0))
    assert (pool._words[1] == 0).all()
