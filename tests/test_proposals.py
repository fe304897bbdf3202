"""Proposals: the laws by which parents and flips are drawn."""

import pytest
import torch
from conftest import make_data, make_model, make_population
from scipy.stats import chisquare

from truvae import Evolution, GradientFlips, Neighbours, Pool, bits
from truvae.proposals import SELECTIONS, best, fitness, softmax, uniform

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
        words.expand(n, 5, 1), LOG_JOINT.expand(n, 5), n_latents, generator
    )
    assert children.shape == (n, 6, 1)
    parent = parents_of(children.flatten(0, 1), words).view(n, 2, 3)
    assert (parent == parent[..., :1]).all()
    counts = torch.bincount(parent[..., 0].flatten(), minlength=5).double()
    expected = SELECTIONS[name](LOG_JOINT)[0].double() * 2 * n
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


def test_more_children_than_latents_is_an_error(generator):
    with pytest.raises(ValueError, match="children with different flips"):
        Evolution(1, 5).children(
            torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1), 4, generator
        )


def pool_after(*search, n_data=6, n_states=4):
    model = make_model(8)
    x, population = make_data(model, n_data), make_population(model, n_data, n_states)
    with torch.no_grad():
        pool = Pool(model, x, population.words, torch.Generator().manual_seed(3))
        for propose in search:
            propose(pool)
    return model, x, population, pool


def test_generations_reach_further_from_the_first_parents():
    _, _, population, pool = pool_after(Evolution(3, 2, n_generations=3))
    distance = bits.count(pool.words[:, None] ^ population.words.flatten(0, 1)[None]).amin(1)
    assert distance.max() > 1


def test_neighbours_offer_every_state_to_every_point():
    _, _, _, pool = pool_after(Evolution(2, 2), Neighbours())
    log_joint, _ = pool.best(4)
    torch.testing.assert_close(log_joint, pool.log_joint.topk(4, 1).values)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_flip_gains_are_first_order_gains(missing):
    """With a linear decoder and a tiny change the gain is exact up to its second order."""
    model = make_model(8, ())
    x = make_data(model, 5, missing)
    words = make_population(model, 5, 3).words
    with torch.no_grad():
        pool = Pool(model, x, words, torch.Generator())
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


def test_gradient_flips_prefer_gains():
    model, x, population, _ = pool_after()

    def mean_gain(temperature):
        with torch.no_grad():
            pool = Pool(model, x, population.words, torch.Generator().manual_seed(0))
            GradientFlips(4, 2, temperature=temperature)(pool)
            return pool.log_joint[:, len(bits.unique(population.words.flatten(0, 1)).keys) :].mean()

    assert mean_gain(0.01) > mean_gain(1e6)
