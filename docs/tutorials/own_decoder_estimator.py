"""
Bring your own decoder to scikit-learn
======================================

``truvae.TVAE`` takes any ``torch.nn.Module`` from (batch, H) zeros and ones to (batch, D) means as
its ``decoder``. With Gaussian noise the means are those of standardised data; the estimator scales
them back.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import truvae

# %%
# The data are handwritten digits of 8 x 8 pixels: 1500 to learn from, the others to compare.

X = load_digits().data
known, new = X[:1500], X[1500:]

# %%
# A decoder with tied weights: each of the 64 latents stands for one of four fields at one of 4 x 4
# places, and a bias for each pixel is added.


class Tied(nn.Module):
    """The same four fields at sixteen places."""

    def __init__(self):
        super().__init__()
        self.fields = nn.ConvTranspose2d(4, 1, kernel_size=8, stride=2, padding=3, bias=False)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, z):
        """Decode states (n, 64) into means (n, 64)."""
        return self.fields(z.view(-1, 4, 4, 4)).flatten(1) + self.bias


# %%
# The bound of new digits compares it with fully connected layers.

torch.manual_seed(0)  # for the weights that torch draws
decoders = {"fully connected": None, "tied weights": Tied()}
for name, decoder in decoders.items():
    est = truvae.TVAE(
        n_latents=64, hidden=(64,), n_states=32, decoder=decoder, max_epochs=10, random_state=0
    )
    est.fit(known)
    print(f"{name:16} F {est.elbo_:8.2f}, of new digits {est.score(new):8.2f}", end=", ")
    print(f"sigma {est.sigma_:.2f}, {est.pi_.sum():.1f} latents active")

# %%
# What each latent of the tied decoder adds to a digit: the same four fields at sixteen places.

none = est.inverse_transform(np.zeros((1, 64)))
truvae.plots.fields(est.components_ - none, shape=(8, 8))
