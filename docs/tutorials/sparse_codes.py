"""
Sparse codes of natural pictures
================================

A linear decoder with binary latents is binary sparse coding. Trained on whitened patches of natural
pictures, its fields become oriented and localised, like the edges that the patches are made of.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import data
from skimage.color import rgb2gray
from skimage.transform import downscale_local_mean

from truvae import (
    Bernoulli,
    Gaussian,
    GradientFlips,
    Model,
    Neighbours,
    Population,
    ShuffledChunks,
    datasets,
    linear,
    training,
)
from truvae.optim import OneCycle

# %%
# The data
# --------
# Five pictures that ship with scikit-image, in grey and at half their size, give 6000 patches of
# 10 x 10 pixels. ``datasets.whitened_patches`` whitens them: all principal axes that are kept have
# the same variance, so that there is more to learn than the strongest ones.

SIZE, N = 10, 6000
colour = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
pictures = [data.camera() / 255, *(rgb2gray(picture) for picture in colour)]
pictures = [downscale_local_mean(picture, (2, 2)) for picture in pictures]
patches = datasets.whitened_patches(pictures, N, SIZE, keep=0.99, random_state=0)
x = torch.as_tensor(patches, dtype=torch.float32)


def show(fields, rows, columns):
    """Show patches, each scaled by its own largest value; zero is grey."""
    figure, axes = plt.subplots(rows, columns, figsize=(0.6 * columns, 0.6 * rows))
    figure.subplots_adjust(0, 0, 1, 1, 0.06, 0.06)
    for axis, field in zip(axes.flat, fields.reshape(-1, SIZE, SIZE), strict=False):
        most = abs(field).max()
        axis.imshow(field, cmap="gray", vmin=-most, vmax=most)
        axis.set_axis_off()


show(patches[::300], 2, 10)

# %%
# Learning
# --------
# H = 100 latents, three of them active at the start. States are offered by gradient, and those of
# the other 127 patches that go through an E-step together. The last epochs learn the prior too.

H = 100
g = torch.Generator().manual_seed(0)
model = Model(
    Bernoulli(torch.full((H,), 3 / H)), linear(H, SIZE**2, generator=g), Gaussian(x.var())
)
population = Population.random(N, n_states=24, n_latents=H, probability=3 / H, generator=g)
for epoch in training.fit(
    model,
    population,
    x,
    epochs=12,
    chunks=ShuffledChunks(N, 128),
    search=[GradientFlips(), Neighbours()],
    generator=g,
    rate=OneCycle(0.01),
):
    print(f"epoch {epoch.index + 1:2}: F {epoch.elbo:7.2f} nats, ", end="")
    print(f"sigma {epoch.sigma:.3f}, {epoch.active_latents:.2f} of {H} latents active")

# %%
# The fields
# ----------
# What each latent adds to a patch, the most active ones first: lines and gratings of one
# orientation at one place.

order = model.prior.pi.argsort(descending=True)
fields = model.decoder.first.weight.detach().T[order]
show(fields.numpy(), 10, 10)

# %%
# The codes
# ---------
# The best of the states that a patch keeps says which of the fields it is made of. Few are active.

best = population.log_joint.argmax(1)
words = population.words[torch.arange(N), best]
with torch.no_grad():
    explained, _ = model.decode(words)
show(np.stack([patches[:1500:150], explained[:1500:150].numpy()]), 2, 10)
residual = (x - explained).square().mean() / x.square().mean()
print(f"share of the variance that the best states leave: {residual:.2f}")
