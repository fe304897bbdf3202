"""
Bars: learning with the exact likelihood beside the bound
=========================================================

Pictures of 4 x 4 pixels are sums of horizontal and vertical bars, with a little noise. Eight bars
make eight binary causes, so that a model of eight latents can be compared with the truth. With 256
states in all, even the exact log-likelihood is known: the bound F can be seen to approach it.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import torch

from truvae import (
    MLP,
    Bernoulli,
    Evolution,
    Gaussian,
    Model,
    Population,
    ShuffledChunks,
    datasets,
    training,
)
from truvae.optim import OneCycle

# %%
# The data
# --------
# ``datasets.bars`` returns the model that the data come from: each bar is there with probability
# 2/8, and the noise has a standard deviation of 0.1.

truth = datasets.bars(n_bars=8)
_, x = truth.sample(500, torch.Generator().manual_seed(0))


def show(pictures, titles=None):
    """Show rows of D values as square pictures."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(8, 1.2), layout="constrained")
    for k, (axis, picture) in enumerate(zip(axes, pictures, strict=True)):
        axis.imshow(picture.reshape(4, 4), cmap="gray", vmin=-0.3, vmax=2.0)
        axis.set_axis_off()
        if titles:
            axis.set_title(titles[k])


show(x[:8].numpy())

# %%
# Learning
# --------
# A model is a prior, a decoder and a noise. Each data point keeps S = 32 of the 256 states. An
# E-step offers it 3 x 2 children of its states, and keeps the best 32 of all. ``training.fit`` is a
# generator: it yields a record after each epoch.
#
# What is learned depends on where the weights start: a decoder may give one latent two bars, and
# never get rid of them. As in the paper, several starts are tried, and that with the highest bound
# is kept. No clean data are needed to choose it.


def learn(seed):
    """Return a model that was fitted to the data, and its records."""
    g = torch.Generator().manual_seed(seed)
    prior, decoder = Bernoulli(torch.full((8,), 2 / 8)), MLP(8, (8,), 16, generator=g)
    model = Model(prior, decoder, Gaussian(x.var()))
    population = Population.random(len(x), 32, n_latents=8, probability=2 / 8, generator=g)
    epochs = training.fit(
        model,
        population,
        x,
        epochs=60,
        chunks=ShuffledChunks(len(x), 100),
        search=[Evolution(n_parents=3, n_children=2)],
        generator=g,
        rate=OneCycle(0.05),
        minibatch=25,
        threshold=0.0,
    )
    return model, list(epochs)


runs = [learn(seed) for seed in range(3)]
model, history = max(runs, key=lambda run: run[1][-1].elbo)

# %%
# The bound and the exact log-likelihood
# --------------------------------------
# ``Model.log_likelihood`` sums over all 256 states. The bound F is a sum over the 32 states that a
# data point keeps (Eq. 5), so it lies below. The difference is what the search has not found.

true = float(truth.log_likelihood(x).mean())
exact = float(model.log_likelihood(x).mean())
print(f"bound F                   {history[-1].elbo:.3f} nats per data point")
print(f"exact log-likelihood      {exact:.3f}")
print(f"the same under the truth  {true:.3f}")

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for seed, (_, epochs) in enumerate(runs):
    axis.plot([epoch.elbo for epoch in epochs], label=f"start {seed}")
axis.axhline(true, color="black", linestyle=":", label="log-likelihood, truth")
axis.set(xlabel="epoch", ylabel="F, nats per data point", ylim=(-25, 12))
axis.legend()

# %%
# The model comes out above the truth, because it was fitted to these 500 data points and their
# noise. On new data it lies below.

_, fresh = truth.sample(5000, torch.Generator().manual_seed(1))
print(f"new data: model {model.log_likelihood(fresh).mean():.3f}", end=", ")
print(f"truth {truth.log_likelihood(fresh).mean():.3f}")

# %%
# What was learned
# ----------------
# The decoder's outputs for single active latents are one bar each, in no order. Above them stand
# the learned probabilities that they are active; 0.25 is true.

with torch.no_grad():
    fields = model.decode_dense(torch.eye(8)).numpy()
show(fields, [f"{p:.2f}" for p in model.prior.pi])
print(f"sigma {history[-1].sigma:.3f} (true: 0.100), ", end="")
print(f"active latents {history[-1].active_latents:.2f} (true: 2)")
