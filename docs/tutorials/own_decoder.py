"""
Bring your own decoder
======================

Any ``torch.nn.Module`` from (batch, H) zeros and ones to (batch, D) means is a decoder. Nothing
else changes: the search for states asks the decoder what they mean, and Adam follows its gradient.
Two decoders of patches are tried here beside the fully connected one of the paper.
"""

import matplotlib.pyplot as plt
import torch
from skimage.data import camera
from skimage.transform import downscale_local_mean
from torch import nn

from truvae import (
    MLP,
    Bernoulli,
    Gaussian,
    GradientFlips,
    Model,
    Neighbours,
    Population,
    ShuffledChunks,
    datasets,
    training,
)
from truvae.optim import OneCycle

# %%
# The data are whitened patches of 8 x 8 pixels of one picture.

N, H, SIZE = 2000, 64, 8
picture = downscale_local_mean(camera(), (2, 2))
patches = datasets.whitened_patches([picture], N, SIZE, keep=0.99, random_state=0)
x = torch.as_tensor(patches, dtype=torch.float32)

# %%
# A convolutional decoder
# -----------------------
# A linear layer makes 8 maps of 4 x 4 pixels, and a transposed convolution a patch of them.


class Convolutional(nn.Module):
    """From codes to maps to patches."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(H, 8 * 4 * 4),
            nn.ReLU(),
            nn.Unflatten(1, (8, 4, 4)),
            nn.ConvTranspose2d(8, 1, kernel_size=4, stride=2, padding=1),
            nn.Flatten(),
        )

    def forward(self, z):
        """Decode states (n, H) into means (n, D)."""
        return self.layers(z)


# %%
# A decoder with tied weights
# ---------------------------
# Each latent stands for one of four kernels at one of 4 x 4 places. All places share the kernels,
# so that four fields of 8 x 8 pixels, cut at the border of the patch, are all there is to learn.


class Tied(nn.Module):
    """The same four fields at sixteen places."""

    def __init__(self):
        super().__init__()
        self.fields = nn.ConvTranspose2d(4, 1, kernel_size=8, stride=2, padding=3)

    def forward(self, z):
        """Decode states (n, H) into means (n, D)."""
        return self.fields(z.view(-1, 4, 4, 4)).flatten(1)


# %%
# Learning
# --------
# The loop is the same for all three.


def learn(decoder):
    """Fit a model with this decoder; return it and the records of its epochs."""
    g = torch.Generator().manual_seed(0)
    model = Model(Bernoulli(torch.full((H,), 3 / H)), decoder, Gaussian(x.var()))
    population = Population.random(N, 16, n_latents=H, probability=3 / H, generator=g)
    epochs = training.fit(
        model,
        population,
        x,
        epochs=8,
        chunks=ShuffledChunks(N, 128),
        search=[GradientFlips(), Neighbours()],
        generator=g,
        rate=OneCycle(0.01),
    )
    return model, list(epochs)


torch.manual_seed(0)  # for the weights that torch draws
decoders = {
    "fully connected": MLP(H, (64,), SIZE**2),
    "convolutional": Convolutional(),
    "tied weights": Tied(),
}
runs = {name: learn(decoder) for name, decoder in decoders.items()}

for name, (model, epochs) in runs.items():
    size = sum(parameter.numel() for parameter in model.decoder.parameters())
    last = epochs[-1]
    print(f"{name:16} {size:6} parameters, F {last.elbo:7.2f}, ", end="")
    print(f"sigma {last.sigma:.3f}, {last.active_latents:.2f} latents active")

# %%
# The fields: what the decoder says of single active latents, less what it says of none.


@torch.no_grad()
def fields(model):
    """Return (H, P, P)."""
    none = model.decode_dense(torch.zeros(1, H))
    return (model.decode_dense(torch.eye(H)) - none).view(H, SIZE, SIZE)


figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, (name, (model, _)) in zip(axes, runs.items(), strict=True):
    tiles = fields(model)
    tiles = tiles / tiles.abs().amax((1, 2), keepdim=True).clamp(min=1e-9)
    tiles = nn.functional.pad(tiles, (0, 1, 0, 1), value=1.0)
    mosaic = tiles.view(8, 8, 9, 9).transpose(1, 2).reshape(72, 72).numpy()
    axis.imshow(mosaic, cmap="gray", vmin=-1, vmax=1)
    axis.set_title(name)
    axis.set_axis_off()
