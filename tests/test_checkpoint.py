"""Interrupted restorations go on bit for bit, and nothing that was saved is ever lost."""

import contextlib
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_audio import RATE, gappy
from test_cli import TINY, called, truvae
from test_restore import SMALL, noisy_scene

from truvae import (
    CorrelatedGaussian,
    DiagonalGaussian,
    Gaussian,
    InputError,
    LowRankGaussian,
    Model,
    PoissonNoise,
    Recipe,
    audio,
    audio_job,
    audio_settings,
    checkpoint,
    denoise,
    denoise_audio,
    fitting,
    inpaint,
    inpaint_audio,
    job,
    looks,
    tiles,
)
from truvae import settings as chosen
from truvae.checkpoint import Checkpoint, State, Training, open_checkpoint
from truvae.clock import Clock, Stopwatch
from truvae.gaps import fill_gaps
from truvae.io_audio import Sound, write_sound
from truvae.optim import Adam
from truvae.wishes import Wishes

# Tones without noise, and models of few epochs.
pytestmark = pytest.mark.filterwarnings("ignore:the model takes signal for noise")

TINY_MODEL = SMALL | {"epochs": 3, "return_result": True}


class Stop(Exception):
    """Ends a run as nothing that truvae knows of does."""


def stop_after(n_epochs):
    """Return a callback that ends the run at epoch `n_epochs` of all models, from 1."""
    seen = []

    def stop(epoch):
        seen.append(epoch)
        if len(seen) == n_epochs:
            raise Stop

    return stop


def missing(share):
    return np.random.default_rng(0).random((32, 32)) < share


def sound(y, n_trained=1 << 13, **options):
    """Restore a recording by at most three models of two epochs, from so many windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_settings, "_TRAINED", n_trained)
        patch.setitem(audio_settings._EFFORT, "best", (3, 2, 2))
        return denoise_audio(y, sample_rate=RATE, **options)


def large(y, **options):
    """Restore a picture as if it were large, and its tiles small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "_TRAINED", (300, 300))
        patch.setattr(fitting, "tiles", lambda places, most: tiles.tiles(places, 60))
        return denoise(y, **options)


def runs():
    """Yield restorations of every kind: their name, and a function of further options."""
    _, noisy = noisy_scene(size=32)
    stack = np.stack([noisy, noisy[::-1]])
    colour = np.stack([noisy, 255 - noisy], -1)
    preset = {"preset": "paper:denoise-house-25", "n_states": 20}
    y = gappy(900)
    whole = np.nan_to_num(y[:, 0])
    for name, function, *inputs, options in [
        ("auto", denoise, noisy, {}),
        ("isotropic", denoise, noisy, {"covariance": "isotropic"}),
        ("dct", denoise, noisy, {"covariance": "dct"}),
        ("best", denoise, noisy, {"quality": "best"}),
        ("given sigma", denoise, noisy, {"sigma": 20.0}),
        ("own pools", denoise, noisy, preset),
        ("colour", denoise, colour, {"channel_axis": -1}),
        ("incomplete", inpaint, noisy, missing(0.5), {}),
        ("few missing", inpaint, noisy, missing(0.1), {}),
        ("frames", denoise, stack, {}),
        ("shared", denoise, stack, {"stack": "shared"}),
        ("large", large, noisy, {}),
        ("recording", sound, whole, {}),
        ("white recording", sound, whole, {"covariance": "isotropic"}),
        ("several models", sound, whole, {"quality": "best", "epochs": None}),
        ("from a sample", sound, whole, {"quality": "best", "epochs": None, "n_trained": 100}),
        ("gaps", sound, y, {}),
        ("channels apart", sound, y, {"channels": "separate"}),
    ]:
        yield pytest.param(lambda f=function, i=inputs, o=options, **more:
                           f(*i, **TINY_MODEL | o | more), id=name)  # fmt: skip


def facts(result):
    """Return all that is told of a restoration but the time it took."""
    epochs = [(e.index, e.progress, e.elbo, e.sigma, e.substitutions) for e in result.history]
    names = ["sigma", "sigma_source", "elbo", "held_out_rmse", "covariances", "trust_in_dct",
             "looks", "look_sizes", "epochs", "sigma_channels"]  # fmt: skip
    weights = [weight.tolist() for weight in result.model.parameters()]
    told = [getattr(result, name, None) for name in names]  # some are of pictures only
    return [result.restored.tobytes(), epochs, weights, *told]


@pytest.mark.parametrize("restore", [*runs()])
def test_resumed_after_each_epoch_it_comes_to_the_same(restore, tmp_path):
    whole = restore()
    folder = tmp_path / "states"
    for n in range(1, len(whole.history) + 1):
        with pytest.raises(Stop):
            restore(checkpoint=folder, resume=True, on_epoch=stop_after(n))
    assert facts(restore(checkpoint=folder, resume=True)) == facts(whole)


@pytest.mark.parametrize("restore", [*runs()])
def test_saving_changes_nothing_and_what_is_finished_is_not_done_again(
    restore, tmp_path, monkeypatch
):
    folder = tmp_path / "states"
    whole = restore()
    assert facts(restore(checkpoint=folder)) == facts(whole)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for module, name in [(fitting, "posterior"), (looks, "refine"), (job, "settle"),
                         (audio, "fill_gaps"), (audio_job, "look_again")]:  # fmt: skip
        monkeypatch.delattr(module, name)
    told = []
    assert facts(restore(checkpoint=folder, resume=True, on_epoch=told.append)) == facts(whole)
    assert told == whole.history or [e.index for e in told] == [e.index for e in whole.history]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_tiles_that_were_estimated_are_not_estimated_again(tmp_path, monkeypatch):
    noisy, real, called = noisy_scene(size=32)[1], fitting._of_tile, []
    options = TINY_MODEL | {"covariance": "dct"}
    whole = large(noisy, **options)

    def estimate(*arguments):
        called.append(arguments)
        if len(called) in (4, 8):
            raise Stop
        return real(*arguments)

    monkeypatch.setattr(fitting, "_of_tile", estimate)
    options |= {"checkpoint": tmp_path / "states", "resume": True}
    for n in (4, 8):
        with pytest.raises(Stop):
            large(noisy, **options)
        assert len(called) == n
    assert facts(large(noisy, **options)) == facts(whole)
    assert len(called) == 16 + 2


def test_gaps_that_were_filled_without_a_model_are_not_filled_again(tmp_path, monkeypatch):
    y, folder = gappy(900), tmp_path / "states"
    options = {"sample_rate": RATE, "checkpoint": folder, "resume": True}
    with pytest.raises(Stop):
        inpaint_audio(y, on_progress=stop_after(3), **options)
    assert not folder.exists()
    filled = inpaint_audio(y, **options)
    assert filled.tobytes() == fill_gaps(y, RATE).tobytes()
    assert {path.name for path in folder.iterdir()} == {"checkpoint.json", "filled.safetensors"}
    monkeypatch.delattr(audio, "fill_gaps")
    told = []
    assert inpaint_audio(y, on_progress=told.append, **options).tobytes() == filled.tobytes()
    assert told[-1] == 1


def test_what_was_cut_short_is_not_saved(tmp_path):
    options = {"sample_rate": RATE, "checkpoint": tmp_path / "states"}
    inpaint_audio(gappy(900), should_stop=lambda: True, **options)
    inpaint_audio(gappy(900), should_stop=lambda: True, denoise=True, epochs=1, **options)
    assert not [*tmp_path.iterdir()]


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(8, 20), st.integers(8, 20)),
    seed=st.integers(0, 99),
    stops=st.lists(st.integers(1, 6), max_size=3),
    options=st.fixed_dictionaries(
        {
            "covariance": st.sampled_from(["auto", "isotropic", "dct"]),
            "n_latents": st.integers(4, 70),
            "hidden": st.sampled_from([(), (9,), (8, 7)]),
        }
    ),
)
def test_any_picture_any_model_any_stops(tmp_path_factory, shape, seed, stops, options):
    picture = np.random.default_rng(seed).normal(100, 20, shape)
    options = options | {"n_states": 8, "epochs": 3, "patch_size": 4, "random_state": seed}
    whole = denoise(picture, **options)
    options |= {"checkpoint": tmp_path_factory.mktemp("states") / "new", "resume": True}
    for n in stops:
        with contextlib.suppress(Stop):
            denoise(picture, on_epoch=stop_after(n), **options)
    assert denoise(picture, **options).tobytes() == whole.tobytes()


def test_killed_at_any_moment_it_comes_to_the_same(tmp_path):
    """SIGKILL, several times: while it trains, while it saves, while it looks again."""
    out, rng = tmp_path / "out.npy", random.Random(0)
    command = [*command_for(tmp_path, n_epochs=10), "--checkpoint", tmp_path / "states", "--resume"]
    epochs = []
    for n_epochs in (1, 6, 9, 15, 20):
        epochs.append(killed(command, n_epochs, rng.uniform(0, 0.03)))
        assert not out.exists()
    # Each went on from where the one before was, or one epoch before.
    assert all(before <= after + 1 for before, after in zip(epochs, epochs[1:], strict=False))
    resumed = output_of(command)
    assert resumed == output_of(command_for(tmp_path, n_epochs=10))


def command_for(folder, n_epochs=2):
    """Write a noisy picture to a folder; return arguments to restore it."""
    np.save(folder / "in.npy", noisy_scene(size=32)[1])
    files = [folder / "in.npy", "-o", folder / "out.npy"]
    return ["denoise", *files, "-v", "--threads", 1, *TINY[:-1], n_epochs]


def output_of(arguments):
    """Run the command line in this process; return what it wrote."""
    done = called(*arguments)
    assert done.returncode == 0, done.stderr
    return Path(arguments[3]).read_bytes()


def started(arguments):
    command = [sys.executable, "-m", "truvae", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def killed(arguments, n_epochs, delay):
    """Run a command; kill it some time after it told of so many epochs; return how many it told."""
    with started(arguments) as process:
        told = 0
        for line in process.stderr:
            told += line.count("epoch ")
            if told >= n_epochs:
                break
        time.sleep(delay)
        process.kill()
        told += process.stderr.read().count("epoch ")
        assert process.wait() == -signal.SIGKILL
    return told


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_signal_the_best_is_written_and_the_rest_can_follow(tmp_path, number, status):
    command = command_for(tmp_path, n_epochs=20)
    saving = [*command, "--checkpoint", tmp_path / "states"]
    with started(saving) as process:
        for line in process.stderr:
            if "epoch 5 " in line:
                process.send_signal(number)
                break
        process.stderr.read()
        assert process.wait(60) == status
    early = (tmp_path / "out.npy").read_bytes()
    resumed = output_of([*saving, "--resume"])
    assert resumed == output_of(command) != early


def test_without_room_on_the_disk_the_run_goes_on(tmp_path):
    command = command_for(tmp_path)
    saving = [*command, "--checkpoint", tmp_path / "states"]
    limit = 10_000  # enough for the picture
    done = truvae(
        *saving, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert done.returncode == 0, done.stderr
    assert "the checkpoint could not be saved" in done.stderr
    without = (tmp_path / "out.npy").read_bytes()
    assert {path.suffix for path in (tmp_path / "states").iterdir()} <= {".json", ".safetensors"}
    assert output_of([*saving, "--resume"]) == without
    assert output_of(command) == without


@pytest.mark.parametrize("n_whole", [0, 1, 4])
def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, n_whole):
    _, noisy = noisy_scene(size=32)
    options = TINY_MODEL | {"sigma": 20.0}  # so the first model has all its epochs
    whole = denoise(noisy, **options)
    save, calls = checkpoint.save_file, []

    def full_disk(tensors, path, metadata):
        calls.append(path)
        save(tensors, path, metadata)
        if len(calls) > n_whole:
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    folder = tmp_path / "states"
    with (
        pytest.warns(UserWarning, match="could not be saved: .*No space left"),
        pytest.raises(Stop),
    ):
        denoise(noisy, checkpoint=folder, on_epoch=stop_after(6), **options)
    monkeypatch.undo()
    assert not [*folder.glob("*.part")] and len(calls) > n_whole
    assert len([*folder.glob("model-*")]) == (n_whole + 3) // 4
    assert facts(denoise(noisy, checkpoint=folder, resume=True, **options)) == facts(whole)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder, never to be changed, of a run that stopped in its second model; and the run."""
    _, noisy = noisy_scene(size=32)
    folder = tmp_path_factory.mktemp("interrupted") / "states"
    with pytest.raises(Stop):
        denoise(noisy, checkpoint=folder, on_epoch=stop_after(5), **TINY_MODEL)
    return folder, noisy


def copy_of(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("name", ["model-1", "model-2"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_always_noticed(interrupted, tmp_path, name, data):
    folder, _ = interrupted
    head = (folder / "checkpoint.json").read_text()
    good = (folder / f"{name}.safetensors").read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    where = st.integers(0, header - 1) | st.integers(0, len(good) - 1)
    bad = bytearray(good[: data.draw(st.just(len(good)) | where)])
    for place in data.draw(st.lists(where, max_size=3)):
        bad[place % max(len(bad), 1) : place + 1] = data.draw(st.binary(max_size=1))
    (tmp_path / f"{name}.safetensors").write_bytes(bad)
    if bad == good:
        assert Checkpoint(tmp_path, head).load(name) is not None
    else:
        with pytest.raises(InputError, match="is damaged or of another run"):
            Checkpoint(tmp_path, head).load(name)


def test_a_state_of_another_step_or_run_is_noticed(interrupted, tmp_path):
    folder, noisy = interrupted
    mixed = copy_of(folder, tmp_path / "mixed")
    (mixed / "model-1.safetensors").replace(mixed / "model-2.safetensors")
    with pytest.raises(InputError, match=r"model-2\.safetensors is damaged or of another run"):
        denoise(noisy, checkpoint=mixed, resume=True, **TINY_MODEL)
    other = copy_of(folder, tmp_path / "other")
    with pytest.raises(Stop):
        denoise(noisy, checkpoint=tmp_path / "seed", random_state=1, on_epoch=stop_after(1),
                **TINY_MODEL)  # fmt: skip
    (tmp_path / "seed" / "model-1.safetensors").replace(other / "model-1.safetensors")
    with pytest.raises(InputError, match=r"model-1\.safetensors is damaged or of another run"):
        denoise(noisy, checkpoint=other, resume=True, **TINY_MODEL)


def test_states_of_another_sample_are_refused(interrupted, tmp_path, monkeypatch):
    """As where the memory of the machine decides how many patches to train on."""
    folder, noisy = interrupted
    plan = Wishes.plan

    def smaller(*args):
        found = plan(*args)
        models = tuple(replace(model, trained=300) for model in found.models)
        return replace(found, models=models)

    monkeypatch.setattr(Wishes, "plan", smaller)
    with pytest.raises(InputError, match="go on with as much memory as there was"):
        denoise(noisy, checkpoint=copy_of(folder, tmp_path / "x"), resume=True, **TINY_MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.eye(32)}, "is the checkpoint of another input"),
        ({"epochs": 4}, r"other options \(epochs was 3, and is 4\)"),
        ({"hidden": (33,)}, r"\(hidden was \[32\], and is \[33\]\)"),
        ({"n_states": 9}, r"\(states was 8, and is 9\)"),
        ({"random_state": 7}, r"\(seed was 0, and is 7\)"),
        ({"quality": "best"}, r'\(quality was "balanced", and is "best"\)'),
        ({"sigma": 20.0}, r"\(sigma was null, and is 20.0\)"),
        ({"time_budget": 9.0}, r"\(time budget was false, and is true\)"),
        ({"resume": False}, "holds a checkpoint already: resume it"),
    ],
)
def test_another_run_is_refused(interrupted, change, message):
    folder, noisy = interrupted
    before = {path: path.read_bytes() for path in folder.iterdir()}
    options = {"image": noisy, "checkpoint": folder, "resume": True, **TINY_MODEL}
    with pytest.raises(InputError, match=message):
        denoise(**options | change)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_another_version_is_refused(interrupted, tmp_path):
    folder, noisy = interrupted
    states = copy_of(folder, tmp_path / "states")
    head = json.loads((states / "checkpoint.json").read_text())
    for change in ({"truvae": "0.0.1"}, {"format": 99}):
        (states / "checkpoint.json").write_text(json.dumps(head | change))
        with pytest.raises(InputError, match="was saved by truvae 0.*only the same version"):
            denoise(noisy, checkpoint=states, resume=True, **TINY_MODEL)


def bad_calls(tmp, states):
    """Yield arguments that are wrong, and a part of the message."""
    for name, text in [("foreign/notes.txt", "a"), ("json/checkpoint.json", '["a"]'),
                       ("cut/checkpoint.json", "{")]:  # fmt: skip
        (tmp / name).parent.mkdir()
        (tmp / name).write_text(text)
    damaged = copy_of(states, tmp / "damaged")
    os.truncate(damaged / "model-2.safetensors", 1000)
    yield ["--resume"], "--resume goes with a --checkpoint"
    yield ["--checkpoint", states], "holds a checkpoint already: resume it"
    yield ["--checkpoint", states, "--resume", "--seed", 3], "seed was 0, and is 3"
    yield ["--checkpoint", tmp / "in.npy"], "is a file: a checkpoint is a folder"
    yield ["--checkpoint", tmp / "none" / "states"], "does not exist: create it first"
    for resume in ([], ["--resume"]):
        yield ["--checkpoint", tmp / "foreign", *resume], "other things than a checkpoint"
    for name in ("json", "cut"):
        yield ["--checkpoint", tmp / name, "--resume"], "it does not describe a checkpoint"
    yield ["--checkpoint", damaged, "--resume"], "model-2.safetensors is damaged"


def test_bad_use_is_one_line_and_status_2(interrupted, tmp_path):
    states, noisy = interrupted
    np.save(tmp_path / "in.npy", noisy)
    command = [tmp_path / "in.npy", "-o", tmp_path / "out.npy", *TINY[:-1], 3, "--states", 8]
    for arguments, message in bad_calls(tmp_path, states):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert_refused(["denoise", *command, *arguments], message)
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before


def test_bad_input_leaves_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="constant"):
        denoise(np.ones((20, 20)), checkpoint=tmp_path / "states")
    with pytest.raises(InputError, match="resume goes with a checkpoint"):
        denoise(np.eye(20), resume=True)
    assert not [*tmp_path.iterdir()]


def test_what_a_kill_may_leave_aside_is_no_hindrance(tmp_path):
    _, noisy = noisy_scene(size=32)
    folder = tmp_path / "states"
    folder.mkdir()
    (folder / "checkpoint.json.part").write_text("{")
    whole = denoise(noisy, checkpoint=folder, **TINY_MODEL)
    (folder / "final.safetensors").replace(folder / "final.safetensors.part")
    assert facts(denoise(noisy, checkpoint=folder, resume=True, **TINY_MODEL)) == facts(whole)
    assert not [*folder.glob("*.part")]


def test_several_inputs_have_a_folder_each(tmp_path):
    states, out = tmp_path / "states", tmp_path / "out"
    states.mkdir()
    out.mkdir()
    inputs = []
    for seed in (0, 1):
        inputs.append(tmp_path / f"{seed}.npy")
        np.save(inputs[-1], noisy_scene(size=32, seed=seed)[1])
    command = [*inputs, "-o", out, "--checkpoint", states, "-q", *TINY]
    done = called("denoise", *command)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in states.iterdir()} == {"0", "1"}
    first = [(out / path.name).read_bytes() for path in inputs]
    (states / "1" / "final.safetensors").unlink()
    done = called("denoise", *command, "--resume")
    assert done.returncode == 0, done.stderr
    assert [(out / path.name).read_bytes() for path in inputs] == first


def test_recordings_have_checkpoints_too(tmp_path, monkeypatch):
    write_sound(tmp_path / "in.wav", Sound(0.4 * np.nan_to_num(gappy(900)), RATE))
    out, states = tmp_path / "out.wav", tmp_path / "states"
    command = ["denoise", tmp_path / "in.wav", "-o", out, "-q", "--quality", "fast"]
    plain = output_of(command)
    saving = [*command, "--checkpoint", states]
    assert output_of([*saving, "--resume"]) == plain  # there was none
    monkeypatch.delattr(audio_job, "look_again")
    out.unlink()
    assert output_of([*saving, "--resume"]) == plain
    out.unlink()
    for change, message in [([], "holds a checkpoint already"),
                            (["--resume", "--channels", "separate"], 'channels was "joint"'),
                            (["--resume", "--seed", 3], "seed was 0, and is 3")]:  # fmt: skip
        assert_refused([*saving, *change], message)
    write_sound(tmp_path / "in.wav", Sound(0.4 * np.nan_to_num(gappy(900)), RATE + 1))
    assert_refused([*saving, "--resume"], "sample rate was 8000, and is 8001")
    write_sound(tmp_path / "in.wav", Sound(0.3 * np.nan_to_num(gappy(900)), RATE))
    assert_refused([*saving, "--resume"], "checkpoint of another input")
    write_sound(tmp_path / "in.wav", Sound(0.4 * np.nan_to_num(gappy(900)), RATE))
    os.truncate(next(states.glob("*final.safetensors")), 1000)
    assert_refused([*saving, "--resume"], "final.safetensors is damaged")
    assert not out.exists()


def assert_refused(arguments, message):
    """Check that the command line tells a mistake in one line."""
    done = called(*arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.startswith("truvae: error: ") and done.stderr.count("\n") == 1


def test_a_checkpoint_says_nothing_of_the_date(interrupted):
    folder, _ = interrupted
    head = json.loads((folder / "checkpoint.json").read_text())
    assert set(head) == {"format", "truvae", "run"}
    epochs = Checkpoint(folder, (folder / "checkpoint.json").read_text()).load("model-1").values
    assert set(epochs) == {"epochs", "seconds"}


def test_steps_beside_each_other_count_once(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(Stopwatch, "__call__", lambda watch: now[0] + watch.before)
    saves = open_checkpoint(tmp_path, False, {})
    clocks = [Clock(100.0), Clock(100.0)]
    now[0] = 10.0
    for name, clock in zip("ab", clocks, strict=True):
        saves.once(name, clock, lambda: State({}, {"x": torch.ones(1)}), 2)
    resumed = Clock(100.0)
    for name in "ab":
        assert saves.once(name, resumed, lambda: pytest.fail("is made again")).values == {}
    assert resumed.left() == pytest.approx(90)


def test_what_nothing_was_learned_of_is_not_the_result_of_a_resumed_run(tmp_path):
    picture, options = noisy_scene(size=32)[1], TINY_MODEL | {"return_result": False}
    recording = {"y": np.nan_to_num(gappy()[:, 0]), "sample_rate": RATE}
    states = tmp_path / "picture", tmp_path / "recording"
    with pytest.warns(UserWarning, match="no time to learn anything"):
        denoise(picture, time_budget=1e-9, checkpoint=states[0], **options)
    with pytest.warns(UserWarning, match="little time to learn"):
        denoise_audio(**recording, time_budget=1e-9, checkpoint=states[1], **options)
    again = [
        denoise(picture, time_budget=1e9, checkpoint=states[0], resume=True, **options),
        denoise_audio(**recording, time_budget=1e9, checkpoint=states[1], resume=True, **options),
    ]
    assert np.array_equal(again[0], denoise(picture, time_budget=1e9, **options))
    assert np.array_equal(again[1], denoise_audio(**recording, time_budget=1e9, **options))


@pytest.mark.filterwarnings("ignore:there was little time")
def test_time_that_was_used_before_counts(tmp_path, monkeypatch):
    """By a watch on which each epoch takes a second, and each process begins at some other time."""
    now = [0.0]
    monkeypatch.setattr(Stopwatch, "__call__", lambda watch: now[0] + watch.before)

    def restore(stop=lambda epoch: None, known=0, **more):
        def on_epoch(epoch):
            stop(epoch)
            now[0] += epoch.index >= known  # those before are only told again

        options = SMALL | {"epochs": 1000, "covariance": "isotropic", "time_budget": 10.0} | more
        noisy = noisy_scene(size=32)[1]
        return denoise(noisy, on_epoch=on_epoch, return_result=True, **options).history

    whole = restore()
    assert 5 < len(whole) < 20
    with pytest.raises(Stop):
        restore(stop_after(5), checkpoint=tmp_path / "states")
    now[0] = 1e6
    history = restore(known=4, checkpoint=tmp_path / "states", resume=True)
    assert len(history) == len(whole)
    assert [e.progress for e in history] == pytest.approx([e.progress for e in whole], abs=0.02)


NOISES = {
    "white": lambda: Gaussian(torch.ones(())),
    "known": lambda: Gaussian(torch.ones(()), fixed=True),
    "per feature": lambda: Gaussian(torch.ones(5)),
    "correlated": lambda: CorrelatedGaussian(torch.ones(5), torch.eye(5)),
    "diagonal": lambda: DiagonalGaussian(torch.tensor(0.1), torch.eye(5), torch.ones(5)),
    "low-rank": lambda: LowRankGaussian(torch.tensor(0.1), rank=2),
    "poisson": PoissonNoise,
}
WIDTH = {"diagonal": 10, "low-rank": 15}


@pytest.mark.parametrize(
    ("noise", "closed_form"), [*((name, False) for name in NOISES), ("white", True)]
)
def test_a_training_in_two_pieces_is_that_in_one(noise, closed_form):
    g = torch.Generator().manual_seed(0)
    data = torch.randint(9, (60, 5), generator=g).float()
    recipe = Recipe(n_latents=70, hidden=() if closed_form else (6,), n_states=6, epochs=5,
                    group=20, closed_form=closed_form)  # fmt: skip

    def untrained(seed):
        g = torch.Generator().manual_seed(seed)
        decoder = recipe.decoder(WIDTH.get(noise, 5), g)
        model = Model(recipe.prior(g.device), decoder, NOISES[noise]())
        return Training(model, recipe.states(60, g), Adam(model.parameters()), g)

    def trained(training, first=0):
        model, population, g = training.model, training.population, training.generator
        chunks, optimizer = recipe.chunks(60, data), training.optimizer
        return recipe.train(model, population, data, chunks, g, optimizer=optimizer, first=first)

    whole, start, end = untrained(0), untrained(0), untrained(1)
    assert len([*trained(whole)]) == 5
    for _ in zip(range(2), trained(start), strict=False):
        pass
    end.restore({name: tensor.clone() for name, tensor in start.tensors().items()})
    assert [epoch.index for epoch in trained(end, first=2)] == [2, 3, 4]
    found, expected = end.tensors(), whole.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_clocks_share_a_watch():
    clock = Clock(60.0)
    part = clock.without(10.0).span(0, 0.5).part(0, 2)
    part.watch.forward(20.0)
    assert part.left() == pytest.approx(5, abs=1) and clock.left() == pytest.approx(40, abs=1)
    assert clock.part(1, 2).left() == pytest.approx(40, abs=1)


def test_a_clock_tells_the_time_where_it_runs_ahead_of_the_work():
    told = []
    clock = Clock(60.0, told.append)
    assert clock.go_on(0.1)
    clock.watch.forward(30.0)
    assert clock.go_on(0.2) and clock.go_on(0.8)
    clock.watch.forward(40.0)
    assert not clock.go_on(0.9)
    assert told == pytest.approx([0.1, 0.5, 0.8, 1.0], abs=0.02)
    assert Clock().go_on(0.0) and not Clock(should_stop=lambda: True).go_on(0.0)


def test_a_run_of_numpy_numbers_is_the_same_run(tmp_path):
    states = open_checkpoint(tmp_path, False, {"hidden": (np.int64(3),), "sigma": np.float64(2)})
    states.save("step", {}, {})
    for sigma in (2.0, 2):
        again = open_checkpoint(tmp_path, True, {"hidden": [3], "sigma": sigma})
        assert again.load("step") is not None
    assert {path.name for path in Path(tmp_path).iterdir()} == {
        "checkpoint.json",
        "step.safetensors",
    }
