import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_restore import noisy_scene

import truvae
from truvae import looks
from truvae.looks import Looks, best_course, count, split
from truvae.refine import refine
from truvae.settings import choose


def pictures(seed=0, side=24):
    g = torch.Generator().manual_seed(seed)
    clean = torch.arange(side * 1.0).div(side // 2).floor().expand(1, side, side)[..., None]
    return clean, clean + 0.4 * torch.randn(clean.shape, generator=g), g


def smoothed(images):
    pool = torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return pool(images[..., 0])[..., None]


def test_a_course_is_one_look_after_the_other_and_the_mean_of_its_rows():
    _, noisy, _ = pictures()
    first = smoothed(noisy)
    after = refine(noisy[0], first[0], 0.4, 5)
    ends = [refine(noisy[0], after, 0.4, size) for size in (4, 6)]
    found = Looks(noisy, first, 0.4).along(((5, 4), (5, 6)))
    torch.testing.assert_close(found[0], torch.stack(ends).mean(0))


def test_a_look_in_colour_goes_by_more_patches():
    """The entries of patches grow with the channels, and 32 patches span ever fewer of them."""
    g = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 20, 20, 5, generator=g)
    first = 0.1 * noisy.sin()
    for n, n_near in ((1, 32), (2, 48), (3, 64), (5, 64)):
        frames = noisy[..., :n], first[..., :n]
        found = Looks(*frames, 1.0).along(((6,),))
        torch.testing.assert_close(found, refine(*frames, 1.0, 6, n_near=n_near))


def test_frames_are_looked_at_together():
    _, noisy, g = pictures()
    frames = noisy + 0.4 * torch.randn(3, *noisy.shape[1:], generator=g)
    first = torch.stack([smoothed(frame[None])[0] for frame in frames])
    found = Looks(frames, first, 0.6).along(((5,),))
    torch.testing.assert_close(found, refine(frames, first, 0.6, 5))
    alone = Looks(frames[:1], first[:1], 0.6).along(((5,),))
    assert not torch.allclose(found[:1], alone)


def test_no_look_is_taken_twice(monkeypatch):
    _, noisy, _ = pictures()
    sizes = []

    def told(*args, **options):
        sizes.append(options["size"])
        return refine(*args, **options)

    monkeypatch.setattr(looks, "refine", told)
    taken = Looks(noisy, smoothed(noisy), 0.4)
    courses = [((5, 4), (5, 6)), ((5, 5),), ((5, 5, 4),), ((5, 4),)]
    for course in courses:
        taken.along(course)
    assert sizes == [5, 4, 6, 5, 4] and taken.taken == 5 == count(courses) and taken.depth == 3


@given(st.floats(0, 4))
def test_where_looking_ends_the_last_whole_estimate_stands(end):
    _, noisy, _ = pictures(side=32)
    told = []

    def go_on(taken):
        told.append(taken)
        return taken < end

    some = Looks(noisy, smoothed(noisy), 0.4, go_on)
    found = some.along(((4,) * 3,))
    whole = sum(taken + 8 / 9 < end for taken in range(3))  # of nine tiles each
    assert some.taken == some.depth == whole and told[0] == 0
    assert sum(taken >= end for taken in told) == (end <= 2 + 8 / 9)  # then nobody asks again
    known = Looks(noisy, smoothed(noisy), 0.4).along(((4,) * whole,))
    torch.testing.assert_close(found, known)


@settings(max_examples=20)
@given(st.integers(0, 999), st.floats(0.1, 10.0))
def test_the_two_pictures_hold_what_one_held_and_their_noise_is_independent(seed, sigma):
    g = torch.Generator().manual_seed(seed)
    noise = sigma * torch.randn(1, 100, 100, 1, generator=g, dtype=torch.float64)
    first, second, level = split(noise, sigma, g)
    share = sigma**2 / level**2  # each counts by its precision
    torch.testing.assert_close(share * first + (1 - share) * second, noise)
    assert float(first.std()) == pytest.approx(level, rel=0.04)
    assert float((first * second).mean()) == pytest.approx(0, abs=0.15 * sigma**2)


def test_the_judge_chooses_as_the_clean_picture_would():
    clean, noisy, g = pictures(side=48)
    first, second, sigma = split(noisy, 0.4, g)
    some = Looks(first, smoothed(first), sigma)
    courses = [((),), ((6,),), ((6, 6),), ((3,),)]
    errors = [float((some.along(course) - clean).square().mean()) for course in courses]
    everywhere = torch.ones_like(clean, dtype=torch.bool)
    chosen = best_course(some, courses, second, everywhere)
    assert chosen == courses[int(np.argmin(errors))]


def test_the_best_quality_tries_its_looks_and_tells_which_it_took():
    clean, noisy = noisy_scene()
    options = {"n_latents": 16, "hidden": [16], "n_states": 8, "epochs": 6}
    result = truvae.denoise(noisy, quality="best", return_result=True, **options)
    assert result.looks in (2, 3)
    assert {len(sizes) for sizes in result.look_sizes} == {result.looks}
    assert np.square(result.restored - clean).mean() < np.square(noisy - clean).mean() / 4
    assert {epoch.index for epoch in result.history} == {*range(6)}  # not those of the trial


def test_a_trial_leaves_time_for_the_looks_themselves(ticking):
    _, noisy = noisy_scene()
    options = {"n_latents": 16, "hidden": [16], "n_states": 8, "epochs": 1000}
    result = truvae.denoise(noisy, quality="best", time_budget=3e5, return_result=True, **options)
    assert 1 < result.epochs < 1000 and result.looks >= 2


@pytest.mark.parametrize(("noise", "size", "looks"), [(0.3, 8, 2), (0.7, 10, 3)])
def test_strong_noise_gets_larger_patches_and_one_look_more(noise, size, looks):
    (usual,) = choose((64, 64), noise, "balanced").courses
    assert usual == ((*[size] * (looks - 1), size - 2), (*[size] * (looks - 1), size + 2))
    tried = choose((64, 64), noise, "best").courses
    assert tried[0] == usual and tried[-1] == ((size + 2,) * (looks + 1),)
    assert {len(sizes) for course in tried for sizes in course} == {looks, looks + 1}
    assert len(set(tried)) == 9
