"""Drawings of what was learned: the right values at the right places."""

import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from truvae import InputError, plots
from truvae.training import Epoch


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def epochs(elbos, sigma=0.5):
    return [Epoch(i, 1.0, elbo, sigma, 2.0, 10, 1.0) for i, elbo in enumerate(elbos)]


def test_tiles_lie_row_by_row_with_transparent_lines_between(ax):
    components = np.arange(3 * 6, dtype=float).reshape(3, 6) - 4
    drawn = plots.fields(components, (2, 3), n_columns=2, symmetric=False, ax=ax)
    assert drawn is ax
    image = ax.images[0].get_array()
    assert image.shape == (5, 7) and ax.images[0].get_clim() == (-4, 13)
    for i, (top, left) in enumerate([(0, 0), (0, 4), (3, 0)]):
        tile = image[top : top + 2, left : left + 3]
        np.testing.assert_array_equal(tile, components[i].reshape(2, 3))
    assert np.ma.getmaskarray(image).sum() == 5 * 7 - 3 * 6


def test_symmetric_fields_are_grey_at_zero_and_use_the_whole_scale(ax):
    components = np.array([[[0, 2], [-4, 4]], [[0, 0], [0, 0]], [[0, -0.1], [0.05, 0]]])
    plots.fields(components, n_columns=3, ax=ax)
    image = ax.images[0].get_array()
    assert ax.images[0].get_clim() == (0, 1)
    np.testing.assert_allclose(image[:, :2], [[0.5, 0.75], [0, 1]])
    np.testing.assert_allclose(image[:, 3:5], 0.5)
    np.testing.assert_allclose(image[:, 6:], [[0.5, 0], [0.75, 0.5]])


def test_windows_lie_row_by_row_each_scaled_by_its_peak(ax):
    components = np.array([[[1.0, -4], [0, 2]], [[0, 0], [0, 0]], [[0, 0.1], [0.05, 0]]])
    assert plots.windows(components, ax) is ax
    lines = [line.get_xydata() for line in ax.lines]
    assert len(lines) == 6
    scale = 0.9 / 2
    np.testing.assert_allclose(lines[0], [[0.05, scale / 4], [0.95, -scale]])
    np.testing.assert_allclose(lines[1], [[0.05, 0], [0.95, scale / 2]])
    np.testing.assert_allclose(lines[2], [[1.05, 0], [1.95, 0]])
    np.testing.assert_allclose(lines[4], [[0.05, -1], [0.95, -1 + scale]])
    assert [line.get_color() for line in ax.lines] == ["C0", "C1"] * 3
    assert len(plots.windows(np.eye(5)).lines) == 5


def test_spectra_are_white_at_zero(ax):
    plots.spectra([[0, -6, 2], [1, 0, 0]], 4000, ax)
    (image,) = ax.images
    assert image.get_clim() == (-6, 6) and image.get_extent() == [0, 4, 2.5, 0.5]
    np.testing.assert_array_equal(image.get_array(), [[0, -6, 2], [1, 0, 0]])
    assert plots.spectra([[0, 0]], 4000).images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize(
    ("draw", "shape"),
    [
        (plots.windows, (3,)),
        (plots.windows, (0, 4)),
        (plots.windows, (1, 1, 2, 2)),
        (lambda array: plots.spectra(array, 1), (3,)),
        (lambda array: plots.spectra(array, 1), (2, 0)),
    ],
)
def test_no_windows_and_no_spectra_are_told(draw, shape):
    with pytest.raises(InputError, match=re.escape(str(shape))):
        draw(np.zeros(shape))


def test_colours_of_a_field_keep_their_proportions(ax):
    field = np.zeros((1, 2, 2, 3))
    field[0, 0, 0] = 2, -1, 0
    plots.fields(field.repeat(2, 0), n_columns=2, ax=ax)
    image = ax.images[0].get_array()
    assert image.shape == (2, 5, 4)
    np.testing.assert_allclose(image[0, 0], [1, 0.25, 0.5, 1])
    np.testing.assert_allclose(image[:, 2, 3], 0)  # between the tiles


@pytest.mark.parametrize(
    ("components", "shape"),
    [
        (np.zeros((2, 5)), None),
        (np.zeros((2, 6)), (2, 2)),
        (np.zeros((0, 4)), None),
        (np.zeros(4), None),
        (np.zeros((1, 2, 2, 2)), None),
    ],
)
def test_fields_of_no_shape_are_told(components, shape):
    with pytest.raises(InputError, match="fields"):
        plots.fields(components, shape)


def test_each_run_is_a_line_of_its_own():
    figure = plots.history([*epochs([-9, -5, -4]), *epochs([-7]), *epochs([-6, -3], sigma=0.2)])
    bound, sigma = figure.axes
    assert [line.get_ydata().tolist() for line in bound.lines] == [[-9, -5, -4], [-7], [-6, -3]]
    assert [line.get_xdata().tolist() for line in bound.lines] == [[1, 2, 3], [1], [1, 2]]
    assert [line.get_ydata()[0] for line in sigma.lines] == [0.5, 0.5, 0.2]
    assert len(bound.get_legend().get_texts()) == 3


def test_no_sigma_is_drawn_where_there_is_none():
    without = epochs([-3, -2], sigma=float("nan"))
    assert [ax.get_ylabel() for ax in plots.history(without).axes] == ["ELBO, nats"]
    bound, sigma = plots.history([*without, *epochs([-2, -1])]).axes
    assert len(bound.lines) == 2 and len(sigma.lines) == 1
    assert sigma.lines[0].get_color() == bound.lines[1].get_color()
    with pytest.raises(InputError, match="no epochs"):
        plots.history([])


def test_the_most_used_latent_comes_first(ax):
    plots.activity(np.array([0.01, 0.5, 0.2], np.float32), ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.2, 0.01], rtol=1e-6)
    assert "0.71 of 3" in ax.get_title()
    for bad in ([0.5, 1.5], [[0.5]], [np.nan], 0.5):
        with pytest.raises(InputError, match="pi"):
            plots.activity(bad)


def test_posterior_mass_is_a_mean_over_points_by_rank(ax):
    q = np.array([[0.1, 0.9, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    plots.posterior_mass(q, ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.8, 0.4 / 3, 0.2 / 3])
    (band,) = ax.collections
    first = band.get_paths()[0].vertices
    first = first[first[:, 0] == 1, 1]
    assert first.min() == pytest.approx(0.58) and first.max() == pytest.approx(0.98)
    with pytest.raises(InputError, match=r"\(N, S\)"):
        plots.posterior_mass(np.ones(3))


def test_new_axes_belong_to_pyplot_and_global_settings_stay():
    from matplotlib import pyplot

    settings = dict(matplotlib.rcParams)
    for ax in (plots.fields(np.eye(4)), plots.activity([0.5]), plots.posterior_mass([[1.0]])):
        assert pyplot.fignum_exists(ax.figure.number)
    assert pyplot.fignum_exists(plots.history(epochs([1])).number)
    assert dict(matplotlib.rcParams) == settings


def test_matplotlib_is_imported_with_the_first_drawing():
    code = (
        "import sys, truvae; truvae.plots.fields; heavy = {'matplotlib', 'torch'}; "
        "print(heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
