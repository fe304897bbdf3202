"""Settings of a restoration, chosen from the size of the picture and its noise alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truvae.errors import InputError, check_whole
from truvae.presets import Preset
from truvae.proposals import SELECTIONS, Evolution, GradientFlips, Neighbours
from truvae.recipes import Recipe
from truvae.training import Epoch

SMALLEST_PATCH = 7
# Noise over the standard deviation of the noisy picture, below and above which other settings hold.
_WEAK, _STRONG = 0.43, 0.6
# Isotropic models at most, and epochs of an "isotropic" and a "dct" one for a picture of 256 x 256
# pixels; and how many of these a "dct" one of a large picture spends in each tile. Averages of
# several "dct" models gain nothing.
_EFFORT = {"fast": (1, 5, 6, 2), "balanced": (2, 8, 14, 5), "best": (4, 12, 24, 8)}
# Patches to train on: all up to the first number, of more the geometric mean of their number and
# `_SCARCE`, up to the second number. Of 512 x 512 pixels all are worth less than 0.05 dB more.
_TRAINED, _SCARCE = (1 << 16, 1 << 18), 1 << 14
# Pixels of the largest grey pictures that are worth an isotropic model too: a "dct" one that learns
# tile by tile, or from several channels, does not need its help.
_LARGE = 1 << 18
# Where a model knows a sample only, the patches that it estimates lie on every second row and
# column, if further looks follow.
_STRIDE = 2
# Further looks at complete pictures, and at those with strong noise. Models, sides of patches and
# most looks for incomplete ones: there looks matter more than models.
_LOOKS, _MORE_LOOKS = 2, 3
# By how much the patches of the last look are smaller or larger than those before it.
_BESIDE = 2
_FILLING = {"fast": (1, (6,), 6), "balanced": (1, (6,), 12), "best": (2, (5, 6, 7), 20)}
QUALITIES = tuple(_EFFORT)
Course = tuple[tuple[int, ...], ...]
"""Sides in pixels of the patches of one look after the other; where there are several such rows of
looks, their estimates are averaged."""
COVARIANCES = ("auto", "isotropic", "dct")
NOISES = ("auto", "gaussian", "poisson-gaussian", "correlated")
STACKS = ("frames", "shared")
# Settings that can be given.
OVERRIDES = ("patch_size", "n_latents", "hidden", "n_states", "epochs")
# By how much the variance of the noise that the white-noise model learns may exceed the estimate
# before it counts as signal that this model cannot explain: from none to all of the trust goes to
# the other model.
_UNEXPLAINED = 0.015
# When it is certain before the end of the training: from what share of it on, and by what factor
# more of the standard deviation.
_UNDER_WAY, _SURELY = 0.5, 1.01
# How "dct" models look for states. What flips find they find early, in the common training and in
# that of a tile; then near patches take over states from each other, in less than half of the time.
FLIPS_EARLY: dict[str, Any] = {
    "search": (GradientFlips(n_children=8), Neighbours()),
    "share_from": 0.5,
}
# How many times as many epochs a small picture gets at most; one of 32 x 32 needs them.
_LONGEST = 10.0


@dataclass(frozen=True, kw_only=True)
class Settings(Recipe):
    """Everything one model of a restoration can be told; one rule sets it for every picture."""

    covariance: str = "isotropic"
    """"isotropic", the white noise of the paper, or "dct", a variance for each state and each
    coefficient of the cosine transform."""
    patch_size: int
    """P: patches are P x P pixels, or windows of P samples of a recording."""
    trained: int | None = None
    """Most patches to train on, drawn at random; None for all."""
    stride: int = 1
    """If these are not all, estimated patches lie on every so many-th row and column."""
    sparse: bool = False
    """Whether only these are trained on, too."""
    tile: int = 1 << 12
    """How many of them are estimated at a time."""
    local_epochs: int = 0
    """Epochs that the model goes on for with the patches of a tile alone, before it estimates."""
    doubt: float = 0.1
    """Error of a patch estimate that its posterior does not know of, in units of the variance of
    the picture; infinite to average patches with equal weights."""

    def override(self, given: Mapping[str, Any]) -> "Settings":
        """Replace the settings that are given (not None).

        Raises
        ------
        InputError
            If a value is not a whole number of 1 or more, or there are too few latents.
        """
        known = {name: value for name, value in given.items() if value is not None}
        for name, value in known.items():
            for number in value if name == "hidden" else (value,):
                check_whole(name.replace("n_", "").replace("_", " "), number)
        if "hidden" in known:
            known["hidden"] = tuple(known["hidden"])
        settings = replace(self, **known)
        _check_search(settings)
        return settings


@dataclass(frozen=True)
class Plan:
    """Which models a restoration fits, one after the other."""

    models: tuple[Settings, ...]
    """Kinds of models: the first one is always fitted. Where there are two, it is "isotropic", and
    what it learns tells whether the second one, "dct", or again the first serves the picture."""
    runs: int
    """How many models are fitted at most; of kind "dct" only one is."""
    courses: tuple[Course, ...] = (((),),)
    """Ways to look again at complete pictures; which one is best is tried out (`looks.best_course`)
    if there are several."""
    sizes: tuple[int, ...] = ()
    """Sides in pixels of the patches of further looks at incomplete ones; of several, hidden pixels
    choose one."""
    looks: int = 0
    """How many further looks to take at most, if pixels are missing."""
    scale: float | None = None
    """What values are divided by; None to standardise the picture."""
    noisy: "Plan | None" = None
    """For incomplete pictures: how to go on once the first model has filled in what is missing, if
    that is little and there is much noise."""

    def override(self, given: Mapping[str, Any]) -> "Plan":
        """Replace settings of all models; given epochs are those of one model of each kind."""
        models = tuple(settings.override(given) for settings in self.models)
        runs = self.runs if given.get("epochs") is None else len(models)
        noisy = self.noisy and self.noisy.override(given)
        return replace(self, models=models, runs=min(self.runs, runs), noisy=noisy)


def choose(
    shape: tuple[int, ...],
    noise: float,
    quality: str,
    covariance: str = "auto",
    complete: bool = True,
) -> Plan:
    """Choose the models of a restoration.

    Parameters
    ----------
    shape
        Rows and columns of the picture, and its channels if there are several.
    noise
        Standard deviation of the noise over that of the noisy picture, in [0, 1].
    quality
        "fast", "balanced" or "best".
    covariance
        "isotropic" for the model of the paper and nothing else, "dct" for states with a covariance
        of their own and a second look, "auto" for both kinds, as they suit the picture, or the
        latter alone in colour and for large pictures.
    complete
        Whether no pixel is missing; if some are, the first model is isotropic.

    Raises
    ------
    InputError
        If there is no such quality or covariance, or it cannot handle missing pixels.

    Examples
    --------
    >>> [model.covariance for model in choose((256, 256), 0.5, "balanced").models]
    ['isotropic', 'dct']
    """
    check_choice("quality", quality, QUALITIES)
    check_choice("covariance", covariance, COVARIANCES)
    if covariance == "dct" and not complete:
        raise InputError(
            "covariance dct needs a picture without missing pixels: choose auto or isotropic"
        )
    both = math.prod(shape[:2]) <= _LARGE and math.prod(shape[2:]) == 1
    if covariance == "auto" and complete and not both:
        covariance = "dct"
    runs, epochs, dct_epochs, local = _EFFORT[quality]
    # Averages of more than two models gain little: large pictures do without.
    runs = min(runs, max(2, round(runs * 256 / math.sqrt(math.prod(shape)))))
    whole, shape = shape, shape[:2]
    isotropic, dct = _isotropic(shape, noise, epochs), _dct(shape, noise, dct_epochs, local)
    if covariance == "isotropic":
        return Plan((isotropic,), runs)
    isotropic, dct = (replace(settings, stride=_STRIDE) for settings in (isotropic, dct))
    if not complete:
        noisy = choose(whole, noise, quality, covariance) if runs > 1 else None
        runs, sizes, looks = _FILLING[quality]
        sizes = tuple({min(size, *shape): 0 for size in sizes})
        return Plan((isotropic,), runs, sizes=sizes, looks=looks, noisy=noisy)
    models = (dct,) if covariance == "dct" or runs == 1 else (isotropic, dct)
    size, looks = (10, _MORE_LOOKS) if noise > _STRONG else (8, _LOOKS)
    courses = _courses(size, looks, min(shape))
    return Plan(models, runs, courses if quality == "best" else courses[:1])


def plan_of(preset: Preset, selection: str | None = None) -> Plan:
    """Return the plan that does what the paper did: one model, nothing else.

    Parameters
    ----------
    preset
        A row of Table 1 for denoising or inpainting.
    selection
        Another law for the parents: a key of `proposals.SELECTIONS`.

    Raises
    ------
    InputError
        If the preset is not for pictures, or there is no such law.
    """
    if preset.task == "other" or preset.patch_size is None:
        raise InputError(
            f"this preset is not for restoring pictures (it is the paper's {preset.source}): "
            "take one of paper:denoise-... or paper:inpaint-..."
        )
    recipe = recipe_of(preset, selection)
    settings = Settings(**vars(recipe), patch_size=preset.patch_size, doubt=math.inf)
    return Plan((settings,), 1, scale=preset.scale)


def recipe_of(preset: Preset, selection: str | None = None) -> Recipe:
    """Return the recipe of a preset, with another law for the parents if one is given.

    Raises
    ------
    InputError
        If there is no such law.
    """
    if selection is None:
        return preset.recipe
    check_choice("selection", selection, tuple(SELECTIONS))
    return preset.recipe.select(SELECTIONS[selection])


def _check_search(settings: Settings) -> None:
    """Check that there are bits enough for all children of a parent to differ."""
    for propose in settings.search:
        if isinstance(propose, Evolution) and propose.n_children > settings.n_latents:
            raise InputError(
                f"{propose.n_children} children of a parent differ in one of the latents each: "
                f"take at least as many latents, not {settings.n_latents}"
            )


def check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raise an `InputError` if `value` is not one of the `known` ones."""
    if value not in known:
        raise InputError(f"no {what} {value!r}: choose one of {', '.join(known)}")


def trust_in_dct(learned: float, estimate: float) -> float:
    """Return how far to trust the model "dct" over the model "isotropic", in [0, 1].

    White noise takes the signal that its model cannot explain for noise: its learned level then
    exceeds an estimate made from the finest details of the noisy picture alone.

    Parameters
    ----------
    learned, estimate
        The two standard deviations of the noise.

    Examples
    --------
    >>> [round(trust_in_dct(learned, 25.0), 2) for learned in (24.9, 25.1, 27.0)]
    [0.0, 0.53, 1.0]
    """
    return min(max(((learned / estimate) ** 2 - 1) / _UNEXPLAINED, 0.0), 1.0)


def is_for_dct(epochs: Sequence[Epoch], estimate: float) -> bool:
    """Say of a training of the model "isotropic" that goes on whether the model "dct" will be
    trusted all the way; never where the noise level is given.

    Once learning is well under way the noise level that it learns falls by less and less: in each
    epoch that is left by hardly more than in the last one.

    Parameters
    ----------
    epochs
        Those that are over.
    estimate
        The standard deviation of the noise.

    Examples
    --------
    >>> learned = (37.8, 29.7, 28.5, 27.7, 27.4)
    >>> epochs = [Epoch(i, (i + 1) / 8, 0.0, sigma, 5.0, 0, 5.0) for i, sigma in enumerate(learned)]
    >>> [is_for_dct(epochs, estimate) for estimate in (25.0, 27.0)]
    [True, False]
    """
    if len(epochs) < 2 or not _UNDER_WAY <= epochs[-1].progress < 1:
        return False
    before, last = epochs[-2:]
    if last.progress <= before.progress:  # it was resumed with more time
        return False
    left = (1 - last.progress) / (last.progress - before.progress)
    least = last.sigma - left * max(before.sigma - last.sigma, 0.0)
    return trust_in_dct(max(least, 0.0), estimate * _SURELY) == 1


def _courses(size: int, looks: int, most: int) -> tuple[Course, ...]:
    """Return ways to look so often, or once more, the one that suits most pictures first.

    Small patches suit fine lines, large ones repeated texture, and an average of both loses little
    on either. Of a picture full of it all patches may be large.
    """
    smaller, same, larger = (min(size + more, most) for more in (-_BESIDE, 0, _BESIDE))
    last = ((smaller, larger), (same,), (smaller,), (larger,))
    mixed = tuple(
        tuple((*[same] * before, side) for side in sides)
        for before in (looks - 1, looks)
        for sides in last
    )
    return (*mixed, ((larger,) * (looks + 1),))


def _isotropic(shape: tuple[int, ...], noise: float, epochs: int) -> Settings:
    strong = noise > _STRONG
    size = min(12 if strong else SMALLEST_PATCH if noise < _WEAK else 8, *shape)
    smaller, longer = _by_size(shape, size)
    return Settings(
        covariance="isotropic",
        patch_size=size,
        trained=_most(shape, size),
        n_latents=max(16, round(256 * smaller)),
        # Where noise is strong, a decoder that can say more learns the noise.
        hidden=(max(16, round((256 if strong else 512) * smaller)),),
        n_states=32 if strong else 16,
        epochs=max(2, math.ceil(epochs * longer)),
        group=256,
        minibatch=32 if strong else 64,
        active=2.0 if strong else 5.0,
    )


def _dct(shape: tuple[int, ...], noise: float, epochs: int, local: int) -> Settings:
    strong = noise > _STRONG
    size = min(10 if strong else 8, *shape)
    smaller, longer = _by_size(shape, size)
    width = max(16, round((128 if strong else 256) * smaller))
    local = local if _count(shape, size) > _most(shape, size) else 0
    return Settings(
        covariance="dct",
        patch_size=size,
        trained=_most(shape, size),
        n_latents=width,
        hidden=(width,),
        n_states=16,
        epochs=max(2, math.ceil((epochs - local) * longer)),
        local_epochs=local,
        **FLIPS_EARLY,
        group=128,
        peak_rate=0.01,
        doubt=0.02,
    )


def _most(shape: tuple[int, ...], size: int) -> int:
    """Return how many patches of a picture to train on at most."""
    least, most = _TRAINED
    return min(max(least, math.isqrt(_count(shape, size) * _SCARCE)), most)


def _count(shape: tuple[int, ...], size: int) -> int:
    """Return the number of patches of a picture."""
    return max(1, (shape[0] - size + 1) * (shape[1] - size + 1))


def _by_size(shape: tuple[int, ...], size: int) -> tuple[float, float]:
    """Return by what factors a picture needs a smaller model and more epochs than 256 x 256.

    A small picture has less to learn from, so its model must be smaller too. Of a large one only a
    sample is learned from.
    """
    share = min(_count(shape, size), _most(shape, size)) / 249**2
    return math.sqrt(min(share, 1.0)), min(1 / math.sqrt(share), _LONGEST)


__all__ = [
    "COVARIANCES",
    "FLIPS_EARLY",
    "NOISES",
    "OVERRIDES",
    "QUALITIES",
    "SMALLEST_PATCH",
    "STACKS",
    "Course",
    "Plan",
    "Settings",
    "check_choice",
    "choose",
    "is_for_dct",
    "plan_of",
    "recipe_of",
    "trust_in_dct",
]
