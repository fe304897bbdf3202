"""A GPU that is none, and what tests/test_gpu.py has it do: `pretended_gpu.py FILE`.

Its tensors live on the CPU, but claim to be elsewhere and refuse what those of a real one refuse:
to be combined with others, to be filled by a generator of another device, to become arrays.
"""

import sys
import tempfile
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch as dispatch
from torch.utils._pytree import tree_leaves, tree_map

import truvae
from truvae import (
    audio,
    checks,
    estimator,
    fitting,
    proposals,
    report,
    restore,
    settings,
    sound_report,
    tiles,
    training,
)

GPU = torch.device("privateuseone", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten
# What may take tensors of two devices: copies, and indices from the CPU.
COPIES = {aten._to_copy.default, aten.copy_.default}
INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}

copied = set()
"""Files of truvae that copied tensors from one device to the other."""


class Generator(torch.Generator):
    """Claims to be on the device that it was made for."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.claimed = torch.device(device)
        return made

    @property
    def device(self):
        return self.claimed


class OnGpu(torch.Tensor):
    """Claims to be on the GPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=GPU,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert a tensor on a GPU to numpy: use Tensor.cpu() first")

    def __array__(self, *_, **__):
        return self.numpy()


def compute(func, args, kwargs):
    """Do on the CPU what is asked of tensors on either device."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, OnGpu)]
    here = [x for x in tensors if not isinstance(x, OnGpu) and x.ndim > 0]
    mixed = func in INDICES and isinstance(args[0], OnGpu)
    if there and here and func not in COPIES and not mixed:
        raise RuntimeError(f"expected all tensors to be on the same device: {func}")
    device = kwargs.get("device")
    on_gpu = bool(there) if device is None else torch.device(device).type == GPU.type
    if func is aten.copy_.default:
        on_gpu = isinstance(args[0], OnGpu)
    if func in COPIES and tensors[-1].ndim > 0 and on_gpu != isinstance(tensors[-1], OnGpu):
        frames = [f.filename for f in traceback.extract_stack() if f.filename != __file__]
        copied.update({Path(name).name for name in frames[-8:] if "truvae" in name})
    if device is not None:
        kwargs = kwargs | {"device": CPU}
    inner_args, inner_kwargs = tree_map(
        lambda x: x.inner if isinstance(x, OnGpu) else x, (args, kwargs)
    )
    with dispatch._disable_current_modes():
        out = func(*inner_args, **inner_kwargs)
        if func in COPIES and on_gpu and not there:  # a copy within the CPU may be the same memory
            out = out.clone()
    if not on_gpu:
        return out
    out = tree_map(lambda x: OnGpu(x) if isinstance(x, torch.Tensor) else x, out)
    return dispatch.return_and_correct_aliasing(func, args, kwargs, out) if there else out


class Made(dispatch.TorchDispatchMode):
    """Makes tensors on the GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Asked(TorchFunctionMode):
    """Makes tensors from values, which torch would send past `Made`; checks generators."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func is torch.Tensor.new_tensor and isinstance(args[0], OnGpu):
            return torch.tensor(args[1], dtype=args[0].dtype).to(GPU)
        if func in (torch.tensor, torch.as_tensor) and device is not None:
            return func(*args, **{k: v for k, v in kwargs.items() if k != "device"}).to(device)
        out = func(*args, **kwargs)
        drawn = isinstance(out, torch.Tensor) and out.device.type
        for x in (*args, *kwargs.values()):
            if isinstance(x, Generator) and drawn and x.device.type != drawn:
                raise RuntimeError(f"expected a generator on {drawn}, not on {x.device}: {func}")
        return out


SIDE, RATE = 24, 8000
SMALL = {"n_latents": 16, "hidden": (16,), "n_states": 8, "epochs": 3}


def scene(share=0.0):
    """Return a noisy picture of a few edges, some of it missing."""
    rng = np.random.default_rng(0)
    clean = np.add.outer(np.arange(SIDE) // 8 % 2 * 60.0, np.arange(SIDE) // 5 % 3 * 40.0)
    noisy = clean + rng.normal(0, 20, clean.shape)
    return np.where(rng.random(clean.shape) < share, np.nan, noisy)


def sound():
    """Return a noisy tone in two channels."""
    tone = np.sin(np.arange(RATE // 4) * 0.3)[:, None] * [1.0, 0.5]
    return tone + np.random.default_rng(0).normal(0, 0.1, tone.shape)


def table(noise, missing=0.0):
    """Return what an estimator that was saved and loaded makes of a table, by all its methods."""
    rng = np.random.default_rng(0)
    x = np.repeat(np.eye(4), 25, axis=0)
    x = {
        "gaussian": x + rng.normal(0, 0.1, x.shape),
        "bernoulli": x,
        "poisson": rng.poisson(3 * x),
    }[noise]
    x = np.where(rng.random(x.shape) < missing, np.nan, x)

    def fitted(device, folder):
        options = {"max_epochs": 4, "random_state": 0, "device": device, "noise": noise}
        est = truvae.TVAE(6, (8,), 8, **options).fit(x)
        est.save(folder / "model")
        again = truvae.TVAE.load(folder / "model", device=device)
        codes = again.encode(x)
        parts = (
            again.transform(x),
            again.inverse_transform(codes),
            again.sample(5, 0),
            est.reconstruct(x),
        )
        return np.concatenate([part.ravel() for part in (again.score_samples(x), *parts)])

    return fitted


def picture(noisy, **options):
    return lambda device, folder: truvae.denoise(noisy, device=device, **(SMALL | options))


def large(device, folder):
    """Restore a picture by tiles, with a checkpoint, and the same once more from that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "_TRAINED", (200, 200))
        patch.setattr(fitting, "tiles", lambda places, most: tiles.tiles(places, 81))
        options = SMALL | {"covariance": "dct", "device": device, "checkpoint": folder / "saved"}
        first = truvae.denoise(scene(), **options)
        again = truvae.denoise(scene(), resume=True, **options)
    return np.stack([first, again])


def reported(device, folder):
    """Write all pages and the model of a picture and of a recording."""
    options = {"device": device, "return_result": True}
    found = truvae.denoise(scene(), **options, **SMALL)
    report.write_report(folder / "picture.html", found, scene(), {"sigma": found.sigma})
    truvae.save_model(folder / "model", found.model)
    heard = truvae.denoise_audio(sound(), sample_rate=RATE, epochs=1, **options)
    sound_report.write_sound_report(folder / "sound.html", heard, sound(), {"sigma": heard.sigma})
    return found.restored


def loop(device, folder):
    """Train by each kind of proposals, as researchers do; return the bounds."""
    where = GPU if device == "cuda" else CPU
    searches = [proposals.Evolution(n_parents=3, n_children=2), proposals.Neighbours(),
                proposals.GradientFlips(3), proposals.Random(4), proposals.PriorSamples(4),
                proposals.PosteriorSamples(4), proposals.Exhaustive()]  # fmt: skip
    bounds = []
    for search in searches:
        g = torch.Generator(where).manual_seed(0)
        data = torch.randn(100, 16, generator=g, device=where)
        data[3, 4] = torch.nan
        prior = truvae.Bernoulli(torch.full((8,), 1 / 8, device=where))
        decoder = truvae.MLP(8, (8,), 16, generator=g)
        model = truvae.Model(prior, decoder, truvae.Gaussian(torch.tensor(1.0, device=where)))
        n_states = 256 if isinstance(search, proposals.Exhaustive) else 16
        states = truvae.Population.random(100, n_states, 8, 1 / 8, g)
        chunks = truvae.NearChunks(torch.nan_to_num(data), 32, 2)
        *_, last = training.fit(model, states, data, epochs=2, chunks=chunks, search=[search],
                                generator=g)  # fmt: skip
        bounds.append(last.elbo)
    return np.array(bounds)


def in_colour(noisy):
    return np.stack([noisy, noisy[::-1], noisy.T], -1)


CASES = {
    "isotropic": picture(scene(), covariance="isotropic"),
    "best": picture(scene(), quality="best"),
    "counts": picture(np.random.default_rng(0).poisson(np.abs(scene())), noise="poisson-gaussian"),
    "cut off": picture(np.clip(scene(), 20, 100), quality="fast"),
    "gaps": picture(scene(0.4)),
    "few gaps": picture(scene(0.01)),
    "colour": picture(in_colour(scene()), channel_axis=-1),
    "stack": picture(np.stack([scene(), scene()[::-1]]), stack="shared"),
    "preset": picture(scene(0.5), preset="paper:inpaint-house-50", epochs=1, n_states=16),
    "sound": lambda device, folder: truvae.denoise_audio(
        sound(), sample_rate=RATE, device=device, epochs=1
    ),
    "rows": table("gaussian"),
    "rows with gaps": table("gaussian", 0.2),
    "bits": table("bernoulli"),
    "numbers": table("poisson"),
    "large": large,
    "reported": reported,
    "loop": loop,
}


def main(path):
    """Do everything on the CPU and on the GPU; save what came of it."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("gpu")  # it changes torch for good
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.Generator = Generator
    for module in (restore, audio, estimator, checks):
        module.device_called = {"cpu": CPU, "cuda": GPU}.get
    found = {}
    for name, case in CASES.items():
        for device in ("cpu", "cuda"):
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                for mode in (Asked(), Made()) if device == "cuda" else ():
                    stack.enter_context(mode)
                copied.clear()
                try:
                    found[name, device] = case(device, Path(folder))
                except Exception:
                    found[name, device] = traceback.format_exc()
            found[name, device, "copied"] = set(copied)
    torch.save(found, path)


if __name__ == "__main__":
    main(sys.argv[1])
