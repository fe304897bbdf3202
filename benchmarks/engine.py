"""Time the E-step and the M-step against the bare matrix products of the same work.

The work is counted as if every pair of data point and state went through the decoder by itself,
before any state is found twice. Then time whole epochs of the default models: on one thread, with
more of them inside each operation, and with E-steps and M-steps beside each other; and looks at the
picture with one thread and with more.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from skimage.data import camera

from benchmarks.report import machine, publish, table
from truvae import MLP, Bernoulli, Gaussian, GradientFlips, Model, NearChunks, Neighbours
from truvae.moments import Statistics
from truvae.noise import DiagonalGaussian, Noise
from truvae.optim import Adam
from truvae.patches import Features, Patches, cosine_basis
from truvae.population import Population
from truvae.refine import refine
from truvae.settings import Settings, choose
from truvae.training import e_step, fit, m_step

# Patch size, latents, hidden units, states.
SIZES = [(8, 64, (64,), 200), (8, 256, (256,), 64), (12, 512, (512,), 64), (8, 128, (1024,), 16)]
CHILDREN = 16
# Patch sizes of looks.
LOOKS = (6, 8, 10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure all sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in training, where steps go on beside each other
    rows = [measure(*size, options) for size in SIZES]
    header = ["decoder", "S", "states scored / s", "E-step s", "bare products s",
              "bare / ours", "distinct", "M-step s", "bare products s", "bare / ours"]  # fmt: skip
    text = (
        "Medians over chunks of 2048 patches of a noisy picture (scikit-image's camera, sigma 25) "
        f"after one epoch. Bare products: float32, one row for each pair. Seed {options.seed}. "
        f"{machine()}."
    )
    publish("engine", f"{text}\n\n{table(header, rows)}")
    torch.set_num_threads(threads)
    header = ["model", "one thread s", f"{threads} inside operations s", "beside each other s",
              "one thread / beside"]  # fmt: skip
    text = (
        "Second epoch of the models that `balanced` fits to scikit-image's camera (256 x 256, "
        f"sigma 25). Seed {options.seed}. {machine()}."
    )
    rows = [epochs(settings, threads, options.seed) for settings in default_models()]
    publish("engine, epochs", f"{text}\n\n{table(header, rows)}")
    header = ["patch size", "one thread s", f"{threads} beside each other s", "ratio"]
    text = (
        "A look (`refine`) at scikit-image's camera (256 x 256, sigma 25), given it with noise of "
        f"6: medians. Seed {options.seed}. {machine()}."
    )
    rows = [looks(size, threads, options) for size in LOOKS]
    publish("engine, looks", f"{text}\n\n{table(header, rows)}")


def looks(size: int, threads: int, options: argparse.Namespace) -> list[str]:
    """Time a look at patches of one size with one thread and with more."""
    g = torch.Generator().manual_seed(options.seed)
    noisy = torch.as_tensor(noisy_picture(options.seed), dtype=torch.float32)
    clean = torch.as_tensor(part_of_camera(), dtype=torch.float32)
    estimate = clean + 6 * torch.randn(clean.shape, generator=g)
    medians = []
    for n in (1, threads):
        torch.set_num_threads(n)
        seconds = []
        for _ in range(1 + options.repeats):
            start = time.perf_counter()
            refine(noisy, estimate, 25.0, size)
            seconds.append(time.perf_counter() - start)
        medians.append(statistics.median(seconds[1:]))
    return [str(size), *(f"{s:.2f}" for s in medians), f"{medians[0] / medians[1]:.2f}"]


def default_models() -> tuple[Settings, ...]:
    """Return the settings of the models of a picture of 256 x 256."""
    return choose((256, 256), 25 / float(noisy_picture(0).std()), "balanced").models


def epochs(settings: Settings, threads: int, seed: int) -> list[str]:
    """Time an epoch with one thread and two ways to use more."""
    patches = noisy_patches(settings.patch_size, seed)
    coordinates = Features.of(patches, 48)(patches)
    seconds = []
    for n, beside in ((1, True), (threads, False), (threads, True)):
        torch.set_num_threads(n)
        seconds.append(epoch(settings, patches, coordinates, seed, beside))
    name = f"{settings.covariance} {settings.n_latents}-{settings.hidden[0]}-{patches.n_entries}"
    return [name, *(f"{s:.1f}" for s in seconds), f"{seconds[0] / seconds[2]:.2f}"]


def epoch(
    settings: Settings, patches: Patches, coordinates: torch.Tensor, seed: int, beside: bool
) -> float:
    """Return the seconds of the second epoch."""
    g = torch.Generator().manual_seed(seed)
    noise: Noise = Gaussian(torch.tensor(1.0))
    if settings.covariance == "dct":
        basis = cosine_basis(patches.sides, 1)
        noise = DiagonalGaussian(torch.tensor(0.2), basis, torch.full((len(basis),), 0.8))
    n_outputs = patches.n_entries * (2 if settings.covariance == "dct" else 1)
    model = Model(settings.prior(g.device), settings.decoder(n_outputs, g), noise)
    told = fit(
        model,
        settings.states(len(patches), g),
        patches,
        epochs=settings.epochs,
        chunks=settings.chunks(len(patches), coordinates),
        search=settings.search,
        generator=g,
        rate=settings.rate(),
        minibatch=settings.minibatch,
        beside=beside,
    )
    return [next(told).seconds for _ in range(2)][1]


def measure(
    patch: int,
    n_latents: int,
    hidden: tuple[int, ...],
    n_states: int,
    options: argparse.Namespace,
) -> list[str]:
    """Train for an epoch and time the steps of a few chunks more."""
    g = torch.Generator().manual_seed(options.seed)
    patches = noisy_patches(patch, options.seed)
    model = Model(
        Bernoulli(torch.full((n_latents,), 5 / n_latents)),
        MLP(n_latents, hidden, patch**2, generator=g),
        Gaussian(torch.tensor(1.0)),
    )
    population = Population.random(len(patches), n_states, n_latents, 5 / n_latents, g)
    chunks = NearChunks(Features.of(patches, 16)(patches))
    search = [GradientFlips(1, CHILDREN), Neighbours()]
    list(fit(model, population, patches, epochs=1, chunks=chunks, search=search, generator=g))
    optimizer, statistics_of = Adam(model.decoder.parameters(), 1e-4), Statistics(model)
    seconds: dict[str, list[float]] = {name: [] for name in ("e", "bare e", "m", "bare m")}
    distinct, scored = [], []
    for chunk in chunks(g)[: options.repeats]:
        rows = torch.cat(chunk)
        pairs = len(rows) * (n_states + CHILDREN)
        start = time.perf_counter()
        pools = [e_step(model, population, patches, group, search, g)[0] for group in chunk]
        seconds["e"].append(time.perf_counter() - start)
        seconds["bare e"].append(bare(pairs, n_latents, hidden, patch**2))
        scored.append(pairs)
        distinct.append(sum(len(pool.words) for pool in pools) / pairs)
        massive = int((population.responsibilities(rows) > min(0.01, 0.5 / n_states)).sum())
        start = time.perf_counter()
        m_step(model, optimizer, population, patches, rows, statistics_of, g)
        seconds["m"].append(time.perf_counter() - start)
        # Backwards, every product is done once for the weights and once for their input.
        seconds["bare m"].append(3 * bare(massive, n_latents, hidden, patch**2))
    e, bare_e, m, bare_m = (statistics.median(seconds[name]) for name in seconds)
    return [
        "-".join(map(str, (n_latents, *hidden, patch**2))),
        str(n_states),
        f"{statistics.median(scored) / e:,.0f}",
        f"{e:.3f}",
        f"{bare_e:.3f}",
        f"{bare_e / e:.2f}",
        f"{statistics.median(distinct):.2f}",
        f"{m:.3f}",
        f"{bare_m:.3f}",
        f"{bare_m / m:.2f}",
    ]


def noisy_patches(size: int, seed: int) -> Patches:
    """Return the patches of a standardised noisy picture."""
    picture = noisy_picture(seed)
    standard = (picture - picture.mean()) / picture.std()
    return Patches(torch.as_tensor(standard, dtype=torch.float32), size)


def noisy_picture(seed: int) -> np.ndarray:
    """Return a picture of 256 x 256 with noise of 25."""
    picture = part_of_camera()
    return picture + np.random.default_rng(seed).normal(0, 25, picture.shape)


def part_of_camera() -> np.ndarray:
    """Return the part of the picture without noise."""
    return camera()[128:384, 128:384].astype(float)


def bare(pairs: int, n_latents: int, hidden: tuple[int, ...], n_observables: int) -> float:
    """Time the decoder's float32 products for so many rows, in blocks that suit the cache."""
    sizes, rows = (n_latents, *hidden, n_observables), 16_384
    layers = list(zip(sizes, sizes[1:], strict=False))
    weights = [torch.randn(i, o) for i, o in layers]
    inputs = [torch.randn(rows, i) for i, _ in layers]
    outputs = [torch.empty(rows, o) for _, o in layers]

    def block() -> None:
        for x, weight, out in zip(inputs, weights, outputs, strict=True):
            torch.mm(x, weight, out=out)

    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        block()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) * pairs / rows
