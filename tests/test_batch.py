"""Many files: which they are, several at a time, errors, crashes, signals, models in common."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import called, strict, truvae
from test_restore import noisy_scene
from test_workers import is_gone

from truvae import batch
from truvae.errors import InputError
from truvae.io import read_picture

TINY = ["--latents", "16", "--hidden", "16", "--states", "8", "--epochs", "1", "--quality", "fast"]


@pytest.fixture
def pictures(tmp_path):
    """A folder with three small noisy pictures a, b and c, and an empty folder beside it."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "out").mkdir()
    for seed, name in enumerate("abc"):
        _, noisy = noisy_scene(size=24, seed=seed)
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def records(done):
    """Return the records by the names of the inputs."""
    return {Path(r["input"]).name: r for r in map(strict, done.stdout.splitlines())}


# Which files


def test_files_of_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/deep/er/b.tif", "in/deep/c.txt", "in/d.jpg", "e[1].png", "e1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in/folder.png").mkdir()
    (tmp_path / "out").mkdir()

    def found(*inputs):
        return [(str(source), str(target)) for source, target in batch.pair(inputs, "out")]

    assert found("in") == [("in/a.png", "out/a.png"), ("in/d.jpg", "out/d.png")]
    assert found("in/*", "in") == found("in")
    assert found("in/**/*.tif") == [("in/deep/er/b.tif", "out/b.tif")]
    assert found("in/**", "in/a.png") == [*found("in"), *found("in/**/*.tif")]
    assert batch.pair(["e[1].png"], "x.png") == [(Path("e[1].png"), Path("x.png"))]
    assert found("e?.png") == [("e1.png", "out/e1.png")]
    kinds = "no PNG, JPEG, TIFF, NPY, WAV, FLAC or OGG"
    with pytest.raises(InputError, match=rf"{kinds} files in out"):
        found("out")
    with pytest.raises(InputError, match=rf"{kinds} file matches n\[1\].png"):
        batch.pair(["n[1].png"], "x.png")
    with pytest.raises(InputError, match="give an existing folder"):
        batch.pair(["*.png"], "none")


# One at a time, or several


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes on Linux")
@pytest.mark.parametrize("jobs", [1, 2])
def test_names_that_cannot_be_printed_are_escaped(pictures, tmp_path, jobs):
    (pictures / "a.png").rename(pictures / "a\udcff.png")
    done = truvae("denoise", pictures, "-o", tmp_path / "out", "-q", "--jobs", jobs, *TINY,
                  env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 and "a\\udcff.png  sigma" in done.stdout


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bad_file_does_not_stop_the_others(pictures, tmp_path, jobs):
    (pictures / "bad.png").write_text("hello")
    done = truvae("denoise", pictures / "*.png", "-o", tmp_path / "out", "--json", "--jobs", jobs,
                  *TINY)  # fmt: skip
    assert done.returncode == 1
    told = records(done)
    assert set(told) == {"a.png", "b.png", "c.png", "bad.png"}
    assert set(told.pop("bad.png")) == {"input", "error"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(told)
    table = done.stderr[done.stderr.index("file ") :].splitlines()
    assert table[0].split() == ["file", "sigma", "seconds", "error"]
    assert sorted(Path(line.split()[0]).name for line in table[1:]) == [*sorted({*told, "bad.png"})]
    (failed,) = (line for line in table if "bad.png" in line)
    assert "is not a picture" in failed
    for name, record in told.items():
        (line,) = (line for line in table if f"{name} " in line)
        assert line.split()[1] == f"{record['sigma']:.4g}"


def test_several_processes_restore_as_one_does(pictures, tmp_path):
    for jobs, name in ((1, "one"), (2, "two")):
        (tmp_path / name).mkdir()
        done = truvae("denoise", pictures, "-o", tmp_path / name, "--jobs", jobs, "--threads", 1,
                      "--add-noise", 5, "-q", *TINY)  # fmt: skip
        assert done.returncode == 0 and done.stderr == ""
        assert len(done.stdout.splitlines()) == 3 and "PSNR" in done.stdout
    for name in ("a.png", "b.png", "c.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_exists_is_skipped_but_never_the_input(pictures, tmp_path):
    (tmp_path / "out" / "b.png").write_text("mine")
    done = truvae("denoise", pictures, "-o", tmp_path / "out", "--skip-existing", "--json", *TINY)
    assert done.returncode == 0, done.stderr
    told = records(done)
    assert told["b.png"] == {"input": str(pictures / "b.png"), "skipped": True,
                             "output": str(tmp_path / "out" / "b.png")}  # fmt: skip
    assert (tmp_path / "out" / "b.png").read_text() == "mine"
    assert told["a.png"]["epochs"] == 1 and "b.png skipped: the output exists" in done.stderr
    done = truvae("denoise", pictures, "-o", tmp_path / "out", "--skip-existing", *TINY)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr == "truvae: note: 3 files skipped: the output exists\n"
    done = truvae("denoise", pictures, "-o", pictures, "--skip-existing", *TINY)
    assert done.returncode == 1 and "is an input" in done.stderr


# Signals


def started(pictures, out, *options):
    command = [sys.executable, "-m", "truvae", "denoise", pictures, "-o", out, "--jobs", "2",
               *TINY, *options]  # fmt: skip
    # In a group of its own, all of which gets the signal, as from a terminal.
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def children(pid):
    """Return the processes that a process has started, but for the one that tidies up."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except OSError:
            continue
        if parent == pid and "spawn_main" in command:
            found.append(int(path.name))
    return found


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def seconds_of(pid):
    """Return the processor time that a process has taken; it imports for one or two seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@on_linux
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_with_their_best_so_far(pictures, tmp_path, number, status):
    with started(pictures, tmp_path / "out", "--json", "--epochs", "1000000") as process:
        workers = wait_for(lambda: len(c := children(process.pid)) == 2 and c)
        wait_for(lambda: all(seconds_of(pid) > 4 for pid in workers))
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == status
    told = {Path(json.loads(line)["input"]).name for line in stdout.splitlines()}
    assert told == {"a.png", "b.png"} and "Traceback" not in stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"a.unfinished.png", "b.unfinished.png"}
    assert all(is_gone(pid) for pid in workers)


@pytest.mark.parametrize("shared", [[], ["--shared-model"]])
def test_what_was_interrupted_is_not_taken_for_done(pictures, tmp_path, monkeypatch, shared):
    from truvae import files

    restore = files._restore

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return restore(*arguments)

    def outputs():
        return {path.name for path in (tmp_path / "out").iterdir()}

    command = ["denoise", pictures, "-o", tmp_path / "out", "--skip-existing", "--json", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(files, "_restore", interrupted)
        done = called(*command, *shared)
    told = records(done)
    aside = {f"{name[0]}.unfinished.png" for name in told}
    assert done.returncode == 130 and "a.png" in told and outputs() == aside
    assert all(record["interrupted"] for record in told.values())
    assert told["a.png"]["output"] == str(tmp_path / "out" / "a.unfinished.png")
    told = records(called(*command, *shared))
    assert outputs() == set(told) == {"a.png", "b.png", "c.png"}
    assert not any(record["interrupted"] for record in told.values())


@on_linux
@pytest.mark.parametrize("numbers", [[signal.SIGINT] * 2, [signal.SIGKILL]])
def test_no_process_outlives_a_program_that_quits_at_once(pictures, tmp_path, numbers):
    with started(pictures, tmp_path / "out", "--epochs", "1000000") as process:
        workers = wait_for(lambda: len(c := children(process.pid)) == 2 and c)
        # Before that, Python itself still waits for what to do, and is loud about its end.
        wait_for(lambda: all(seconds_of(pid) > 1 for pid in workers))
        for number in numbers:
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            time.sleep(0.5)  # two at once count as one on a busy machine
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert all(is_gone(pid) for pid in workers)
    assert "Traceback" not in stderr, stderr
    assert [*(tmp_path / "out").iterdir()] == []


@on_linux
def test_a_killed_process_is_one_line(pictures, tmp_path):
    with started(pictures, tmp_path / "out", "--json", "--time-budget", "8") as process:
        workers = wait_for(lambda: len(c := children(process.pid)) == 2 and c)
        os.kill(workers[0], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 1
    told = [json.loads(line) for line in stdout.splitlines()]
    (failed,) = (record for record in told if "error" in record)
    assert failed["error"] == (
        "its process was killed by SIGKILL; if memory ran out, take fewer --jobs"
    )
    assert len(told) == 3 and len([*(tmp_path / "out").iterdir()]) == 2
    assert "Traceback" not in stderr


# Models in common


def test_pictures_with_models_in_common(pictures, tmp_path):
    (pictures / "bad.png").write_text("hello")
    (tmp_path / "pages").mkdir()
    done = called("denoise", pictures, "-o", tmp_path / "out", "--shared-model", "--json",
                  "--save-model", tmp_path / "model", "--report", tmp_path / "pages",
                  *TINY)  # fmt: skip
    assert done.returncode == 1
    told = records(done)
    assert "is not a picture" in told.pop("bad.png")["error"]
    assert set(told) == {"a.png", "b.png", "c.png"}
    assert {record["sigma"] for record in told.values()} == {told["a.png"]["sigma"]}
    assert told["a.png"]["frames"] == 3 and (tmp_path / "model" / "config.json").exists()
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {"a.html", "b.html", "c.html"}
    # It is what a stack of the pictures gives.
    stack = np.stack([read_picture(pictures / name).data for name in sorted(told)])
    np.save(tmp_path / "stack.npy", stack)
    called("denoise", tmp_path / "stack.npy", "-o", tmp_path / "out.npy", "--stack", "shared",
           *TINY)  # fmt: skip
    for name, expected in zip(sorted(told), np.load(tmp_path / "out.npy"), strict=True):
        np.testing.assert_array_equal(read_picture(tmp_path / "out" / name).data, expected)


def test_inpainting_with_a_model_in_common(pictures, tmp_path):
    done = truvae("inpaint", pictures, "-o", tmp_path / "out", "--shared-model", "--json",
                  "--drop", 0.2, "-q", *TINY)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = records(done)
    for place, name in enumerate(sorted(told)):
        missing = np.random.default_rng([0, place] if place else 0).random((24, 24)) < 0.2
        record = told[name]
        before, after = (read_picture(p / name).data for p in (pictures, tmp_path / "out"))
        np.testing.assert_array_equal(after[~missing], before[~missing])
        assert record["missing"] == pytest.approx(missing.mean()) and record["psnr"] > 10


def test_pictures_with_models_in_common_have_noise_of_their_own(pictures, tmp_path, monkeypatch):
    """What they shared would be taken for signal. The first is damaged as it is alone."""
    from truvae import files

    clean, seen = [read_picture(pictures / name).data for name in ("a.png", "b.png")], []
    restore = files._restore
    monkeypatch.setattr(files, "_restore", lambda experiment, *rest: (
        seen.append(experiment.damaged), restore(experiment, *rest))[1])  # fmt: skip
    (pictures / "c.png").unlink()
    command = ["-o", tmp_path / "out", "--add-noise", 20, "--seed", 3, "-q", *TINY]
    assert called("denoise", pictures, "--shared-model", *command).returncode == 0
    assert called("denoise", pictures, *command).returncode == 0
    together, *alone = seen
    noise = together - np.stack(clean)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_allclose(alone[0] - clean[0], alone[1] - clean[1])


def test_pictures_that_cannot_share_models_are_told(pictures, tmp_path):
    _, noisy = noisy_scene(size=32)
    np.save(pictures / "d.npy", noisy)
    done = truvae("denoise", pictures, "-o", tmp_path / "out", "--shared-model", *TINY)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "a.png has shape (24, 24) of uint8" in done.stderr
    assert "d.npy (32, 32) of float64" in done.stderr
    done = truvae("denoise", pictures, "-o", tmp_path / "out", "--shared-model", "--jobs", 2)
    assert done.returncode == 2 and "leave --jobs out" in done.stderr


def test_a_result_that_cannot_be_written_does_not_stop_the_others(pictures, tmp_path, monkeypatch):
    from truvae import cli, files

    def write(path, picture, write=files.write_picture):
        if path.name == "b.png":
            raise OSError("no room")
        return write(path, picture)

    monkeypatch.setattr(files, "write_picture", write)
    command = ["denoise", str(pictures), "-o", str(tmp_path / "out"), "--shared-model", "-q"]
    assert cli.app([*command, *map(str, TINY)], standalone_mode=False) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "c.png"}
