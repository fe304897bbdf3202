"""What the loop costs beside a user's own convolutional decoder: an epoch and its bare parts."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import machine, publish, table
from truvae import (
    Bernoulli,
    Gaussian,
    GradientFlips,
    Model,
    NearChunks,
    Neighbours,
    Population,
    training,
)

SIDE, N_LATENTS, N_STATES = 12, 64, 16


class Convolutional(nn.Module):
    """Codes to patches by two transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(N_LATENTS, 32 * 3 * 3)
        self.grow = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Decode states (n, H) into patches (n, 1, 12, 12)."""
        return self.grow(self.start(z).view(-1, 32, 3, 3))


class Counted(nn.Module):
    """A decoder that keeps how long its passes take, and of how many states they are."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.calls = decoder, []

    def forward(self, z: Tensor) -> Tensor:
        """Decode, and note the number of states and whether gradients are wanted, and of what."""
        wanted = torch.is_grad_enabled()
        self.calls.append((len(z), wanted, z.requires_grad))
        return self.decoder(z)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--n-data", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Time epochs of the loop, then the same passes without anything around them."""
    torch.set_num_threads(options.threads)
    g = torch.Generator().manual_seed(options.seed)
    torch.manual_seed(options.seed)
    x = torch.randn(options.n_data, SIDE * SIDE, generator=g)
    decoder = Counted(Convolutional())
    model = Model(Bernoulli(torch.full((N_LATENTS,), 5 / N_LATENTS)), decoder, Gaussian(x.var()))
    population = Population.random(len(x), N_STATES, N_LATENTS, 5 / N_LATENTS, g)
    epochs = training.fit(
        model, population, x, epochs=options.epochs, chunks=NearChunks(x[:, :48]),
        search=[GradientFlips(), Neighbours()], generator=g,
    )  # fmt: skip
    loop, bare = [], []
    for epoch in epochs:
        calls, decoder.calls = decoder.calls, []
        loop.append(epoch.seconds)
        bare.append(_timed(lambda calls=calls: _passes(decoder.decoder, model, x, calls)))
    ratios = np.array(loop) / bare
    text = (
        f"A convolutional decoder of one's own (64 latents to {SIDE} x {SIDE} pixels) in "
        f"`training.fit`, {options.n_data} data points, S = {N_STATES}, seed {options.seed}: "
        "seconds of an epoch, and of its bare forward and backward passes with the products that "
        f"score the same states, in the same run. {machine()}."
    )
    rows = [[str(i), f"{a:.2f}", f"{b:.2f}", f"{r:.2f}"]
            for i, (a, b, r) in enumerate(zip(loop, bare, ratios, strict=True))]  # fmt: skip
    publish("decoder", f"{text}\n\n{table(['epoch', 'loop, s', 'bare, s', 'ratio'], rows)}")


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _passes(
    decoder: nn.Module, model: Model, x: Tensor, calls: list[tuple[int, bool, bool]]
) -> None:
    """Decode as many states as often as the loop did, and score them."""
    for n, wanted, of_states in calls:
        z = (torch.rand(n, N_LATENTS) < 0.08).float().requires_grad_(of_states)
        with torch.set_grad_enabled(wanted):
            means = decoder(z).flatten(1)
            if wanted:
                means.square().mean().backward()
            else:
                model.noise.log_likelihood(x[:256], means)
