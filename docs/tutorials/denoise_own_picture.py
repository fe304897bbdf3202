"""
Denoise your own picture
========================

``truvae.denoise`` takes an array and returns one. It needs nothing else: no clean pictures, and not
the level of the noise.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage.data import camera
from skimage.metrics import peak_signal_noise_ratio

import truvae

# %%
# A noisy picture
# ---------------
# Take your own instead: ``noisy = skimage.io.imread("noisy.tif")``. Here noise with a standard
# deviation of 25 is added to a small piece of a picture that ships with scikit-image, so that the
# result can be compared with the truth.

clean = camera()[80:176, 205:301]
noisy = clean + np.random.default_rng(0).normal(0, 25, clean.shape)

# %%
# One call
# --------
# A small picture and ``quality="fast"`` take seconds. Leave ``quality`` out for pictures that you
# care about. ``return_result`` asks for more than the picture.

result = truvae.denoise(noisy, quality="fast", random_state=0, return_result=True)
restored = result.restored


def psnr(picture):
    """Return the peak signal-to-noise ratio in dB."""
    return peak_signal_noise_ratio(clean, picture, data_range=255)


titles = "clean", f"noisy, {psnr(noisy):.1f} dB", f"restored, {psnr(restored):.1f} dB"
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, picture, title in zip(axes, (clean, noisy, restored), titles, strict=True):
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_title(title)
    axis.set_axis_off()

# %%
# What sigma says
# ---------------
# ``sigma`` is the level of the noise in the units of the picture, and ``sigma_source`` where it
# comes from. It was not given: it is 25 in truth. Of a picture with much fine detail it is told too
# high, because some of the detail looks like noise.

print(f"sigma {result.sigma:.1f} ({result.sigma_source}), true: 25")

# %%
# Without the clean picture there is another check: what was taken away. It should look like noise,
# without shapes of the picture, and be about as strong as sigma says.

removed = noisy - restored
print(f"standard deviation of what was removed: {removed.std():.1f}")
figure, axis = plt.subplots(figsize=(3.3, 3.3), layout="constrained")
axis.imshow(removed, cmap="gray", vmin=-75, vmax=75)
axis.set_title("noisy - restored")
axis.set_axis_off()

# %%
# If you know the level, for example from a dark frame, say ``sigma=25``. It is then held. A wrong
# level does harm: too small a one leaves noise, too large a one takes detail.
#
# The rest of the record
# ----------------------
# The kinds of the models that were fitted, how often the picture was looked at again, the mean
# bound F of a patch and the expected number of active latents.

print("models:", ", ".join(result.covariances))
print("looks:", result.looks)
print(f"F {result.elbo:.1f} nats for each of {result.n_data} patches")
print(f"active latents {result.active_latents:.2f} of {result.model.n_latents}")
