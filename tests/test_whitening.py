"""Noise that is correlated from pixel to pixel: told, whitened, and left alone where it is not."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve
from skimage.data import brick, camera, coffee, gravel
from test_censored import spots, subtracted
from test_cli import called
from test_stabilise import scene

import truvae
from truvae.errors import InputError
from truvae.io import Picture, write_picture
from truvae.metrics import psnr
from truvae.units import Units
from truvae.whitening import Spectrum
from truvae.wishes import Wishes

_MICROSCOPY = Path(__file__).resolve().parents[2] / "shared" / "data" / "microscopy"
_KERNELS = {
    "square": np.ones((2, 2)),
    "column": np.ones((2, 1)),
    "row": np.array([[1.0, 2.0, 1.0]]),
    "bell": np.outer([1, 2, 1], [1, 2, 1]),
}


def smoothed(shape, kernel, seed=0):
    """Return Gaussian noise of variance 1 that is smoothed by a kernel."""
    wide = np.random.default_rng(seed).normal(size=[n + 8 for n in shape])
    return convolve(wide, kernel / np.sqrt((kernel**2).sum()))[4:-4, 4:-4]


def of_neighbours(noise, axis):
    """Return the correlation of neighbours."""
    n = noise.shape[axis]
    pairs = [np.take(noise, range(first, n - 1 + first), axis).ravel() for first in (0, 1)]
    return np.corrcoef(*pairs)[0, 1]


def wishes(**more):
    """Return wishes of which nothing special is asked."""
    asked = {"noise": "auto", "sigma": None, "quality": "fast", "covariance": "auto"}
    rest = {"preset": None, "selection": None, "memory_limit": None, "overrides": {}}
    return Wishes(**(asked | rest | more))


@given(
    st.integers(32, 60), st.integers(32, 60), st.floats(0.01, 1e3), st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_there_and_back(rows, columns, level, decades, seed):
    rng = np.random.default_rng(seed)
    spectrum = Spectrum(level**2 * 10 ** rng.uniform(-decades, 0, (16, 16)), (1.0, 1.0))
    frames = rng.normal(100, 20, (2, rows, columns))
    np.testing.assert_allclose(spectrum.colour(spectrum.whiten(frames)), frames, rtol=1e-8)


@pytest.mark.parametrize("kernel", _KERNELS)
def test_spectrum_of_pure_noise(kernel):
    noise = 7 * smoothed((256, 250), _KERNELS[kernel])
    spectrum = Spectrum.of(noise[None])
    assert spectrum.level == pytest.approx(7, rel=0.05)
    truth = [of_neighbours(noise, axis) for axis in (0, 1)]
    assert spectrum.correlation == pytest.approx(truth, abs=0.05)
    assert min(spectrum.empty) > 0.9
    white = spectrum.whiten(noise[None])[0]
    # Where smoothing left hardly any noise, whitening does not bring it back.
    assert 0.7 * spectrum.level < white.std() < 1.1 * spectrum.level
    for axis in (0, 1):
        assert abs(of_neighbours(white, axis)) < max(0.6 * truth[axis], 0.05)


@pytest.mark.parametrize("kernel", ["square", "bell"])
@pytest.mark.parametrize("sigma", [10.0, 30.0])
def test_spectrum_beside_a_picture(kernel, sigma):
    noisy = scene(256, 250) + sigma * smoothed((256, 250), _KERNELS[kernel])
    spectrum = Spectrum.of(noisy[None])
    assert spectrum.is_clear
    assert spectrum.level == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize("offset", [1e5, 1e8])
def test_an_offset_does_not_matter(offset):
    noisy = scene(128, 128) + 20 * smoothed((128, 128), _KERNELS["square"])
    here, there = (Spectrum.of(x[None]) for x in (noisy, noisy + offset))
    assert there.level == pytest.approx(here.level, rel=1e-4)
    assert there.correlation == pytest.approx(here.correlation, abs=1e-4)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([100.0, 0.0]))
@settings(max_examples=10)
def test_margins_do_not_matter(above, beside, value):
    noisy = scene(256, 256) + 25 * smoothed((256, 256), _KERNELS["square"])
    noisy[:above] = noisy[:, :beside] = value
    spectrum = Spectrum.of(noisy[None])
    assert spectrum.is_clear and spectrum.level == pytest.approx(25, rel=0.04)


@pytest.mark.parametrize("dark", [0.0, 10.0, 20.0])
def test_the_level_before_noise_was_cut_off(dark):
    # Of nearly every block much lies at the end; what is left there has a level of 16 to 24.
    clean = np.where(np.arange(128) < 100, dark, 60.0)
    noisy = clean + 30 * smoothed((128, 128), _KERNELS["square"])
    spectrum = Spectrum.of(np.clip(np.round(noisy), 0, 255)[None])
    assert spectrum.level == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize("side", [96, 128])
@pytest.mark.parametrize("background", [-1.5, -0.5, 0.5])
@pytest.mark.parametrize("sigma", [5, 15])
def test_spots_on_a_background_that_was_cut_off_are_no_noise(side, background, sigma):
    noisy = subtracted(spots(side=side), sigma, background)
    spectrum = Spectrum.of(noisy[None].astype(float))
    assert spectrum is None or not spectrum.is_clear


@pytest.mark.parametrize("picture", [camera, brick, gravel])
@pytest.mark.parametrize("sigma", [0, 2, 5, 15, 30, 50])
def test_neither_white_noise_nor_texture_counts_as_correlated(picture, sigma):
    noise = sigma * np.random.default_rng(0).normal(size=(512, 512))
    noisy = np.clip(np.round(picture() + noise), 0, 255)
    for part in (noisy, noisy[:256, :256], noisy[128:228, 128:228]):
        spectrum = Spectrum.of(part[None])
        assert spectrum is None or not spectrum.is_clear


@pytest.mark.parametrize("shape", [(95, 128), (128, 95)])
def test_small_pictures_have_no_spectrum(shape):
    assert Spectrum.of(np.random.default_rng(0).normal(size=(1, *shape))) is None


def test_pictures_without_noise_have_no_spectrum():
    flat = np.zeros((1, 128, 128))
    flat[0, 20:40, 20:40] = 1
    assert Spectrum.of(flat) is None


@pytest.mark.parametrize("noise", ["auto", "gaussian", "poisson-gaussian"])
@pytest.mark.parametrize("known", [0, 1])
def test_pixels_apart_may_say_nothing(noise, known):
    # Every third one is constant, or missing, though the picture is not.
    frames = np.full((1, 96, 96, 2), (0.0, np.nan)[known])
    frames[:, 1::3, 1::3] = np.random.default_rng(0).poisson(20, (1, 32, 32, 2))
    frames[..., 1] = np.random.default_rng(1).poisson(20, (1, 96, 96))
    units, levels = wishes(noise=noise).units(frames)
    assert units.spectra is None and np.isfinite(levels).all()


def test_a_bound_is_one_of_the_density_of_the_data():
    # The log-density of correlated Gaussian data by their covariance, and by that of whitened ones.
    spectrum = Spectrum.of(3 * smoothed((96, 96), _KERNELS["square"])[None])
    shape = (32, 33)
    unit = np.eye(np.prod(shape)).reshape(-1, *shape)
    whitening = spectrum.whiten(unit).reshape(len(unit), -1).T
    _, log_det = np.linalg.slogdet(whitening)
    assert spectrum.log_slope(shape) == pytest.approx(log_det / len(unit), rel=1e-6)


def test_units_of_whitened_pictures():
    frames = (scene(160, 160) + 15 * smoothed((160, 160), _KERNELS["bell"]))[None, ..., None]
    units, levels = wishes().units(frames)
    assert units.spectra is not None and units.noise is None
    assert levels == pytest.approx([15], rel=0.1)
    assert units.sigma(levels[0] / units.spread[0]) == pytest.approx(levels)
    standard = units.standardise(frames, "cpu")
    assert float(standard.std(correction=0)) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(units.restore(standard), frames, atol=1e-3)
    plain = Units.of(frames, None)
    assert units.bound(0.0, standard.new_ones(1)) != plain.bound(0.0, standard.new_ones(1))


def test_noise_that_grows_with_the_signal_may_be_correlated_too():
    clean = np.clip(scene(256, 256), 5, None)
    noise = smoothed(clean.shape, _KERNELS["square"])
    frames = (clean + np.sqrt(2 * clean) * noise)[None, ..., None]
    units, levels = wishes().units(frames)
    assert units.noise is not None and units.spectra is not None
    told = units.sigma(levels[0] / units.spread[0])
    assert told == pytest.approx([np.sqrt(2 * clean.mean())], rel=0.1)


def test_grain_in_bright_places_is_not_noise_that_grows_with_the_signal():
    # All that is at the highest frequencies, where smoothed noise is not.
    clean = scene(256, 256)
    grain = np.random.default_rng(1).normal(0, 5, clean.shape) * (clean > 100)
    frames = (clean + grain + 25 * smoothed(clean.shape, _KERNELS["square"]))[None, ..., None]
    units, levels = wishes().units(frames)
    assert units.noise is None and units.spectra is not None
    assert levels == pytest.approx([25], rel=0.1)


def test_noise_of_a_real_picture_grows_with_the_signal():
    # That of neighbours is too much alike to tell it.
    clean = camera()[:256, 100:356].clip(1).astype(float)
    frames = (clean + np.sqrt(3 * clean) * smoothed(clean.shape, _KERNELS["square"]))[
        None, ..., None
    ]
    units, levels = wishes().units(frames)
    assert units.noise is not None and units.spectra is not None
    told = units.sigma(levels[0] / units.spread[0])
    assert told == pytest.approx([np.sqrt(3 * clean.mean())], rel=0.1)


@pytest.mark.parametrize("sigma", [None, 18.0])
@pytest.mark.parametrize("levels", [(20, 20, 20), (10, 20, 40)])
def test_texture_that_colours_share_is_no_noise(levels, sigma):
    clean = coffee()[20:276, 60:316].astype(float)
    noises = [smoothed(clean.shape[:2], _KERNELS["bell"], seed) for seed in range(3)]
    frames = (clean + np.array(levels) * np.stack(noises, -1))[None]
    units, told = wishes(sigma=sigma, noise="correlated").units(frames)
    assert units.turn is None
    scale = 1 if sigma is None else sigma / np.sqrt(np.mean(np.square(levels)))
    assert told == pytest.approx(scale * np.array(levels), rel=0.1)


@pytest.mark.parametrize("constant", [0.1, 7.0])
def test_constant_channels_need_no_spectrum(constant):
    frames = np.random.default_rng(0).normal(size=(1, 96, 96, 2))
    frames[..., 1] = constant  # whose standard deviation may be 1e-17
    wishes(noise="correlated").check_frames(frames)
    frames[:, 1:, :, 0] = 7
    with pytest.raises(InputError, match="noise everywhere"):
        wishes(noise="correlated").check_frames(frames)


@pytest.mark.parametrize("sigma", [None, 18.0])
def test_grey_stored_as_colours_may_have_correlated_noise(sigma):
    noisy = scene(160, 160) + 20 * smoothed((160, 160), _KERNELS["square"])
    units, told = wishes(sigma=sigma).units(np.stack([noisy] * 3, -1)[None])
    assert units.turn is not None and len(told) == 1
    assert units.turn.levels(told) == pytest.approx(np.full(3, sigma or 20.0), rel=0.1)


@pytest.mark.parametrize("noise", ["auto", "correlated"])
def test_a_level_that_is_given_holds(noise):
    frames = (scene(160, 160) + 25 * smoothed((160, 160), _KERNELS["bell"]))[None, ..., None]
    units, levels = wishes(sigma=24.0, noise=noise).units(frames)
    assert units.spectra is not None and levels == pytest.approx([24])


def test_only_whole_pictures_without_presets_are_whitened():
    frames = (scene(160, 160) + 15 * smoothed((160, 160), _KERNELS["bell"]))[None, ..., None]
    assert wishes().units(frames)[0].spectra is not None
    assert wishes(noise="gaussian").units(frames)[0].spectra is None
    assert wishes(preset="paper:denoise-house-25").units(frames)[0].spectra is None
    frames[0, 3, 3] = np.nan
    assert wishes().units(frames)[0].spectra is None


@pytest.mark.parametrize(("shape", "options", "message"), [
    ((40, 40), {"preset": "paper:denoise-house-25"}, "leave noise or preset out"),
    ((95, 200), {}, "96 x 96 pixels"),
])  # fmt: skip
def test_what_cannot_be_whitened(shape, options, message):
    noisy = np.random.default_rng(0).normal(size=shape)
    with pytest.raises(InputError, match=message):
        truvae.denoise(noisy, noise="correlated", **options)


def test_incomplete_pictures_cannot_be_whitened():
    noisy = np.random.default_rng(0).normal(size=(40, 40))
    noisy[3, 3] = np.nan
    with pytest.raises(InputError, match="without missing pixels"):
        truvae.denoise(noisy, noise="correlated")


@pytest.mark.parametrize("break_it", [
    lambda frame: np.put(frame, 5, np.nan), lambda frame: frame.__setitem__(slice(1, None), 0.0)
])  # fmt: skip
def test_all_frames_are_looked_at_before_the_first_takes_its_time(break_it):
    frames = np.random.default_rng(0).normal(size=(3, 96, 96))
    break_it(frames[1])
    epochs = []
    with pytest.raises(InputError, match="frame 2 of 3: correlated noise"):
        truvae.denoise(frames, noise="correlated", epochs=1, on_epoch=epochs.append)
    assert not epochs


@pytest.mark.parametrize("colours", [0, 3])
def test_correlated_noise_is_removed(colours):
    clean, axis = scene(96, 96), -1 if colours else None
    noises = [30 * smoothed(clean.shape, _KERNELS["square"], k) for k in range(max(1, colours))]
    noisy = clean[..., None] + np.stack(noises, -1)
    clean = np.broadcast_to(clean[..., None], noisy.shape)
    if not colours:
        clean, noisy = clean[..., 0], noisy[..., 0]
    options = {"quality": "fast", "epochs": 2, "channel_axis": axis}
    result = truvae.denoise(noisy, return_result=True, **options)
    assert len(result.spectra) == max(1, colours)
    assert result.sigma == pytest.approx(30, rel=0.1)
    before, after = (psnr(clean, x) for x in (noisy, result.restored))
    assert after > before + 6
    if not colours:
        white = truvae.denoise(noisy, noise="gaussian", **options)
        assert psnr(clean, white) < before + 3


@pytest.mark.parametrize("covariance", ["auto", "isotropic"])
def test_models_keep_the_level_that_the_spectrum_tells(covariance):
    noisy = scene(96, 96) + 30 * smoothed((96, 96), _KERNELS["square"])
    options = {"noise": "correlated", "epochs": 1, "hidden": (8,), "n_latents": 16}
    more = {"covariance": covariance, "quality": "balanced", "return_result": True}
    result = truvae.denoise(noisy, **options, **more)
    assert {*result.covariances} == {"dct" if covariance == "auto" else covariance}
    assert result.sigma_source == "estimated"
    assert result.sigma == pytest.approx(result.spectra[0].level, rel=1e-4)


def test_correlated_noise_that_was_cut_off():
    clean = np.clip(scene(96, 96) - 80, 0, None)
    noisy = clean + 30 * smoothed(clean.shape, _KERNELS["square"])
    in_file = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    options = {"noise": "correlated", "quality": "fast", "epochs": 2, "return_result": True}
    result = truvae.denoise(in_file, **options)
    assert result.sigma == pytest.approx(30, rel=0.1)
    dark = clean < 5
    before, after = (x[dark].mean() - clean[dark].mean() for x in (in_file, result.restored))
    assert abs(after) < before / 2


def test_frames_share_a_spectrum():
    noisy = np.stack([scene(96, 96) + 20 * smoothed((96, 96), _KERNELS["bell"], k) for k in (0, 1)])
    options = {"stack": "shared", "quality": "fast", "epochs": 2, "noise": "correlated"}
    result = truvae.denoise(noisy, return_result=True, **options)
    assert len(result.spectra) == 1
    errors = [np.abs(x - scene(96, 96)).mean() for x in (noisy, result.restored)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("noise", ["auto", "gaussian"])
def test_the_command_tells(tmp_path, noise):
    noisy = scene(96, 96) + 30 * smoothed((96, 96), _KERNELS["square"])
    source, model = tmp_path / "noisy.tif", tmp_path / "model"
    write_picture(source, Picture(noisy.astype(np.float32)))
    options = {"noise": noise, "quality": "fast", "epochs": 2, "save_model": model}
    names = [x for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]
    done = called("denoise", source, "-o", tmp_path / "out.tif", "--json", "-q", *names)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    config = json.loads((model / "config.json").read_text())["config"]
    if noise == "gaussian":
        assert told["noise_correlation"] is None and config["noise_spectra"] is None
    else:
        assert told["noise_correlation"] == [pytest.approx([0.5, 0.5], abs=0.08)]
        assert np.shape(config["noise_spectra"]) == (1, 16, 16)


@pytest.mark.parametrize("name", ["Confocal_FISH", "TwoPhoton_MICE", "WideField_BPAE_G"])
def test_real_noise(name):
    files = [_MICROSCOPY / f"{name}_{kind}.png" for kind in ("noisy", "clean")]
    if not files[0].exists():
        pytest.skip(f"there is no {files[0]}")
    noisy, clean = (truvae.io.read_picture(file).data.astype(float) for file in files)
    spectrum = Spectrum.of(noisy[None])
    truth = [of_neighbours(noisy - clean, axis) for axis in (0, 1)]
    if spectrum.is_clear:
        assert spectrum.correlation == pytest.approx(truth, abs=0.05)
        assert spectrum.level == pytest.approx((noisy - clean).std(), rel=0.05)
    assert spectrum.is_clear == (max(truth) > 0.3)
