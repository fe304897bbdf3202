"""States for patches that the model was not trained on."""

import torch

from truvae.fitting import Material
from truvae.inference import nearest_states
from truvae.population import Population


def test_new_points_get_the_states_of_near_old_ones():
    g = torch.Generator().manual_seed(0)
    old = torch.randn(300, 3, generator=g)
    population = Population.random(300, 4, 20, 0.2, g)
    found = nearest_states(old, old, population, g)
    # In a leaf of the tree with its own twin, each point finds it; a few twins are parted.
    same = (found.words == population.words).all(2).all(1)
    assert same.float().mean() > 0.9
    assert found.log_joint.shape == (300, 4)


def test_one_old_point_serves_all():
    g = torch.Generator().manual_seed(0)
    population = Population.random(1, 4, 20, 0.2, g)
    found = nearest_states(torch.randn(50, 3, generator=g), torch.zeros(1, 3), population, g)
    assert (found.words == population.words).all()


def test_of_one_frame_all_patches_are_trained_and_of_more_as_many_as_one_has():
    g = torch.Generator().manual_seed(0)
    frames = torch.randn(3, 12, 10, 1, generator=g)
    one = Material(frames[:1], 1.0, False, g).sample(4)
    three = Material(frames, 1.0, False, g).sample(4)
    assert len(one.patches) == len(three.patches) == 9 * 7
    assert one.coordinates.shape == three.coordinates.shape == (63, 16)
    known = {tuple(row.tolist()) for row in three.patches.pixels(torch.arange(63))}
    assert len(known) == 63  # none twice
