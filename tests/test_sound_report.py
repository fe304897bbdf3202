"""Pages of recordings: what they show and play, that they are complete, and what is told."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from test_audio import RATE, gappy, noisy, tones
from test_report import Page, command

import truvae
from truvae import MLP, Bernoulli, DiagonalGaussian, Gaussian, InputError, Model
from truvae.io_audio import Sound, read_sound, write_sound
from truvae.patches import cosine_basis
from truvae.sound_report import generative_spectra, generative_windows, write_sound_report
from truvae.spectra import spectrogram

OPTIONS = {"n_latents": 16, "hidden": (32,), "n_states": 8, "epochs": 2, "quality": "fast"}
TINY = ["--latents", "16", "--hidden", "32", "--states", "8", "--epochs", "2", "--quality", "fast"]
NOISY = noisy(tones(1500))


@pytest.fixture(scope="module")
def result():
    return truvae.denoise_audio(NOISY, sample_rate=RATE, return_result=True, **OPTIONS)


def written(folder, result, before, record=None):
    write_sound_report(folder / "page.html", result, before, record or {})
    return Page.at(folder / "page.html")


def played(page):
    """Return the samples that the players of a page hold, and their sample rates."""
    addresses = [attributes["src"] for tag, attributes in page.tags if tag == "audio"]
    files = [address.removeprefix("data:audio/wav;base64,") for address in addresses]
    return [soundfile.read(io.BytesIO(base64.b64decode(file)), dtype="int16") for file in files]


def shown(page):
    return page.picture("before").astype(int), page.picture("after").astype(int)


def figures(page):
    return page.source.count("<svg")


def test_a_page_of_a_stereo_file_is_complete(tmp_path):
    clean = np.stack([tones(1500), tones(1500, 1)], 1)
    write_sound(tmp_path / "in.wav", Sound(clean, RATE))
    arguments = [tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--add-noise", 0.05, *TINY]
    pages = []
    for _ in range(2):
        status, stdout, stderr = command(
            "denoise", *arguments, "-q", "--json", "--report", tmp_path / "page.html"
        )
        assert status == 0, stderr
        pages.append(Page.at(tmp_path / "page.html"))
    page, record = pages[1], json.loads(stdout)
    assert record["report"] == str(tmp_path / "page.html")
    assert f"SNR {record['snr_noisy']:.2f} → {record['snr']:.2f} dB" in page.text
    for told in ("in.wav", "nothing but the recording itself", "What was learned", "power spectral",
                 "sample rate 8000", "estimated"):  # fmt: skip
        assert told in page.text
    assert figures(page) == 3  # training, spectra, use of the latents
    (before, rate), (after, _) = played(page)
    noise = np.random.default_rng(0).normal(0, 0.05, (1500, 2))
    seen = read_sound(tmp_path / "in.wav").data + noise
    assert rate == RATE and before.shape == after.shape == (1500, 2)
    assert np.abs(before - seen * 2**15).max() <= 0.5
    np.testing.assert_array_equal(after, read_sound(tmp_path / "out.wav").data * 2**15)
    first, second = (re.sub(r'(class="measured">)[^<]*', r"\1", each.source) for each in pages)
    assert first == second
    assert {path.name for path in tmp_path.iterdir()} == {"in.wav", "out.wav", "page.html"}


def test_nothing_comes_from_outside(tmp_path, result):
    page = written(tmp_path, result, NOISY)
    inside = ("data:image/png;base64,", "data:audio/wav;base64,", "#")
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "base", "a", "source")
        for name in {"src", "href", "xlink:href", "srcset", "data"} & attributes.keys():
            assert attributes[name].startswith(inside)
    (policy,) = [a["content"] for tag, a in page.tags if "Content-Security-Policy" in a.values()]
    assert "default-src 'none'" in policy and "media-src data:;" in policy
    text = re.sub(r"base64,[\w+/=\s]+", "", page.source)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)


def test_spectrograms_lie_over_each_other_and_have_one_scale(tmp_path, result):
    page = written(tmp_path, replace(result, restored=NOISY), NOISY)
    assert np.array_equal(*shown(page))
    quiet = replace(result, restored=NOISY * 0.1)
    before, after = shown(written(tmp_path, quiet, NOISY))
    differ = (before != after).any(-1)
    height, width = differ.shape
    inside = np.flatnonzero(differ.any(0))
    assert inside.max() < 0.9 * width and inside.min() > 0.02 * width  # axes and scale are alike
    assert before[differ].mean() > after[differ].mean() + 20  # 20 dB lower is darker


def test_each_channel_has_a_spectrogram_but_not_more_than_two(tmp_path, result):
    heights = []
    for n_channels in (1, 2, 3):
        many = np.stack([NOISY] * n_channels, 1)
        page = written(tmp_path, replace(result, restored=many), many)
        heights.append(shown(page)[0].shape[0])
        assert played(page)[0][0].reshape(1500, -1).shape[1] == min(n_channels, 2)
    assert heights == [heights[0], 2 * heights[0], 2 * heights[0]]
    assert "The first 2 of 3 channels are shown." in page.text


def test_players_hold_integers_of_any_range_in_one_scale(tmp_path, result):
    before = np.round(NOISY * 5e4).astype(np.int32)
    page = written(tmp_path, replace(result, restored=before // 2), before)
    full = np.abs(before).max()
    assert f"Full scale of the players is {full:.5g}." in page.text
    first, second = (samples for samples, _ in played(page))
    np.testing.assert_allclose(first, before / full * 2**15, atol=1.01)
    np.testing.assert_allclose(second, first / 2, atol=1.01)


def test_a_long_recording_has_no_players_and_that_is_told(tmp_path, result, monkeypatch):
    monkeypatch.setattr("truvae.sound_report._MOST_PLAYED", 1499)
    page = written(tmp_path, result, NOISY)
    assert played(page) == [] and "There are no players: the recording takes" in page.text


def test_of_filled_gaps_no_model_is_shown(tmp_path):
    y = gappy()
    y[500:1500] = np.nan
    with pytest.warns(UserWarning, match="plausible"):
        result = truvae.inpaint_audio(y, sample_rate=RATE, return_result=True)
    page = written(tmp_path, result, y, {"missing": result.missing, "sigma": result.sigma})
    assert "What was learned" not in page.text and figures(page) == 0
    for told in ("No model was needed", "missing samples count as zero", "Missing"):
        assert told in page.text
    before, after = shown(page)
    grey = (before == 128).all(-1)
    assert grey.mean() > 0.1
    assert (after == 128).all(-1)[grey].mean() < 0.01  # of letters
    (silent, _), (filled, _) = played(page)
    assert not silent[500:1500].any() and filled[500:1500].any()


@pytest.mark.filterwarnings("ignore:the model takes signal for noise")
def test_of_the_papers_model_windows_are_shown(tmp_path):
    result = truvae.denoise_audio(
        NOISY, sample_rate=RATE, covariance="isotropic", return_result=True, **OPTIONS
    )
    page = written(tmp_path, result, NOISY)
    assert figures(page) == 3  # training, windows, use of the latents
    assert "adds to a window of 25 ms: 16 of 16" in page.text and "raises" not in page.text


def test_other_shapes_and_bad_places_are_told(tmp_path, result):
    with pytest.raises(InputError, match=r"the recording has shape \(1499,\), .* must be equal"):
        written(tmp_path, result, NOISY[1:])
    with pytest.raises(InputError, match="does not end in .html"):
        write_sound_report(tmp_path / "page.txt", result, NOISY, {})
    assert not [*tmp_path.iterdir()]


def linear_model(n_outputs, noise):
    decoder = MLP(3, (), n_outputs)
    return Model(Bernoulli(torch.tensor([0.1, 0.3, 0.2])), decoder, noise)


def test_windows_are_differences_in_units_of_the_recording_the_most_used_first():
    model = linear_model(20, Gaussian(torch.ones(())))
    windows = generative_windows(model, 2.0)
    weights = model.decoder.first.weight.detach().numpy()  # (D, H)
    np.testing.assert_allclose(windows, 2 * weights[:, [1, 2, 0]].T, atol=1e-6)


def test_spectra_are_those_of_windows_drawn_from_the_model():
    basis = cosine_basis((1, 10))
    noise = DiagonalGaussian(torch.tensor(0.0), basis, torch.linspace(1, 3, 10))
    outputs = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    levels = generative_spectra(noise, outputs)
    assert levels.shape == (2, 10)
    powers = []
    for state in outputs:
        drawn = noise.sample(state.expand(20_000, -1), torch.Generator().manual_seed(1))
        powers.append((drawn @ basis).square().mean(0))
    expected = 10 * torch.stack([power / powers[0] for power in powers[1:]]).log10()
    np.testing.assert_allclose(levels, expected, atol=0.3)


@pytest.mark.parametrize("rate", [100.0, 8000.0])
@pytest.mark.parametrize("n_columns", [1, 7, 1000])
def test_a_spectrogram_of_noise_has_the_density_of_the_noise(rate, n_columns):
    x = 3 * np.random.default_rng(0).normal(size=20_000)
    density = spectrogram(x, rate, n_columns)
    assert density.shape[1] == n_columns
    assert density[1:-1].mean() == pytest.approx(2 * 9 / rate, rel=0.1)


def test_a_spectrogram_tells_time_and_frequency():
    t = np.arange(8000) / RATE
    x = np.where(t < 0.5, np.sin(2 * np.pi * 1000 * t), np.sin(2 * np.pi * 3000 * t))
    density = spectrogram(x, RATE, 100)
    frequencies = np.linspace(0, RATE / 2, len(density))[density.argmax(0)]
    np.testing.assert_allclose(frequencies[:48], 1000, atol=32)
    np.testing.assert_allclose(frequencies[52:], 3000, atol=32)


def test_a_spectrogram_shows_where_nothing_is_known():
    x = np.random.default_rng(0).normal(size=8000)
    x[2000:6000], x[100] = np.nan, np.nan
    unknown = np.isnan(spectrogram(x, RATE, 100))
    assert (unknown.all(0) == unknown.any(0)).all()
    place = np.flatnonzero(unknown[0])
    assert place[0] == pytest.approx(26, abs=2) and place[-1] == pytest.approx(73, abs=2)
    assert len(place) == place[-1] - place[0] + 1


@pytest.mark.parametrize("n", [64, 65, 100, 257])
def test_the_shortest_recordings_have_a_spectrogram(n):
    density = spectrogram(np.random.default_rng(0).normal(size=n), RATE, 1000)
    assert density.shape[1] == n and np.isfinite(density).all() and density.mean() > 0
