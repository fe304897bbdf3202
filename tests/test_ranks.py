"""Several processes train one model: it is the same on all, and as good as that of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ranks_worker as worker
import torch
from PIL import Image

from truvae import datasets, torchrun
from truvae.clock import Clock
from truvae.ranks import ALONE, Ranks

WORKER = Path(worker.__file__)
LIMIT = 100
TINY = ["--latents", "16", "--hidden", "32", "--states", "8"]


def command(n, *arguments):
    """Return a command for `n` processes, on a port of their own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n]
    return [*map(str, [*launch, *arguments])]


def torchrun_(n, *arguments):
    return subprocess.run(command(n, *arguments), capture_output=True, text=True, timeout=LIMIT)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What 1, 2 and 3 ranks found: found[size][rank]."""
    folder = tmp_path_factory.mktemp("ranks")
    worker.everything(ALONE, folder)
    for n in (2, 3):
        done = torchrun_(n, WORKER, "everything", folder)
        assert done.returncode == 0, done.stderr
    results = {
        n: [torch.load(folder / f"found-{n}-{rank}.pt", weights_only=False) for rank in range(n)]
        for n in (1, 2, 3)
    }
    return results | {"folder": folder}


@pytest.fixture(params=[2, 3])
def several(request, found):
    return found[request.param]


def same(a, b):
    """Tell whether two nested results are equal, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [7, 257, 4000])
def test_all_have_a_share_equal_but_for_one_from_everywhere(size, n):
    shares = [Ranks(rank, size).share(n) for rank in range(size)]
    assert torch.cat(shares).sort().values.tolist() == [*range(n)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if n == 4000:
        assert all(share.double().mean() == pytest.approx(n / 2, rel=0.15) for share in shares)
        assert all((share.diff() > 1).sum() == 7 for share in shares if size > 1)


def test_one_process_goes_its_way_as_if_there_were_no_ranks(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Ranks.join(torch.device("cpu")) is ALONE and not torch.distributed.is_initialized()
    generator, clock = torch.Generator(), Clock()
    assert ALONE.fork(generator) is generator and clock.of(ALONE) is clock
    assert torchrun.size() == 1 and torchrun.rank() == 0


def test_gradient_and_statistics_are_those_of_one_process(found, several):
    for name in ("whole", "parts"):
        alone, together = found[1][0]["of_all"][name], several[0]["of_all"][name]
        torch.testing.assert_close(together["activity"], alone["activity"], rtol=1e-12, atol=0)
        torch.testing.assert_close(together["sums"], alone["sums"], rtol=1e-12, atol=0)
        assert together["n_data"] == alone["n_data"] == worker.N
    gradients = (each["of_all"]["whole"]["gradient"] for each in (several[0], found[1][0]))
    for together, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


def test_ranks_with_fewer_points_take_as_many_steps(found):
    assert [each["of_all"]["parts"]["steps"] for each in found[3]] == [6, 6, 6]  # 85, 86, 86 points


def test_a_rank_without_points_has_no_part_in_a_gradient(found):
    assert found[2][0]["of_unequal"].tolist() == [1, 2]
    assert found[3][0]["of_unequal"].tolist() == pytest.approx([5 / 3, 10 / 3])


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no folder of files in memory")
def test_shared_memory_and_network_sum_alike(several):
    for each in several:
        (on_board, through_memory, most), (off_board, through_network, _) = each["of_sums"]
        assert on_board and not off_board and most == len(several) - 1
        torch.testing.assert_close(through_memory, through_network, rtol=1e-6, atol=0)


def test_all_ranks_have_the_same_model_bit_for_bit(several):
    first = several[0]["of_two_epochs"]
    for other in several[1:]:
        for name in ("model", "sigma", "elbo", "substitutions"):
            assert same(first[name], other["of_two_epochs"][name]), name


def test_everything_else_is_the_same_on_all_ranks(several):
    for name in ("of_all", "of_unequal", "of_bars", "of_table", "plain", "resumed", "large"):
        assert all(same(several[0][name], other[name]) for other in several[1:]), name


def test_no_bound_falls_in_an_e_step(several):
    assert all((each["of_two_epochs"]["gain"] >= -1e-5).all() for each in several)


@pytest.mark.parametrize("name", ["gradient", "closed form"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_bars_are_found(found, n, name):
    bars, truth = found[n][0]["of_bars"][name], datasets.bars(6).decoder.first.weight.T
    torch.testing.assert_close(bars["fields"], truth.detach(), rtol=0, atol=0.1)
    assert bars["sigma"] == pytest.approx(0.1, rel=0.05)
    assert bars["elbo"] == pytest.approx(found[1][0]["of_bars"]["truth"], abs=0.15)


def test_an_estimator_learns_a_table_together(several):
    table = several[0]["of_table"]
    truth = np.repeat(np.eye(4), 50, axis=0)
    assert np.sqrt(np.mean((table["reconstruction"] - truth) ** 2)) < 0.1
    assert table["reconstruction"][0, 0] > 0.5
    assert len(table["words"]) == 200  # of all ranks


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(several):
    assert same(several[0]["resumed"], several[0]["plain"])


def test_tiles_shared_out_come_to_the_same_picture(found, several):
    alone, together = found[1][0]["large"], several[0]["large"]
    assert np.sqrt(np.mean((together["picture"] - alone["picture"]) ** 2)) < 5  # of noise of 20
    assert together["elbo"] == pytest.approx(alone["elbo"], rel=0.02)


def test_a_checkpoint_serves_any_number_of_ranks(found):
    folder, plain = found["folder"], found[2][0]["plain"]
    shutil.copytree(folder / "copy-2", folder / "other")
    worker.resume(ALONE, folder)
    alone = torch.load(folder / "other-0.pt", weights_only=False)
    shutil.rmtree(folder / "other")
    shutil.copytree(folder / "copy-2", folder / "other")
    done = torchrun_(3, WORKER, "resume", folder)
    assert done.returncode == 0, done.stderr
    three = torch.load(folder / "other-0.pt", weights_only=False)
    for resumed in (alone, three):
        assert resumed["epochs"] == 4
        assert resumed["elbo"] == pytest.approx(plain["elbo"], rel=0.01)
        assert np.sqrt(np.mean((resumed["picture"] - plain["picture"]) ** 2)) < 5
        assert not same(resumed["picture"], plain["picture"])


def test_a_rank_that_dies_ends_the_job(tmp_path):
    start = time.monotonic()
    done = torchrun_(3, WORKER, "die", tmp_path)
    assert done.returncode != 0 and time.monotonic() - start < 60
    told = [line for line in done.stderr.splitlines() if line.startswith("truvae: ")]
    assert len(told) == 1 and "another process of the job has ended" in told[0]
    assert not (tmp_path / "out.npy").exists()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "small.png"
    Image.fromarray(worker.scene().clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_the_command_prints_one_record_and_restores_as_well(picture, tmp_path):
    options = ["--json", "--epochs", "6", "--add-noise", "20", *TINY]
    arguments = ["-m", "truvae", "denoise", picture, "-o", tmp_path / "out.png", *options]
    alone = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    together = torchrun_(2, *arguments)
    assert together.returncode == 0, together.stderr
    (one,), (two,) = alone.stdout.splitlines(), together.stdout.splitlines()
    one, two = json.loads(one), json.loads(two)
    assert one.keys() == two.keys() and Path(two["output"]).exists()
    assert two["psnr"] == pytest.approx(one["psnr"], abs=0.5)
    assert two["elbo"] == pytest.approx(one["elbo"], rel=0.01)
    assert one["covariances"] == two["covariances"] == ["isotropic", "dct"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denoise", "missing.png", "-o", "out.png"], "missing.png"),
        (["denoise", ".", "-o", "out", "-q"], "one file together"),
        (["info", "model"], "leave torchrun out"),
    ],
)
def test_a_mistake_is_told_once(picture, tmp_path, arguments, message):
    (tmp_path / "out").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(picture, tmp_path / name)
    done = subprocess.run(
        command(2, "-m", "truvae", *arguments),
        capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if line.startswith("truvae: ")]
    assert done.returncode != 0 and len(told) == 1 and message in told[0], done.stderr
    assert "exitcode  : 2" in done.stderr  # torchrun's own is 1
    assert done.stdout == ""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_job_writes_the_best_so_far(picture, tmp_path):
    out = tmp_path / "out.png"
    arguments = ["-m", "truvae", "denoise", picture, "-o", out, "--epochs", "100000", "-v", *TINY]
    job = subprocess.Popen(command(2, *arguments), stderr=subprocess.PIPE, text=True)
    try:
        for line in job.stderr:
            if "epoch 3 " in line:
                break
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode != 0 and out.exists()
