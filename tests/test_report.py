"""Pages: what they show, that they are complete in themselves, and what is told of bad ones."""

import base64
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from test_restore import noisy_scene

import truvae
from truvae import MLP, Bernoulli, Gaussian, InputError, Model, cli
from truvae.patches import cosine_basis
from truvae.report import generative_fields, write_report

TINY = ["--latents", "16", "--hidden", "32", "--states", "8", "--epochs", "2", "--quality", "fast"]
OPTIONS = {"n_latents": 16, "hidden": (32,), "n_states": 8, "epochs": 2, "quality": "fast"}
_, NOISY = noisy_scene(size=32)
EIGHT = NOISY.clip(0, 255).round().astype(np.uint8)
VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """What a page holds; it fails if tags are not closed in turn."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.open, self.tags, self.texts = [], [], []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @classmethod
    def at(cls, path):
        return cls(path.read_text("utf-8"))

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def picture(self, name):
        (address,) = [a["src"] for tag, a in self.tags if tag == "img" and a["id"] == name]
        head, data = address.split(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def result():
    """A quick restoration of the 8-bit picture, whose states have covariances."""
    return truvae.denoise(EIGHT, return_result=True, **OPTIONS)


@pytest.fixture(scope="module")
def isotropic(result):
    """The same, as if by a linear model with white noise of 4 x 4 patches in colour."""
    decoder = MLP(3, (), 48)
    model = Model(Bernoulli(torch.tensor([0.1, 0.3, 0.2])), decoder, Gaussian(torch.ones(())))
    settings = replace(result.settings, patch_size=4)
    spread = np.array([1.0, 2.0, 3.0])
    return replace(
        result, model=model, settings=settings, spread=spread, sigma_channels=(1.0, 2.0, 3.0)
    )


def written(folder, result, before, record=None, **options):
    write_report(folder / "page.html", result, before, record or {}, **options)
    return Page.at(folder / "page.html")


def command(*arguments):
    """Run the command line in this process; return status, stdout and stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as stopped,
    ):
        patch.setattr(sys, "argv", ["truvae", *map(str, arguments)])
        cli.main()
    return stopped.value.code, stdout.getvalue(), stderr.getvalue()


def test_pictures_of_8_bit_are_shown_as_they_are(tmp_path, result):
    page = written(tmp_path, result, EIGHT)
    np.testing.assert_array_equal(page.picture("before"), EIGHT)
    np.testing.assert_array_equal(page.picture("after"), result.restored)


def test_noise_beyond_the_range_is_clipped_for_show(tmp_path, result):
    page = written(tmp_path, result, NOISY * 2 - 100)
    expected = (NOISY * 2 - 100).round().clip(0, 255)
    np.testing.assert_array_equal(page.picture("before"), expected)


def test_missing_pixels_are_magenta(tmp_path, result):
    before = np.where(np.eye(32), np.nan, EIGHT)
    page = written(tmp_path, result, before)
    shown = page.picture("before")
    assert (shown[np.eye(32, dtype=bool)] == (255, 0, 255)).all()
    np.testing.assert_array_equal(shown[0, 1:], np.stack([EIGHT[0, 1:]] * 3, -1))
    assert "Missing pixels are magenta" in page.text
    assert page.picture("after").ndim == 2


def test_colours_and_what_is_missing_of_some_channels(tmp_path, result):
    colours = np.stack([EIGHT, 255 - EIGHT, EIGHT // 2], 0)  # channels first
    before = colours.astype(float)
    before[1, :2], before[:, 5] = np.nan, np.nan
    page = written(tmp_path, replace(result, restored=colours), before, channel_axis=0)
    np.testing.assert_array_equal(page.picture("after"), np.moveaxis(colours, 0, -1))
    shown = page.picture("before")
    assert (shown[5] == (255, 0, 255)).all() and (shown[:2, :, 1] == 0).all()
    np.testing.assert_array_equal(shown[:2, :, 0], EIGHT[:2])
    assert "these are shown as zero" in page.text


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_one_stretch_serves_before_and_after(tmp_path, result, dtype):
    after = np.linspace(1000, 21000, 32 * 32).reshape(32, 32).astype(dtype)
    before = after[::-1]
    page = written(tmp_path, replace(result, restored=after), before)
    low, high = np.percentile(after, (0.1, 99.9))
    assert f"black at {low:.5g} and white at {high:.5g}" in page.text
    expected = ((after.astype(float) - low) / (high - low) * 255).clip(0, 255)
    np.testing.assert_allclose(page.picture("after"), expected, atol=0.51)
    np.testing.assert_array_equal(page.picture("before"), page.picture("after")[::-1])


def test_of_a_stack_the_first_frame_is_shown(tmp_path, result):
    frames = np.stack([EIGHT, EIGHT.T])
    page = written(tmp_path, replace(result, restored=frames), frames)
    np.testing.assert_array_equal(page.picture("after"), EIGHT)
    assert "The first of 2 frames is shown." in page.text
    with pytest.raises(InputError, match="must be equal"):
        written(tmp_path, result, frames)


def test_the_page_tells_the_record(tmp_path, result):
    record = {
        "psnr_noisy": 20.178,
        "psnr": 31.304,
        "ssim": 0.91234,
        "sigma": 25.4567,
        "sigma_source": "learned",
        "hidden": [64, 32],
        "preset": None,
        "seconds": 12.34,
        "notes": ["a note & more"],
    }
    page = written(tmp_path, result, EIGHT, record)
    for told in ("20.18 → 31.30 dB", "0.912", "25.46", "12.3 s", "64, 32", "a note & more"):
        assert told in page.text
    assert "sigma source learned" in page.text and "preset" not in page.text
    assert page.source.count("<figure>") == 3


def test_a_hostile_name_is_only_text(tmp_path, result):
    name = "in/<script>alert(1)<\\script>&$title\"'.png"
    notes = [name, "</ul></script><img src=x>"]
    record = {"input": name, "notes": notes, name: name, "raw": "\udcff"}
    page = written(tmp_path, result, EIGHT, record)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1 and tags.count("img") == 2
    assert (
        page.text.count("<script>alert(1)<\\script>&$title\"'.png") == 6
    )  # with title and heading
    assert page.source.count("alert(1)") == 6


def test_nothing_comes_from_outside(tmp_path, isotropic):
    page = written(tmp_path, isotropic, EIGHT)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "base", "a")
        for name in {"src", "href", "xlink:href", "srcset", "data"} & attributes.keys():
            assert attributes[name].startswith(("data:image/png;base64,", "#"))
    assert not re.search(
        r"https?:|//\w|@import|url\((?!#)", re.sub(r"base64,[\w+/=\s]+", "", page.source)
    )


def test_fields_are_differences_in_units_of_the_picture_the_most_used_first(isotropic):
    fields = generative_fields(isotropic)
    assert fields.shape == (3, 4, 4, 3)
    weights = isotropic.model.decoder.first.weight.detach().numpy()  # (D, H)
    for place, latent in enumerate([1, 2, 0]):
        for k in range(3):
            expected = weights[16 * k : 16 * (k + 1), latent].reshape(4, 4) * (k + 1)
            np.testing.assert_allclose(fields[place, ..., k], expected, atol=1e-6)


def test_coefficients_of_the_cosine_basis_become_patches(result):
    model, size = result.model, result.settings.patch_size
    assert result.settings.covariance == "dct"
    fields = generative_fields(result)
    assert fields.shape == (16, size, size)
    first = model.prior.pi.argmax()
    with torch.no_grad():
        off, on = model.decode_dense(torch.eye(17, 16)[torch.tensor([16, first])])
    coefficients = fields[0].flatten() / result.spread @ cosine_basis(size).numpy()
    np.testing.assert_allclose(coefficients, (on - off)[: size**2], atol=1e-5)


def test_the_same_run_gives_the_same_page_but_for_what_is_measured(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "in.png")
    pages = []
    for _ in range(2):
        arguments = [tmp_path / "in.png", "-o", tmp_path / "out.png", "-q", "--json", *TINY]
        status, stdout, _ = command("denoise", *arguments, "--report", tmp_path / "page.html")
        record = json.loads(stdout)
        assert status == 0 and record["report"] == str(tmp_path / "page.html")
        pages.append(Page.at(tmp_path / "page.html"))
    first, second = (re.sub(r'(class="measured">)[^<]*', r"\1", page.source) for page in pages)
    assert first == second and first.count('class="measured"') == 4
    np.testing.assert_array_equal(pages[0].picture("before"), EIGHT)
    after = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(pages[0].picture("after"), after)
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "out.png", "page.html"}


def test_several_pictures_get_a_page_each(tmp_path):
    for name in ("pages", "out"):
        (tmp_path / name).mkdir()
    Image.fromarray(EIGHT).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.where(np.eye(32), np.nan, NOISY))
    inputs = [tmp_path / "a.png", tmp_path / "b.npy", "-o", tmp_path / "out", "-q", *TINY]
    status, _, stderr = command("inpaint", *inputs, "--drop", 0.2, "--report", tmp_path / "pages")
    assert status == 0, stderr
    pages = {path.name: Page.at(path) for path in (tmp_path / "pages").iterdir()}
    assert set(pages) == {"a.html", "b.html"}
    missing = np.random.default_rng(0).random((32, 32)) < 0.2
    magenta = (pages["a.html"].picture("before") == (255, 0, 255)).all(-1)
    np.testing.assert_array_equal(magenta, missing)
    magenta = (pages["b.html"].picture("before") == (255, 0, 255)).all(-1)
    np.testing.assert_array_equal(magenta, missing | np.eye(32, dtype=bool))


def bad_calls(tmp):
    one, out = tmp / "a.png", tmp / "out.png"
    yield [one, "-o", out, "--report", tmp / "page.txt"], "does not end in .html"
    yield [one, "-o", out, "--report", tmp / "none" / "page.html"], "does not exist"
    yield [one, "-o", out, "--report", tmp], "is a folder"
    yield [one, tmp / "b.png", "-o", tmp, "--report", tmp / "x.html"], "several reports go to a f"
    yield [tmp, "-o", tmp / "out", "--report", tmp / "none"], "give an existing folder"
    same = [one, tmp / "a.npy", "-o", tmp / "out", "--report", tmp]
    yield same, "2 of the inputs would be written to"


def test_a_bad_place_is_told_before_the_work(tmp_path, monkeypatch):
    Image.fromarray(EIGHT).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("truvae.files.restore_file", lambda *_: pytest.fail("the work began"))
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in bad_calls(tmp_path):
        status, stdout, stderr = command("denoise", *arguments)
        assert status == 2 and message in stderr, (arguments, stderr)
        assert stderr.startswith("truvae: error: ") and stderr.count("\n") == 1 and not stdout
    status, _, stderr = command("demo", "-o", tmp_path, "--report", tmp_path / "page")
    assert status == 2 and "does not end in .html" in stderr
    assert sorted(tmp_path.rglob("*")) == before


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Moves the slider, zooms, drags, and leaves what came of it in the page.
HAND = """<script>
const act = () => {
  split.value = 25;
  split.dispatchEvent(new Event("input"));
  const told = [picture.style.getPropertyValue("--split")];
  document.querySelector("[name=zoom][value='4']").click();
  told.push(picture.getBoundingClientRect().width);
  told.push(getComputedStyle(document.getElementById("after")).imageRendering);
  const box = picture.getBoundingClientRect();
  // There is no pointer to capture here.
  picture.setPointerCapture = () => {};
  picture.dispatchEvent(new PointerEvent("pointerdown", {clientX: box.left + box.width / 2}));
  told.push(split.value, split.labels[0].textContent.replace(/\\s+/g, " "));
  const sizes = ["before", "after"].map(name => document.getElementById(name))
    .map(image => image.clientWidth + "x" + image.clientHeight + " of " + image.naturalWidth);
  document.body.dataset.told = JSON.stringify([...told, ...sizes]);
};
addEventListener("load", act);
</script>
</body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_slider_and_the_zoom_work_in_a_browser(tmp_path, result):
    page = written(tmp_path, result, EIGHT)
    (tmp_path / "moved.html").write_text(page.source.replace("</body>", HAND))
    quiet = [f"--{name}" for name in ("headless", "no-sandbox", "disable-gpu", "no-first-run",
             "disable-quic", "disable-background-networking", "disable-component-update",
             "disable-sync", f"user-data-dir={tmp_path / 'profile'}", "dump-dom")]  # fmt: skip
    browser = [CHROMIUM, *quiet, f"file://{tmp_path}/moved.html"]
    dom = subprocess.run(browser, capture_output=True, text=True, timeout=60).stdout
    (told,) = [attributes["data-told"] for tag, attributes in Page(dom).tags if tag == "body"]
    split, width, rendering, dragged, label, *sizes = json.loads(told)
    assert split == "25%" and width == 4 * 32 and rendering == "pixelated"
    assert float(dragged) == pytest.approx(50) and "Before" in label and "After" in label
    assert sizes == ["128x128 of 32", "128x128 of 32"]


def test_colours_are_those_that_the_restoration_saw(tmp_path, isotropic):
    colours = np.stack([EIGHT, 255 - EIGHT, EIGHT // 2], -1)
    seen = replace(isotropic, restored=colours)
    page = written(tmp_path, seen, colours)
    np.testing.assert_array_equal(page.picture("after"), colours)
