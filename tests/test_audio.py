"""Recordings: looks, noise, gaps, and the public functions."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import truvae
from truvae.audio_job import look_again
from truvae.channels import Components
from truvae.cli import app
from truvae.clock import Clock, Stopwatch
from truvae.errors import InputError
from truvae.gaps import damaged_samples, fill_gaps, longest_gap, runs
from truvae.io_audio import Sound, read_sound, write_sound
from truvae.metrics import snr
from truvae.patches import Patches, every
from truvae.ranks import ALONE
from truvae.refine import refine_recording
from truvae.spectra import noise_floor, spectral_look
from truvae.training import e_step

RATE = 8000


def tones(n=RATE, seed=0):
    """Return a chord that fades, (n,)."""
    rng, t = np.random.default_rng(seed), np.arange(n) / RATE
    parts = [np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in (220, 330, 587)]
    return 0.2 * sum(parts) * np.exp(-t)


def noisy(clean, sigma=0.1, seed=0):
    return clean + np.random.default_rng(seed).normal(0, sigma, clean.shape)


def test_windows_are_patches_of_one_row():
    x = torch.randn(40, 2)
    windows, rows = Patches(x[None], (1, 7)), torch.tensor([0, 5, 33])
    assert len(windows) == 34 and windows.n_entries == 14
    for k in range(2):
        expected = torch.stack([x[row : row + 7, k] for row in rows.tolist()])
        assert torch.equal(windows[rows][:, 7 * k : 7 * k + 7], expected)
    assert torch.equal(x.flatten()[windows.pixels(rows)], windows[rows])


@given(st.integers(1, 200), st.integers(1, 30), st.integers(1, 20))
def test_windows_reach_both_ends(n, length, stride):
    length = min(n, length)
    starts = Patches(torch.zeros(1, n), (1, length)).lattice(stride).tolist()
    assert starts == every(n - length + 1, min(stride, length))
    assert starts[0] == 0 and starts[-1] == n - length
    assert starts == sorted(set(starts)) and max(np.diff(starts), default=0) <= stride


@pytest.mark.parametrize("sigma", [0.01, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_noise_floor_is_found_beside_tones(sigma, seed):
    y = noisy(tones(4 * RATE, seed), sigma, seed)[:, None]
    assert noise_floor(y, RATE)[0] == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_the_noise_floor_is_found_between_many_partials(sigma):
    t = np.arange(2 * RATE) / RATE
    saw = sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 18))
    assert noise_floor(noisy(saw, sigma)[:, None], RATE)[0] == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("n", [4000, 8000, 40_000])
def test_the_floor_of_noise_alone_is_all_of_it(n):
    y = np.random.default_rng(0).normal(0, 1, (n, 8))
    assert noise_floor(y, RATE).mean() == pytest.approx(1, abs=0.02)


def test_the_noise_floor_leaves_out_silence_and_gaps():
    y = noisy(tones(4 * RATE))[:, None]
    y[:RATE], y[RATE : RATE + 500] = 0, np.nan
    assert noise_floor(y, RATE)[0] == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("look", [refine_recording, spectral_look])
def test_a_look_lowers_the_error_and_expects_about_as_much(look):
    clean = torch.tensor(tones(), dtype=torch.float32)[:, None]
    generator = torch.Generator().manual_seed(0)
    seen = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    found, variance = look(seen, clean, 0.1, RATE)
    error = float((found - clean).square().mean())
    assert error < 0.1**2 / 5
    assert error < 3 * float(variance.mean()) and float(variance.mean()) < 0.1**2 / 2


def test_looks_do_not_mix_channels_up():
    clean = torch.tensor(np.stack([tones(), np.zeros(RATE)], 1), dtype=torch.float32)
    seen = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    alone, _ = spectral_look(seen[:, :1], clean[:, :1], 0.05, RATE)
    both, _ = spectral_look(seen, clean, 0.05, RATE)
    assert torch.allclose(both[:, :1], alone, atol=1e-6)


def test_gaps_in_tones_are_filled():
    clean = tones()[:, None]
    damaged = clean.copy()
    for start in (1000, 3000, 5000):
        damaged[start : start + 160] = np.nan  # 20 ms
    missing, filled = np.isnan(damaged), fill_gaps(damaged, RATE)
    lines = np.interp(np.arange(RATE), np.flatnonzero(~missing), clean[~missing])[:, None]
    assert snr(clean[missing], filled[missing]) > 20 > snr(clean[missing], lines[missing]) + 15


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_gaps_anywhere_are_filled_and_nothing_else_changes(data):
    n, channels = data.draw(st.integers(64, 600)), data.draw(st.integers(1, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    y = rng.normal(0, 1, (n, channels)) + tones(n)[:, None]
    share = data.draw(st.floats(0, 0.95))
    for k in range(channels):
        missing = np.repeat(rng.random(n) < share, data.draw(st.integers(1, 50)))[:n]
        missing[data.draw(st.integers(0, n - 1))] = False
        y[missing, k] = np.nan
    filled = fill_gaps(y, RATE)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[~np.isnan(y)], y[~np.isnan(y)])
    assert np.abs(filled).max() < 20 * np.nanmax(np.abs(y))


def gappy(n=3000):
    """Return a recording of two channels with short and long gaps."""
    y = np.stack([tones(n), noisy(tones(n), seed=1)], 1)
    for start in (200, 800, 1200, 2500):
        y[start : start + 60, 0] = y[start + 90 : start + 93, 1] = np.nan
    y[1500:2400, 1] = np.nan
    return y


def test_the_filling_of_gaps_is_told_as_it_goes_on():
    told = []
    fill_gaps(gappy(), RATE, lambda progress: told.append(progress) is None)
    assert told[0] == 0 and told == sorted(told) and 0.9 < told[-1] < 1
    assert len(told) >= 2 * (4 + 4 + 4)


@pytest.mark.parametrize("n_steps", [0, 1, 5, 9, 14])
def test_gaps_that_are_filled_no_more_are_filled_roughly(n_steps):
    y, told = gappy(), []

    def go_on(progress):
        told.append(progress)
        return len(told) <= n_steps

    found, whole = fill_gaps(y, RATE, go_on), fill_gaps(y, RATE)
    assert np.isfinite(found).all() and not np.array_equal(found, whole)
    assert np.array_equal(found[~np.isnan(y)], y[~np.isnan(y)])
    assert len(told) <= n_steps + 4  # of both rounds of both channels
    if n_steps == 0:
        assert np.allclose(found[290:293, 1], np.interp([1, 2, 3], [0, 4], y[[289, 293], 1]))


@pytest.mark.parametrize("denoise", [False, True])
def test_progress_is_told_in_all_phases_and_ends_at_one(denoise):
    told, y = [], gappy(1500)[:, 0]
    truvae.inpaint_audio(y, sample_rate=RATE, denoise=denoise, epochs=1, quality="fast",
                         on_progress=told.append)  # fmt: skip
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1
    # Of three gaps in two rounds, at least.
    assert len([progress for progress in told if progress < (0.1 if denoise else 1)]) >= 6


@pytest.mark.parametrize("options", [{"should_stop": lambda: True}, {"time_budget": 1e-9}])
def test_filling_ends_when_it_should(options, monkeypatch):
    monkeypatch.delattr("truvae.gaps._expected")
    y = gappy(1000)
    told = nullcontext() if "should_stop" in options else pytest.warns(match="no time to fill")
    with told:
        found = truvae.inpaint_audio(y, sample_rate=RATE, **options)
    assert np.isfinite(found).all() and np.array_equal(found[~np.isnan(y)], y[~np.isnan(y)])


@given(st.lists(st.booleans(), min_size=1))
def test_runs_are_where_marks_are(marks):
    marked = np.array(marks)
    again = np.zeros_like(marked)
    for start, end in runs(marked):
        again[start:end] = True
    assert np.array_equal(again, marked)
    longest = max((len(part) for part in "".join(" x"[m] for m in marks).split()), default=0)
    assert longest_gap(np.where(marked, np.nan, 1.0)[:, None]) == longest


def test_clipping_and_dropouts_are_found():
    y = np.clip(tones()[:, None], -0.2, 0.2)
    y[4000:4040] = 0
    y[:50] = y[-50:] = 0
    lost = damaged_samples(y, ["clipping", "dropouts"], RATE)[:, 0]
    assert lost[4000:4040].all() and not lost[:50].any() and not lost[-50:].any()
    assert lost.sum() > 40 + (np.abs(y[:, 0]) == 0.2).sum() / 2
    assert not damaged_samples(noisy(tones()[:, None]), ["clipping", "dropouts"], RATE).any()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 2])
def test_denoising_keeps_type_and_shape_and_removes_noise(dtype, channels):
    clean = tones(4000)
    y = noisy(clean, 0.05)
    scale = 20_000 if np.issubdtype(dtype, np.integer) else 1
    shape = (4000,) if channels is None else (4000, channels)
    stack = y if channels is None else np.stack([y, noisy(clean, 0.05, 1)][:channels], 1)
    result = truvae.denoise_audio(
        (stack * scale).astype(dtype), sample_rate=RATE, quality="fast", epochs=2,
        return_result=True,
    )  # fmt: skip
    assert result.restored.dtype == dtype and result.restored.shape == shape
    reference = clean if channels is None else np.repeat(clean[:, None], channels, 1)
    assert snr(reference, result.restored / scale) > snr(reference, stack) + 6
    assert result.sigma == pytest.approx(0.05 * scale, rel=0.1)
    assert len(result.sigma_channels) == (channels or 1)


def test_the_same_seed_gives_the_same_samples_and_a_mean_stays():
    y = noisy(tones(3000)) + 0.7
    first, second = (
        truvae.denoise_audio(y, sample_rate=RATE, epochs=1, random_state=3) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert first.mean() == pytest.approx(y.mean(), abs=0.01)


def test_channels_can_be_restored_apart():
    y = np.stack([noisy(tones(3000)), noisy(tones(3000), seed=1)], 1)
    apart = truvae.denoise_audio(y, sample_rate=RATE, epochs=1, channels="separate")
    alone = truvae.denoise_audio(y[:, 1], sample_rate=RATE, epochs=1)
    assert np.array_equal(apart[:, 1], alone)


def test_mono_that_is_stored_as_stereo_is_restored_as_mono():
    clean = tones(4000)
    y = noisy(clean, 0.05)
    mono, both = (
        truvae.denoise_audio(x, sample_rate=RATE, epochs=2, quality="fast", return_result=True)
        for x in (y, np.stack([y, y], 1))
    )
    np.testing.assert_allclose(both.restored, mono.restored[:, None].repeat(2, 1), atol=1e-4)
    assert both.sigma_channels == pytest.approx([mono.sigma] * 2)
    assert both.n_data == mono.n_data
    # Densities are of both, which have the volume of one.
    assert both.components.shape == (2, 1) and np.abs(both.components) == pytest.approx(0.5**0.5)
    assert both.elbo == pytest.approx(mono.elbo - 200 * np.log(2) / 2, abs=0.1)


def test_noise_that_channels_have_in_common_is_no_signal():
    rng, clean = np.random.default_rng(0), tones(4000)[:, None]
    y = clean + 0.05 * (0.9 * rng.normal(0, 1, (4000, 1)) + 0.44 * rng.normal(0, 1, (4000, 2)))
    joint, apart = (
        truvae.denoise_audio(y, sample_rate=RATE, epochs=2, quality="fast", channels=channels)
        for channels in ("joint", "separate")
    )
    both = clean.repeat(2, 1)
    assert snr(both, joint) > snr(both, apart) > snr(both, y) + 6


@given(st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_components_come_back_and_keep_volumes(n_channels, seed, alike):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 1, (100, n_channels)) @ rng.normal(0, 1, (n_channels, n_channels))
    levels = np.ones(n_channels) if alike else rng.uniform(0.1, 1, n_channels)
    components = Components.of(y, levels)
    np.testing.assert_allclose(components.backward(components.forward(y)), y, atol=1e-9)
    assert abs(np.linalg.det(components.weights)) == pytest.approx(1)
    noise = np.diag(components.weights.T @ np.diag(levels**2) @ components.weights) ** 0.5
    np.testing.assert_allclose(components.of_channels(noise), levels, rtol=0.2)


def test_channels_that_have_little_in_common_are_not_mixed():
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, (1000, 2)) * (1, 1.01)
    assert sorted(np.abs(Components.of(y, np.ones(2)).weights).ravel()) == [0, 0, 1, 1]


@pytest.mark.parametrize("copies", [[0, 0, 1], [0, 0], [0, 1, 2]])
def test_a_told_sigma_is_that_of_each_channel_also_of_copies(copies):
    y = np.random.default_rng(0).normal(0, 1, (4000, 3))[:, copies]
    components = Components.of(y, np.ones(len(copies)))
    parts = components.forward(y)
    live = components.vary(parts)
    assert live.sum() == len({*copies})
    told = components.told(np.ones(len(copies)), live)
    np.testing.assert_allclose(told, parts.std(0), atol=0.05)


def test_long_recordings_are_learned_from_a_sample(monkeypatch):
    monkeypatch.setattr("truvae.audio_settings._TRAINED", 300)
    clean = tones(2 * RATE)
    y = noisy(clean, 0.05)
    result = truvae.denoise_audio(y, sample_rate=RATE, epochs=2, return_result=True)
    assert result.n_data > 1500 and result.settings.trained == result.settings.tile == 300
    assert snr(clean, result.restored) > snr(clean, y) + 6


def test_of_a_long_recording_as_much_is_estimated_as_there_is_time_for(monkeypatch):
    """A second passes with the E-steps of 100 windows: there is no time for all that close."""
    now = [0.0]
    monkeypatch.setattr("truvae.audio_settings._TRAINED", 300)
    monkeypatch.setattr(Stopwatch, "__call__", lambda watch: now[0])

    def slowly(*args):
        now[0] += len(args[3]) / 100
        return e_step(*args)

    monkeypatch.setattr("truvae.training.e_step", slowly)
    clean = tones(8 * RATE)
    y, seconds = noisy(clean), []
    for budget in (None, 100.0, 5.0):
        now[0] = 0
        restored = truvae.denoise_audio(y, sample_rate=RATE, epochs=1, time_budget=budget)
        seconds.append(now[0])
        assert snr(clean, restored) > snr(clean, y) + 6
    assert 25 < seconds[0] < seconds[1] < 45 and seconds[2] < 13


def test_looks_at_a_recording_end_when_they_should():
    y = torch.as_tensor(noisy(tones(4000)))[:, None]
    asked = []

    def go_on():
        asked.append(len(asked))
        return len(asked) < 4

    first = torch.zeros_like(y)
    second, variance = refine_recording(y, first, 0.1, RATE, go_on=go_on)
    assert second is first and (variance == 0.1**2).all() and len(asked) == 4


def test_a_look_that_is_cut_short_leaves_what_the_one_before_knew():
    clean = torch.as_tensor(tones(4000))[:, None]
    y, asked = torch.as_tensor(noisy(clean.numpy())), []
    material = SimpleNamespace(seen=y[None, None], noise=0.1, ranks=ALONE)

    def looked(looks, most):
        asked.clear()
        clock = Clock(should_stop=lambda: asked.append(1) or len(asked) > most)
        return look_again(material, y, looks, RATE, clock)

    once, _ = looked(1, 10_000)
    cut, looks = looked(2, len(asked) + 3)
    assert looks == 1 and not torch.equal(cut, once)
    assert (cut - clean).square().mean() < 1.1 * (once - clean).square().mean()


@pytest.mark.parametrize("other", [0.005, 0.1])
def test_a_channel_with_little_noise_helps_the_same_with_more(other):
    clean = np.stack([tones(4000)] * 2, 1)
    y = clean + np.random.default_rng(0).normal(0, [0.1, other], clean.shape)
    joint, apart = (
        truvae.denoise_audio(y, sample_rate=RATE, epochs=2, channels=channels)[:, 0]
        for channels in ("joint", "separate")
    )
    assert snr(clean[:, 0], joint) > snr(clean[:, 0], apart) + (8 if other < 0.1 else 0)


def test_channels_of_different_sounds_are_restored_as_if_alone():
    clean = np.stack([tones(3000), 0.2 * np.sin(np.arange(3000) * 0.9)], 1)
    y = clean + np.random.default_rng(0).normal(0, [0.1, 0.03], clean.shape)
    joint, apart = (
        truvae.denoise_audio(y, sample_rate=RATE, epochs=2, channels=channels)
        for channels in ("joint", "separate")
    )
    np.testing.assert_allclose(joint, apart, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the model takes signal for noise")
def test_what_is_told_last_is_the_level_learned():
    y = np.random.default_rng(0).normal(0, [0.1, 0.05], (3000, 2))
    y += tones(3000)[:, None] * [1, -0.3]
    y[:, 1] += 0.5 * np.sin(np.arange(3000) * 0.9)
    result = truvae.denoise_audio(
        y, sample_rate=RATE, epochs=2, covariance="isotropic", return_result=True
    )
    assert result.history[-1].sigma == pytest.approx(result.sigma, rel=1e-4)


def test_silence_around_a_recording_and_offsets_do_not_matter():
    y = noisy(tones())
    alone = noise_floor(y[:, None], RATE)[0]
    for silence in (RATE, 100 * RATE):
        padded = np.pad(y, silence)[:, None]
        assert noise_floor(padded, RATE)[0] == pytest.approx(alone, rel=0.06)
    for offset in (-5.0, 1e3, 1e6):
        assert noise_floor(y[:, None] + offset, RATE)[0] == pytest.approx(alone, rel=1e-6)


def test_a_model_that_takes_signal_for_noise_is_told():
    y = noisy(tones(3000), 0.002)
    with pytest.warns(UserWarning, match="the model takes signal for noise: it learned"):
        truvae.denoise_audio(y, sample_rate=RATE, epochs=1, covariance="isotropic")


@pytest.mark.parametrize("sigma", [25.0, "a"])
def test_a_sigma_of_other_units_is_told(sigma):
    y = noisy(tones(1000))
    for restore, x in ((truvae.denoise_audio, y), (truvae.inpaint_audio, y)):
        x = np.where(np.arange(1000) == 500, np.nan, x) if restore is truvae.inpaint_audio else x
        with pytest.raises(InputError, match="sigma .* in units of the recording"):
            restore(x, sample_rate=RATE, sigma=sigma)
    with pytest.raises(InputError, match="sigma .* in units of the picture"):
        truvae.denoise(y.reshape(25, 40) / 10, sigma=sigma)


@pytest.mark.parametrize("denoise", [False, True])
def test_gaps_without_time_are_told_and_filled_another_time(tmp_path, denoise):
    y = noisy(tones(3000)) if denoise else tones(3000)
    y[1000:1200] = np.nan
    more = {"sample_rate": RATE, "denoise": denoise, "epochs": 1}
    options = {"checkpoint": tmp_path / "saved"} | more
    with pytest.warns(UserWarning) as told:
        first = truvae.inpaint_audio(y, time_budget=1e-9, **options)
    assert "no time to fill all gaps" in str(told[0].message) and len(told) == 1 + denoise
    again = truvae.inpaint_audio(y, time_budget=1e3, resume=True, **options)
    whole = truvae.inpaint_audio(y, **more)
    np.testing.assert_allclose(again, whole, atol=1e-6 * denoise)
    assert np.abs(first - whole).max() > 0.01


def test_a_told_sigma_is_held_and_the_papers_model_learns_it():
    y = noisy(tones(3000))
    told = truvae.denoise_audio(y, sample_rate=RATE, epochs=1, sigma=0.2, return_result=True)
    assert (told.sigma, told.sigma_source) == (pytest.approx(0.2), "given")
    with pytest.warns(UserWarning, match="takes signal for noise"):  # after so few epochs
        plain = truvae.denoise_audio(
            y, sample_rate=RATE, epochs=2, covariance="isotropic", return_result=True
        )
    assert plain.sigma_source == "learned" and plain.looks == 0


def test_inpainting_changes_only_what_is_missing():
    clean = (tones() * 20_000).astype(np.int16)
    mask = np.zeros(RATE, bool)
    mask[3000:3100] = True
    whole = truvae.inpaint_audio(clean, mask, sample_rate=RATE)
    assert whole.dtype == np.int16 and np.array_equal(whole[~mask], clean[~mask])
    assert snr(clean[mask], whole[mask]) > 15
    of_masked = truvae.inpaint_audio(np.ma.masked_array(clean, mask), sample_rate=RATE)
    assert type(of_masked) is np.ndarray and np.array_equal(of_masked, whole)
    result = truvae.inpaint_audio(
        noisy(tones(3000)), mask[:3000] | (np.arange(3000) % 50 == 0), sample_rate=RATE,
        denoise=True, epochs=1, return_result=True,
    )  # fmt: skip
    assert snr(tones(3000), result.restored) > snr(tones(3000), noisy(tones(3000))) + 3


@pytest.mark.parametrize(
    ("y", "options", "words"),
    [
        (np.zeros(500), {}, "silent"),
        (np.arange(500) * 1e300, {}, "scale them to between 1e-30 and 1e"),
        (np.ones(1), {}, "only 1 samples: 64 or more"),
        (np.ones((2, 500)), {}, "transpose"),
        (np.full(500, np.nan), {}, "no known sample"),
        (np.full(500, np.inf), {}, "infinite"),
        (np.ones((5, 5, 5)), {}, "shape"),
        (np.array(["a"] * 100), {}, "integers or floats"),
        (tones(500), {"sample_rate": 0}, "sample_rate"),
        (tones(500), {"sample_rate": "16k"}, "sample_rate must be above 0.*'16k'"),
        (tones(500), {"random_state": 1.5}, "random_state must be a whole number, not 1.5"),
        (tones(500), {"time_budget": 0}, "time_budget must be above 0"),
        (tones(500), {"time_budget": -1.0}, "time_budget must be above 0"),
        (tones(500), {"sigma": -1.0}, "sigma"),
        (tones(500), {"patch_size": 600}, "patch size must be between"),
        (tones(500), {"preset": "paper:denoise-house-25"}, "paper:audio"),
        (tones(500), {"quality": "superb"}, "fast, balanced, best"),
    ],
)
def test_bad_input_is_told(y, options, words):
    with pytest.raises(InputError, match=words):
        truvae.denoise_audio(y, **{"sample_rate": RATE} | options)


def test_nothing_missing_is_told():
    with pytest.raises(InputError, match="nothing is missing"):
        truvae.inpaint_audio(tones(500), sample_rate=RATE)


def test_long_gaps_are_told():
    y = noisy(tones())
    y[2000:4000] = np.nan
    with pytest.warns(UserWarning, match="plausible"):
        truvae.inpaint_audio(y, sample_rate=RATE)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_files_keep_rate_channels_and_type(tmp_path, capsys, name):
    clean = np.stack([tones(3000), tones(3000, 1)], 1)
    subtype = "VORBIS" if name.endswith("ogg") else "PCM_24"
    source, target = tmp_path / name, tmp_path / f"out-{name}"
    write_sound(source, Sound(clean, RATE, name[2:].upper(), subtype))
    arguments = ["denoise", str(source), "-o", str(target), "--add-noise", "0.05",
                 "--epochs", "1", "--quality", "fast", "--json", "-q"]  # fmt: skip
    assert app(arguments, standalone_mode=False) == 0
    record = json.loads(capsys.readouterr().out)
    before, after = read_sound(source), read_sound(target)
    assert (after.sample_rate, after.data.shape) == (RATE, (3000, 2))
    assert after.subtype == before.subtype == record["subtype"]
    assert record["kind"] == "sound" and record["psnr"] is None
    assert record["interrupted"] is False
    assert record["snr"] == pytest.approx(snr(before.data, after.data))
    assert record["snr"] > record["snr_noisy"] + 3


def test_files_are_filled_in_and_models_saved(tmp_path, capsys):
    source, target = tmp_path / "a.wav", tmp_path / "b.wav"
    y = noisy(np.clip(tones(4000), -0.25, 0.25), 0.0)[:, None]
    y[1000:1100] = 0
    write_sound(source, Sound(y, RATE))
    fill = ["inpaint", str(source), "-o", str(target), "--repair", "clipping,dropouts", "--json"]
    assert app(fill, standalone_mode=False) == 0
    output = capsys.readouterr()
    record = json.loads(output.out)
    lost = damaged_samples(read_sound(source).data, ["clipping", "dropouts"], RATE)
    assert record["missing"] == pytest.approx(lost.mean()) and record["elbo"] is None
    assert "of the recording is missing" in output.err
    kept = read_sound(target).data[~lost]
    assert np.array_equal(kept, read_sound(source).data[~lost])
    folder = tmp_path / "model"
    save = ["denoise", str(source), "-o", str(target), "--epochs", "1", "--save-model"]
    assert app([*save, str(folder)], standalone_mode=False) == 0
    assert truvae.load_model(folder) is not None


@pytest.mark.parametrize("level", [0.1, 0.4])
def test_clipped_samples_come_back_beyond_the_level_they_were_clipped_at(tmp_path, level):
    clean = 0.9 * np.random.default_rng(0).uniform(-1, 1, (900, 1))  # cannot be predicted
    clean = np.repeat(clean, 4, 0)
    source, target = tmp_path / "a.wav", tmp_path / "b.wav"
    write_sound(source, Sound(clean.clip(-level, level), RATE, subtype="DOUBLE"))
    fill = ["inpaint", str(source), "-o", str(target), "--repair", "clipping", "-q"]
    assert app(fill, standalone_mode=False) == 0
    y, restored = read_sound(source).data, read_sound(target).data
    clipped = np.abs(y) == level
    assert (np.sign(y) * restored)[clipped].min() >= level
    assert np.array_equal(restored[~clipped], y[~clipped])
    assert snr(clean, restored) >= snr(clean, y)


@pytest.mark.parametrize(("kind", "most"), [("wav", 2.0), ("flac", 1.0)])
def test_what_was_clipped_at_full_scale_is_kept_where_it_can_be(tmp_path, capsys, kind, most):
    clean = (
        0.6 * np.sin(np.arange(3000) * 0.05)[:, None]
        + 0.9 * np.sin(np.arange(3000) * 0.13)[:, None]
    )
    names = {name: str(tmp_path / f"{name}.wav") for name in ("clean", "clipped")}
    write_sound(names["clean"], Sound(clean, RATE, subtype="DOUBLE"))
    write_sound(names["clipped"], Sound(clean.clip(-1, 1), RATE, subtype="PCM_16"))
    fill = ["inpaint", names["clipped"], "-o", str(tmp_path / f"b.{kind}"), "--json", "-q",
            "--repair", "clipping", "--reference", names["clean"]]  # fmt: skip
    assert app(fill, standalone_mode=False) == 0
    record = json.loads(capsys.readouterr().out)
    y, restored = read_sound(names["clipped"]).data, read_sound(tmp_path / f"b.{kind}")
    assert 0.99 < np.abs(restored.data).max() <= most
    assert record["snr_noisy"] == pytest.approx(snr(clean, y))
    assert (record["snr"] > record["snr_noisy"] + 6) == (kind == "wav")
    told = "written as floats of 32 bit" if kind == "wav" else "write b.wav to keep them"
    assert any(told in note for note in record["notes"])
    assert restored.subtype == ("FLOAT" if kind == "wav" else "PCM_16")


@pytest.mark.parametrize(
    "option",
    [["--noise", "poisson-gaussian"], ["--stack", "shared"], ["--memory-limit", "8"]],
)
def test_options_of_pictures_are_refused(tmp_path, capsys, option):
    source = tmp_path / "a.wav"
    write_sound(source, Sound(tones(500)[:, None], RATE))
    status = app(["denoise", str(source), "-o", str(tmp_path / "b.wav"), *option],
                 standalone_mode=False)  # fmt: skip
    assert status == 2 and f"{option[0]} is for pictures" in capsys.readouterr().err


def test_a_recording_is_not_written_over_itself(tmp_path, capsys):
    source, link = tmp_path / "a.wav", tmp_path / "b.wav"
    write_sound(source, Sound(tones(500)[:, None], RATE))
    link.symlink_to(source)
    before = source.read_bytes()
    assert app(["denoise", str(source), "-o", str(link)], standalone_mode=False) == 2
    assert f"{link} is an input" in capsys.readouterr().err and source.read_bytes() == before


def test_no_model_is_saved_where_none_is_trained(tmp_path, capsys, monkeypatch):
    source = tmp_path / "a.wav"
    write_sound(source, Sound(tones(500)[:, None], RATE))
    monkeypatch.setattr("truvae.sound_files.read_sound", lambda path: pytest.fail("the work began"))
    arguments = ["inpaint", str(source), "-o", str(tmp_path / "b.wav"),
                 "--drop", "0.1", "--save-model", str(tmp_path / "model")]  # fmt: skip
    assert app(arguments, standalone_mode=False) == 2
    assert "--denoise" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [source]


def test_every_model_is_told(tmp_path, capsys):
    y = np.stack([noisy(tones(1000)), noisy(tones(1000), seed=1)], 1)
    source = tmp_path / "a.wav"
    write_sound(source, Sound(y, RATE))
    arguments = ["denoise", str(source), "-o", str(tmp_path / "b.wav"), "--quality", "best",
                 "--channels", "separate", "--json", "-q"]  # fmt: skip
    assert app(arguments, standalone_mode=False) == 0
    assert json.loads(capsys.readouterr().out)["covariances"] == ["dct"] * 6


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"qualty": "fast"}, TypeError, "unexpected keyword argument 'qualty'"),
        ({"quality": "superb"}, InputError, "fast, balanced, best"),
        ({"epochs": 0}, InputError, "epochs must be a whole number"),
        ({"sigma": -1.0}, InputError, "sigma must be above 0"),
        ({"selection": "released"}, InputError, "goes with a preset"),
        ({"device": "abacus"}, InputError, "no device"),
    ],
)
def test_options_are_checked_whether_a_model_needs_them_or_not(denoise, options, error, words):
    y = noisy(tones(500))
    y[100:110] = np.nan
    with pytest.raises(error, match=words):
        truvae.inpaint_audio(y, sample_rate=RATE, denoise=denoise, **options)


def test_a_silent_channel_stays_as_it_is():
    y = np.stack([np.zeros(1000), noisy(tones(1000))], 1)
    result = truvae.denoise_audio(
        y, sample_rate=RATE, epochs=1, channels="separate", return_result=True
    )
    assert not result.restored[:, 0].any() and result.restored[:, 1].std() > 0.1
    assert result.sigma_channels[0] == 0 < result.sigma_channels[1] and result.epochs == 1


def test_a_short_sound_in_silence_is_no_noise():
    y = np.zeros(4000)
    y[1000:1003] = 0.1, 0.5, 0.2
    assert noise_floor(y[:, None], RATE) == 0
    for channels in ("joint", "separate"):
        with pytest.warns(UserWarning, match="no noise was found in the recording"):
            result = truvae.denoise_audio(
                np.stack([y, y], 1), sample_rate=RATE, channels=channels, return_result=True
            )
        assert np.array_equal(result.restored, np.stack([y, y], 1))
        assert (result.sigma, result.model, result.elbo) == (0, None, None)
    told = truvae.denoise_audio(y, sample_rate=RATE, sigma=0.1, epochs=1, return_result=True)
    assert told.sigma == 0.1 and told.epochs == 1


def test_a_clean_channel_stays_beside_a_noisy_one():
    y = np.stack([np.eye(1, 4000, 1000)[0], noisy(tones(4000))], 1)
    with pytest.warns(UserWarning, match="no noise was found in 1 of 2 channels"):
        result = truvae.denoise_audio(y, sample_rate=RATE, epochs=1, return_result=True)
    assert np.array_equal(result.restored[:, 0], y[:, 0])
    assert result.sigma_channels == (0, pytest.approx(0.1, rel=0.1))
    assert np.array_equal(result.components, [[0], [1]])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("share", "most"), [(0.1, 0.05), (0.3, 0.08)])
def test_the_noise_is_found_where_gaps_are_everywhere(channels, share, most):
    rng = np.random.default_rng(0)
    y = tones(2 * RATE)[:, None] + rng.normal(0, 0.1, (2 * RATE, channels))
    y[rng.random(y.shape) < share] = np.nan
    found = truvae.denoise_audio(
        y, sample_rate=RATE, quality="fast", epochs=1, return_result=True, patch_size=60
    )
    assert found.sigma == pytest.approx(0.1, rel=most)


@pytest.mark.parametrize("budget", [1e-9, 4.0])
def test_little_time_is_told(monkeypatch, budget):
    now = [0.0]
    monkeypatch.setattr(Stopwatch, "__call__", lambda watch: now[0])

    def on_epoch(epoch):
        now[0] += 1

    with pytest.warns(UserWarning, match="little time to learn"):
        truvae.denoise_audio(
            noisy(tones(1000)), sample_rate=RATE, epochs=20, time_budget=budget, on_epoch=on_epoch
        )


@pytest.mark.parametrize("rate", [1, 29])
def test_long_gaps_are_filled_at_any_rate(rate):
    y = np.sin(np.arange(200.0))[:, None]
    gappy = y.copy()
    gappy[50:60] = np.nan
    assert np.abs(fill_gaps(gappy, rate) - y).max() < 2


def test_silence_is_not_clipped():
    y = np.zeros(4000)
    y[1000:1020] = np.hanning(20)  # nothing is below 0
    assert not damaged_samples(y[:, None], ["clipping"], RATE).any()
    assert not damaged_samples(y[:, None] - 1, ["clipping"], RATE).any()


@pytest.mark.parametrize("more", [[], ["--denoise"]])
def test_a_recording_without_damage_is_not_repaired(tmp_path, capsys, more):
    source, target = tmp_path / "a.wav", tmp_path / "b.wav"
    write_sound(source, Sound(noisy(tones(1000))[:, None], RATE))
    fill = ["inpaint", str(source), "-o", str(target), "--repair", "clipping,dropouts"]
    assert app([*fill, "--epochs", "1", *more], standalone_mode=False) == 0
    assert "no clipping or dropouts found" in capsys.readouterr().err
    same = np.array_equal(read_sound(target).data, read_sound(source).data)
    assert same == (not more)


def test_other_sample_rates_and_kinds_are_told(tmp_path, capsys):
    source, other, bad = (tmp_path / name for name in ("a.wav", "b.wav", "bad.wav"))
    write_sound(source, Sound(tones(500)[:, None], RATE))
    write_sound(other, Sound(tones(500)[:, None], 2 * RATE))
    bad.write_bytes(b"no sound")
    out = ["-o", str(tmp_path / "out.wav")]
    for arguments, words in [
        (["denoise", source, "--reference", other], "the reference has 16000 samples a second"),
        (["inpaint", source, "--mask", other], "the mask has 16000 samples a second"),
        (["denoise", bad], "WAV, FLAC and OGG are accepted"),
    ]:
        assert app([*map(str, arguments), *out], standalone_mode=False) == 2
        assert words in capsys.readouterr().err
    folder = tmp_path / "out"
    folder.mkdir()
    shared = ["denoise", str(source), str(other), "-o", str(folder), "--shared-model"]
    assert app(shared, standalone_mode=False) == 1
    assert "a.wav is a recording: --shared-model is for pictures" in capsys.readouterr().err


def test_a_silent_channel_is_not_damaged():
    y = np.stack([np.zeros(500), tones(500)], 1)
    y[100:200, 1] = 0
    lost = damaged_samples(y, ["clipping", "dropouts"], RATE)
    assert not lost[:, 0].any() and lost[100:200, 1].all()


def test_without_time_to_learn_a_recording_is_not_lost():
    clean = tones(2000)
    noisy = clean + np.random.default_rng(0).normal(0, 0.1, clean.shape)
    restored = truvae.denoise_audio(noisy, sample_rate=RATE, should_stop=lambda: True)
    assert np.square(restored - clean).mean() < np.square(noisy - clean).mean()
