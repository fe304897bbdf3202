"""The command line, in this process or one of its own: contract, errors, exit status."""

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_restore import noisy_scene, scene

from truvae.cli import main
from truvae.io import read_picture
from truvae.metrics import psnr
from truvae.signals import StopSignals

TINY = ["--latents", "16", "--hidden", "32", "--states", "8", "--epochs", "2"]
KEYS = set(
    [
        "input",
        "output",
        "interrupted",
        "kind",
        "shape",
        "seed",
        "preset",
        "covariance",
        "device",
        "n_data",
        "patch_size",
        "n_latents",
        "n_states",
        "epochs",
        "elbo",
        "sigma",
        "active_latents",
        "psnr_noisy",
        "psnr",
        "ssim",
        "held_out_rmse",
        "seconds",
        "seconds_per_epoch",
        "peak_memory_mb",
        "report",
        "saved_model",
        "version",
    ]
)


def called(*arguments):
    """Run the command line in this process, which saves the two seconds of a start."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as stopped,
    ):
        patch.setattr(sys, "argv", ["truvae", *map(str, arguments)])
        main()
    return SimpleNamespace(
        returncode=stopped.value.code,
        stdout=stdout.getvalue(),
        stderr=stderr.getvalue().split("\r")[-1],
    )


def truvae(*arguments, **options):
    command = [sys.executable, "-m", "truvae", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def strict(line):
    """Parse a line of JSON in which NaN is not allowed."""

    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    return json.loads(line, parse_constant=refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the same noisy picture in every format."""
    path = tmp_path_factory.mktemp("pictures")
    _, noisy = noisy_scene(size=32)
    eight = noisy.clip(0, 255).round().astype(np.uint8)
    Image.fromarray(eight).save(path / "noisy.png")
    tifffile.imwrite(path / "noisy16.tif", eight.astype(np.uint16) * 257)
    np.save(path / "noisy.npy", noisy)
    Image.fromarray(scene(32).astype(np.uint8)).save(path / "clean.png")
    return path


@pytest.mark.parametrize("name", ["noisy.png", "noisy16.tif", "noisy.npy"])
def test_one_file_in_one_file_out(folder, tmp_path, name):
    done = called("denoise", folder / name, "-o", tmp_path / name, "--json", *TINY)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    record = strict(line)
    assert set(record) >= KEYS
    assert record["shape"] == [32, 32] and record["kind"] == "picture"
    assert record["psnr"] is None and record["held_out_rmse"] is None
    assert record["report"] is None and record["version"] == version("truvae")
    assert record["epochs"] == 2 and record["n_latents"] == 16 and record["n_states"] == 8
    before, after = read_picture(folder / name).data, read_picture(tmp_path / name).data
    assert before.dtype == after.dtype and before.shape == after.shape
    assert after.std() < before.std()


def test_added_noise_is_as_promised_and_measured(folder, tmp_path):
    out = tmp_path / "out.png"
    done = called(
        "denoise", folder / "clean.png", "-o", out, "--add-noise", 20, "--seed", 5, "--json", *TINY
    )
    record = strict(done.stdout)
    clean = read_picture(folder / "clean.png").data
    noise = np.random.default_rng(5).normal(0, 20, clean.shape)
    assert record["psnr_noisy"] == pytest.approx(10 * math.log10(255**2 / (noise**2).mean()))
    error = ((read_picture(out).data - clean.astype(float)) ** 2).mean()
    assert record["psnr"] == pytest.approx(10 * math.log10(255**2 / error))
    assert 0 < record["ssim"] < 1 and record["seed"] == 5


def test_reference_measures_the_result(folder, tmp_path):
    done = called(
        "denoise",
        folder / "noisy.png",
        "-o",
        tmp_path / "o.png",
        "--reference",
        folder / "clean.png",
        *TINY,
    )
    assert done.returncode == 0
    assert "PSNR" in done.stdout and "sigma" in done.stdout and "(estimated)" in done.stdout


def test_same_seed_same_file(folder, tmp_path):
    outs = [tmp_path / f"{name}.png" for name in "abc"]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        called("denoise", folder / "noisy.png", "-o", out, "-q", "--seed", seed, *TINY)
    first, second, other = (out.read_bytes() for out in outs)
    assert first == second != other


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system counts no parents")
def test_the_memory_told_is_not_that_of_the_program_that_started_it(folder, tmp_path):
    held = np.ones(100_000_000)
    done = truvae("denoise", folder / "noisy.png", "-o", tmp_path / "a.png", "--json", *TINY)
    assert 100 < strict(done.stdout)["peak_memory_mb"] < held.nbytes / 2**20


def test_progress_goes_to_stderr_unless_quiet(folder, tmp_path):
    loud = called("denoise", folder / "noisy.png", "-o", tmp_path / "a.png", "-v", *TINY)
    assert "epoch 2" in loud.stderr and "epoch" not in loud.stdout.replace("epochs in", "")
    quiet = truvae("denoise", folder / "noisy.png", "-o", tmp_path / "b.png", "-q", *TINY)
    assert quiet.stderr == "" and len(quiet.stdout.splitlines()) == 1


def test_several_files_and_folders(folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("hello")
    out = tmp_path / "out"
    out.mkdir()
    done = called("denoise", folder / "noisy.png", bad, "-o", out, "--json", "-q", *TINY)
    assert done.returncode == 1
    good, failed = map(strict, done.stdout.splitlines())
    assert (out / "noisy.png").exists() and good["output"] == str(out / "noisy.png")
    assert set(failed) == {"input", "error"} and not (out / "bad.png").exists()
    done = called("denoise", folder, "-o", out, "-q", *TINY)
    assert done.returncode == 0
    assert {p.name for p in out.iterdir()} == {p.name for p in folder.iterdir()}


def bad_calls(folder, tmp):
    """Yield arguments that are wrong, and a part of the message."""
    noisy, out = folder / "noisy.png", tmp / "out.png"
    (tmp / "text.png").write_text("hello")
    (tmp / "cut.png").write_bytes(noisy.read_bytes()[:400])
    for name, array in {
        "tiny": np.arange(9.0).reshape(3, 3),
        "constant": np.ones((20, 20)),
        "nan": np.full((20, 20), np.nan),
        "inf": np.full((20, 20), np.inf),
        "line": np.arange(9.0),
        "complex": np.ones((20, 20), complex),
    }.items():
        np.save(tmp / f"{name}.npy", array)
    np.save(tmp / "object.npy", np.full((20, 20), None), allow_pickle=True)
    npy, link = tmp / "out.npy", tmp / "link.npy"
    link.symlink_to(tmp / "tiny.npy")
    yield [tmp / "none.png", "-o", out], "there is no file"
    yield [tmp / "text.png", "-o", out], "is not a picture"
    yield [tmp / "cut.png", "-o", out], "is damaged or cut short"
    yield [tmp / "tiny.npy", "-o", npy], "is smaller than a patch of"
    yield [tmp / "constant.npy", "-o", npy], "is constant"
    yield [tmp / "nan.npy", "-o", npy], "no known pixel"
    yield [tmp / "inf.npy", "-o", npy], "infinite values"
    yield [tmp / "line.npy", "-o", npy], "two axes"
    yield [tmp / "complex.npy", "-o", npy], "complex128"
    yield [tmp / "object.npy", "-o", npy], "Python objects"
    yield [noisy, "-o", tmp / "none" / "out.png"], "does not exist"
    yield [noisy, "-o", tmp / "out.gif"], "its extension must be one of"
    yield [noisy, "-o", tmp / "out"], "its extension must be one of"
    yield [folder, "-o", out], "give an existing folder"
    yield [noisy, noisy, "-o", out], "give an existing folder"
    yield [noisy, "-o", noisy], "is an input"
    yield [noisy, "-o", link, "--reference", tmp / "tiny.npy"], f"{link} is an input"
    yield [noisy, "-o", out, "--seed", 2**32], "--seed"
    yield [noisy, "-o", out, "--checkpoint", "x", "--save-model", "x"], "give each a folder"
    yield [noisy, "-o", out, "--patch-size", 0], "patch size must be a whole number"
    yield [noisy, "-o", out, "--patch-size", 99], "smaller than a patch of 99 x 99"
    yield [noisy, "-o", out, "--sigma", -1], "sigma must be above 0"
    yield [noisy, "-o", out, "--add-noise", -1], "--add-noise"
    yield [noisy, "-o", out, "--add-noise", "nan"], "--add-noise"
    yield [noisy, "-o", out, "--time-budget", 0], "--time-budget"
    yield [noisy, "-o", out, "--hidden", "a,b"], "whole numbers like 256,128"
    yield [noisy, "-o", out, "--quality", "superb"], "superb"
    yield [noisy, "-o", out, "--add-noise", 5, "--reference", noisy], "leave --reference out"
    yield [noisy, "-o", out, "--reference", tmp / "tiny.npy"], "the reference has shape (3, 3)"
    deep = folder / "noisy16.tif"
    yield [noisy, "-o", out, "--reference", deep], "the reference holds uint16 values, the picture"
    yield [noisy, "-o", out, "--wrong"], "--wrong"
    yield [noisy], "'-o'"


def test_bad_input_is_one_line_and_status_2(folder, tmp_path):
    """In one process, since there are many; the last ones also through a subprocess."""
    for arguments, message in bad_calls(folder, tmp_path):
        before = sorted(tmp_path.iterdir())
        done = called("denoise", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr, (message, done.stderr)
        assert done.stderr.startswith("truvae: error: ") and done.stderr.count("\n") == 1
        assert done.stdout == ""
        assert sorted(tmp_path.iterdir()) == before
    outside = truvae("denoise", *arguments)
    assert outside.returncode == 2 and outside.stderr == done.stderr


def test_failure_with_json_is_an_object_too(tmp_path):
    done = truvae("denoise", tmp_path / "none.png", "-o", tmp_path / "out.png", "--json")
    assert done.returncode == 2
    assert set(strict(done.stdout)) == {"input", "error"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_the_best_so_far(folder, tmp_path, number, status):
    out = tmp_path / "out.png"
    command = [sys.executable, "-m", "truvae", "denoise", folder / "noisy.png", "-o", out, "-v"]
    tiny = [*TINY[:-1], "100000"]
    with subprocess.Popen([*command, *tiny], stderr=subprocess.PIPE, text=True) as process:
        for text in iter(lambda: process.stderr.read(1), ""):
            if text == "2":
                break
        time.sleep(0.5)
        process.send_signal(number)
        told = process.stderr.read()
        assert process.wait(60) == status
    assert told.count("truvae: finishing with what there is; another Ctrl-C quits at once") == 1
    assert read_picture(out).data.shape == (32, 32)
    assert os.listdir(tmp_path) == ["out.png"]


def test_the_second_signal_is_left_to_others(capfd):
    for first in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(signal.SIGINT)
        with StopSignals() as stop:
            os.kill(os.getpid(), first)
            assert stop.received == first and signal.getsignal(signal.SIGINT) == before
        assert capfd.readouterr().err.count("another Ctrl-C quits at once") == 1
        with StopSignals(quiet=True) as stop:
            os.kill(os.getpid(), first)
            assert stop.received == first
        assert capfd.readouterr().err == ""


def test_demo_restores_a_picture_that_ships_with_a_dependency(tmp_path):
    done = truvae("demo", "-o", tmp_path, "--json", "--time-budget", 12)
    assert done.returncode == 0, done.stderr
    record = strict(done.stdout)
    assert record["psnr"] > record["psnr_noisy"] + 3
    assert {p.name for p in tmp_path.iterdir()} == {"clean.png", "before.png", "after.png"}
    assert read_picture(tmp_path / "after.png").data.shape == (256, 256)


def test_importing_the_package_imports_no_torch():
    code = "import sys, truvae; print({'torch', 'matplotlib', 'skimage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
    assert truvae("--version").stdout.startswith("truvae, version ")
    assert "denoise" in truvae("--help").stdout


def test_a_preset_by_name(folder, tmp_path):
    preset = ["--preset", "paper:denoise-house-25", "--selection", "released", "--epochs", "1"]
    done = called("denoise", folder / "noisy.png", "-o", tmp_path / "out.png", "--json", *preset)
    assert done.returncode == 0, done.stderr
    record = strict(done.stdout)
    assert record["preset"] == "paper:denoise-house-25"
    assert (record["n_latents"], record["n_states"], record["patch_size"]) == (64, 200, 8)
    done = called("denoise", folder / "noisy.png", "-o", tmp_path / "out.png", "--preset", "house")
    assert done.returncode == 2
    assert "no preset 'house'" in done.stderr and len(done.stderr.splitlines()) == 1


def test_inpainting_fills_what_the_mask_marks_and_nothing_else(folder, tmp_path):
    mask = np.random.default_rng(0).random((32, 32)) < 0.2
    Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)).save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    marked = ["--mask", tmp_path / "mask.png", "--invert-mask"]
    reference = ["--reference", folder / "clean.png"]
    done = called("inpaint", folder / "noisy.png", "-o", out, *marked, *reference, "--json", *TINY)
    assert done.returncode == 0, done.stderr
    record = strict(done.stdout)
    assert set(record) >= KEYS and record["missing"] == pytest.approx(mask.mean())
    assert record["held_out_rmse"] > 0
    assert record["notes"][0] == f"{mask.mean():.1%} of the picture is missing"
    assert record["notes"][0] in done.stderr
    before, after = read_picture(folder / "noisy.png").data, read_picture(out).data
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).mean() > 0.5


def test_what_there_is_to_tell_of_a_mask_is_told(folder, tmp_path):
    mask = np.random.default_rng(0).random((32, 32)) < 0.2
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    done = called("inpaint", folder / "noisy.png", "-o", tmp_path / "out.png", "--mask",
                  tmp_path / "mask.tif", "--json", *TINY)  # fmt: skip
    record = strict(done.stdout)
    assert record["missing"] == pytest.approx(mask.mean())
    assert record["notes"][0].startswith("the mask: it shows white where its bits are 0")
    assert record["notes"][0] in done.stderr


def test_dropped_pixels_are_as_promised(folder, tmp_path):
    out = tmp_path / "out.npy"
    dropping = ["--drop", 0.3, "--seed", 4, "--json"]
    done = called("inpaint", folder / "clean.png", "-o", out, *dropping, *TINY)
    record = strict(done.stdout)
    missing = np.random.default_rng(4).random((32, 32)) < 0.3
    clean, filled = read_picture(folder / "clean.png").data, np.load(out)
    np.testing.assert_array_equal(filled[~missing], clean[~missing])
    assert record["missing"] == pytest.approx(missing.mean()) and record["psnr_noisy"] is None
    error = ((filled - clean.astype(float)) ** 2).mean()
    assert record["psnr"] == pytest.approx(10 * math.log10(255**2 / error))


def test_an_incomplete_picture_may_lose_more_pixels(tmp_path):
    picture = np.where(np.eye(32), np.nan, scene(32))
    np.save(tmp_path / "in.npy", picture)
    dropping = ["--drop", 0.2, "-q", "--quality", "fast"]
    done = called("inpaint", tmp_path / "in.npy", "-o", tmp_path / "out.npy", *dropping, *TINY)
    assert done.returncode == 0, done.stderr
    assert "PSNR" in done.stdout and "SSIM" not in done.stdout
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()


def test_a_colour_picture_comes_back_as_it_was_but_for_the_noise(tmp_path):
    """8 bit, alpha and resolution kept; pixels of the missing value filled in."""
    rng = np.random.default_rng(0)
    clean = np.stack([scene(32), 255 - scene(32), scene(32) / 2], -1)
    colours = (clean + rng.normal(0, 10, clean.shape)).clip(1, 254).round().astype(np.uint8)
    colours[5:8, 5:8] = 255
    alpha = rng.integers(0, 256, (32, 32, 1)).astype(np.uint8)
    path, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.concatenate([colours, alpha], -1)).save(path, dpi=(300, 300))
    done = called("inpaint", path, "-o", out, "--missing-value", 255, "--json", *TINY)
    assert done.returncode == 0, done.stderr
    record = strict(done.stdout)
    assert record["missing"] == pytest.approx(9 / 32**2) and record["shape"] == [32, 32, 3]
    assert len(record["sigma_channels"]) == 3
    with Image.open(out) as picture:
        assert picture.mode == "RGBA" and picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        after = np.asarray(picture)
    np.testing.assert_array_equal(after[..., 3:], alpha)
    known = np.ones((32, 32), bool)
    known[5:8, 5:8] = False
    np.testing.assert_array_equal(after[known][:, :3], colours[known])
    assert (after[~known][:, :3] < 255).all()


def test_a_stack_of_16_bit_keeps_type_axes_and_resolution(tmp_path):
    _, noisy = noisy_scene(size=32)
    frames = np.stack([noisy, noisy[::-1], noisy.T]).clip(0, 255).round().astype(np.uint16) * 100
    path, out = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(
        path,
        frames,
        imagej=True,
        resolution=(3.5, 3.5),
        metadata={"axes": "TYX", "unit": "um", "finterval": 0.5},
    )
    done = called("denoise", path, "-o", out, "--stack", "shared", "--json", *TINY)
    assert done.returncode == 0, done.stderr
    assert strict(done.stdout)["frames"] == 3
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(out) as after:
        assert after.series[0].axes == "TYX" and after.series[0].dtype == np.uint16
        for name in ("XResolution", "YResolution", "ResolutionUnit"):
            assert after.pages[0].tags[name].value == before.pages[0].tags[name].value
        for name in ("unit", "finterval"):
            assert after.imagej_metadata[name] == before.imagej_metadata[name]
        restored = after.asarray()
    assert restored.shape == frames.shape
    assert restored.mean() == pytest.approx(frames.mean(), rel=0.02)


def bad_inpainting(folder, tmp):
    noisy, out = folder / "noisy.png", tmp / "out.png"
    for name, level in (("none", 0), ("all", 9)):
        Image.fromarray(np.full((32, 32), level, np.uint8)).save(tmp / f"{name}.png")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp / "small.png")
    yield [noisy, "-o", out], "nothing is missing"
    yield [noisy, "-o", out, "--mask", tmp / "none.png"], "nothing is missing"
    yield [noisy, "-o", out, "--mask", tmp / "all.png"], "no known pixel"
    yield [noisy, "-o", out, "--mask", tmp / "small.png"], "the mask has shape (8, 8)"
    yield [noisy, "-o", out, "--mask", tmp / "where.png"], "there is no file"
    yield [noisy, "-o", out, "--drop", 1.5], "--drop"
    yield [noisy, "-o", out, "--drop", 0.5, "--missing-value", 0], "give one of"
    yield [noisy, "-o", out, "--drop", 0.5, "--invert-mask"], "goes with a --mask"
    yield [noisy, "-o", out, "--missing-value", 0, "--drop-per", "value"], "goes with --drop:"
    yield [noisy, "-o", out, "--drop", 0.5, "--reference", noisy], "leave --reference out"


def test_bad_inpainting_is_one_line_and_status_2(folder, tmp_path):
    for arguments, message in bad_inpainting(folder, tmp_path):
        done = called("inpaint", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr, (message, done.stderr)
        assert done.stderr.startswith("truvae: error: ") and done.stderr.count("\n") == 1


def test_jpegs_of_a_folder_become_pngs_and_names_must_differ(folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    Image.open(folder / "noisy.png").save(source / "a.jpg")
    done = called("denoise", source, "-o", out, "-q", *TINY)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.iterdir()] == ["a.png"]
    Image.open(folder / "noisy.png").save(source / "a.png")
    done = called("denoise", source, "-o", out, "-q", *TINY)
    assert done.returncode == 2 and "2 of the inputs would be written to" in done.stderr


def test_a_jpeg_is_measured_as_it_was_written(folder, tmp_path):
    out = tmp_path / "out.jpg"
    done = called("denoise", folder / "clean.png", "-o", out, "--add-noise", 10, "--json",
                  *TINY)  # fmt: skip
    clean = read_picture(folder / "clean.png").data
    assert json.loads(done.stdout)["psnr"] == pytest.approx(psnr(clean, read_picture(out).data))


def test_threads_do_not_spin_whatever_imports_torch_first(folder, tmp_path):
    """As seen at the moment of the import: it is too late afterwards."""
    code = (
        "import os, sys\n"
        "class Told:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Told())\n"
        "from truvae.cli import main\n"
        "main()\n"
    )
    (tmp_path / "file").write_text("")
    command = ["denoise", folder / "noisy.png", "-o", tmp_path / "x.png", "--checkpoint",
               tmp_path / "file"]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for given, seen in ({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"):
        done = subprocess.run([sys.executable, "-c", code, *map(str, command)], text=True,
                              capture_output=True, env=environment | given)  # fmt: skip
        assert done.stdout.split() == [seen], done.stderr
        assert done.returncode == 2
