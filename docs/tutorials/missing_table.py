"""
Missing values in a table
=========================

``truvae.TVAE`` follows scikit-learn: ``fit``, ``transform`` and so on. Missing values, NaN, are
left out of all sums, both when it learns and when it estimates. So it can fill them in, and this is
how well it does that beside two imputers of scikit-learn.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer, SimpleImputer

import truvae

# %%
# The data
# --------
# 1797 handwritten digits of 8 x 8 pixels, with values from 0 to 16. Each value is missing with a
# probability of 0.3, independently of all others.

complete = load_digits().data
missing = np.random.default_rng(0).random(complete.shape) < 0.3
X = np.where(missing, np.nan, complete)

# %%
# Filling in
# ----------
# ``reconstruct`` returns estimates of all values. With ``looks=0`` they are the posterior means of
# the paper (Eq. 15). By default each row is then looked at twice again, beside the rows that are
# most like it in the estimate before. ``KNNImputer`` takes the mean of the five nearest digits,
# ``SimpleImputer`` that of the column. None of the methods sees what is missing.

est = truvae.TVAE(n_latents=64, hidden=(64,), n_states=32, max_epochs=30, random_state=0).fit(X)
filled = {
    "mean of the column": SimpleImputer().fit_transform(X),
    "KNNImputer": KNNImputer().fit_transform(X),
    "TVAE, looks=0": np.where(missing, est.reconstruct(X, looks=0), X),
    "TVAE": np.where(missing, est.reconstruct(X), X),
}
for name, table in filled.items():
    error = np.sqrt(np.mean((table - complete)[missing] ** 2))
    print(f"{name:20} rms error {error:.2f}")

# %%
# Of such digits there are near copies, and their mean is hard to beat by the model alone, which has
# one decoder for all of them; both together are better than either. What the model offers besides
# is a description of the data: codes, the level of the noise, a bound of the likelihood for each
# row, and new samples.
#
# What it looks like
# ------------------
# The first digits: missing values in red, what was filled in, and the truth.

rows = {"given": X} | filled | {"truth": complete}
figure, axes = plt.subplots(len(rows), 10, figsize=(8, 4.2), layout="constrained")
colours = plt.get_cmap("gray").with_extremes(bad="tab:red")
for line, (name, table) in zip(axes, rows.items(), strict=True):
    for axis, digit in zip(line, table, strict=False):
        axis.imshow(digit.reshape(8, 8), cmap=colours, vmin=0, vmax=16)
        axis.set_axis_off()
    line[0].set_title(name, loc="left", fontsize=9)

# %%
# What was learned
# ----------------
# The bound and the level of the noise over the epochs, and what each latent adds to a digit.

print(f"sigma {est.sigma_:.2f}, {est.pi_.sum():.1f} of 64 latents active")
truvae.plots.history(est.history_)
none = est.inverse_transform(np.zeros((1, 64)))
truvae.plots.fields(est.components_ - none, shape=(8, 8))

# %%
# The binary codes, one row for each digit, can be used in place of the incomplete table.

codes = est.encode(X)
print(codes.shape, f"{codes.sum(1).mean():.1f} ones in a row")
