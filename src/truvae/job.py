"""Frames, restored together: fit models, combine their estimates, look again."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truvae.checkpoint import Checkpoint, State
from truvae.clipping import clipped, unclipped
from truvae.clock import Clock
from truvae.fill import Filled, Hidden, settle
from truvae.fitting import Material, Run, fit_model
from truvae.holes import deep, fill_holes, widest
from truvae.looks import Looks, best_course, count, split
from truvae.model import Model
from truvae.noise import Gaussian
from truvae.patches import Patches
from truvae.ranks import ALONE, Ranks
from truvae.settings import Course, Plan, Settings, is_for_dct, trust_in_dct
from truvae.training import Epoch
from truvae.units import Units, rms

Array = npt.NDArray[Any]

# Seconds, and share of a time budget, that finding out how long looks take may take; and by what
# factor more is set aside for them.
_MEASURING, _MEASURING_SHARE, _MORE = 0.3, 0.02, 1.25
# The most that may be missing, and the least noise over the spread of the picture, for a picture to
# be treated as complete once a first model has filled it in.
_FEW, _NOISY = 0.2, 0.1
# Share of the fitting in the progress, half of it where looks take the most time.
_FITTING = 0.9
# Share of the epochs, and of the looking in the progress, of the model that tries courses of looks.
_TRIAL_EPOCHS, _TRIAL = 0.5, 0.8
# Share of the epochs planned below which an estimate may be worse than the picture, or than that of
# the model before, and share of the estimate from which on nobody needs to know that there is some
# of the picture in it.
_FEW_EPOCHS, _SURE = 0.5, 0.99
# Side of the patches that fill holes.
_HOLE_PATCH = 8


@dataclass(frozen=True)
class Done:
    """Restored frames and how they came about (see `results.Result`)."""

    restored: Array
    """(F, R, C, K), in units of the picture, float."""
    sigma: float
    """In standardised units."""
    sigma_source: str
    elbo: float | None
    """None where nothing was learned."""
    history: list[Epoch]
    model: Model
    settings: Settings
    covariances: list[str]
    trust_in_dct: float
    looks: int
    look_sizes: Course
    held_out_rmse: float | None
    """In standardised units."""
    epochs: int
    n_data: int
    n_trained: int
    device: str


class _Final(NamedTuple):
    """The last estimate, in standardised units."""

    estimate: Tensor
    sigma: float
    source: str
    looks: int
    sizes: Course
    rmse: float | None


class Job:
    """The restoration of frames by one plan: several models for all of them, then further looks.

    Parameters
    ----------
    frames
        Valid float frames (F, R, C, K), NaN where values are missing.
    plan
        Which models to fit.
    units
        What their values mean.
    noise
        The level of noise, given or estimated, in standardised units.
    known
        Whether it was given: then it is held.
    device, seed
        Where to compute, and the seed of all randomness.
    checkpoint
        Where to save each step, and to go on from.
    ranks
        The processes that do it together; everything here is the same on all of them.
    """

    def __init__(
        self,
        frames: Array,
        plan: Plan,
        units: Units,
        noise: float,
        known: bool,
        device: torch.device,
        seed: int,
        checkpoint: Checkpoint,
        ranks: Ranks = ALONE,
    ) -> None:
        self.checkpoint, self.ranks = checkpoint, ranks
        self.frames, self.plan, self.units = frames, plan, units
        self.told, self.given = noise, known
        # White noise that a model learns is no measure of whitened noise.
        self.known = known = known or units.spectra is not None
        generator = torch.Generator(device).manual_seed(seed)
        self.images = units.standardise(frames, device)
        missing = self.images.isnan()
        self.complete = not bool(missing.any())
        self.deep = torch.stack([deep(frame, _HOLE_PATCH) for frame in missing])
        if self.deep.any():
            _tell_of_holes(missing, self.deep)
        whole = self.complete or plan.looks == 0
        self.hidden = [
            Hidden.none(image) if whole else Hidden.draw(image, generator) for image in self.images
        ]
        pairs = zip(self.hidden, self.images, strict=True)
        seen = self.images if whole else torch.stack([h.away(image) for h, image in pairs])
        if self.complete:
            seen = self._unclipped(seen)
        self.material = Material(seen, noise, known, generator, ranks)
        self.history: list[Epoch] = []

    def run(self, clock: Clock, on_epoch: Callable[[Epoch], None]) -> Done:
        """Fit the models, combine their estimates, and look again."""
        self._one_look = self._seconds_of_a_look(clock)
        few_looks = self.complete and not self._several_courses() and len(self.images) == 1
        fitting = _FITTING if few_looks else _FITTING / 2
        n_looks = self.plan.looks or count(self.plan.courses)
        n_looks *= 1 + any(hidden.are_few for hidden in self.hidden)  # with and without noise
        looking = min(self._seconds_of(n_looks), clock.left() * (1 - fitting))
        runs = self._fit_all(clock.without(looking).span(0, fitting), on_epoch)
        estimate, trust = self._combine(runs)
        main = self._main(runs)
        if main.epochs > 0:
            final = self._finish(estimate, runs, clock.span(fitting, 1))
        else:  # there is nothing to go on from, nor to save
            final = _Final(estimate, self.told, self._source, 0, (), None)
        best = self._weighed(final.estimate) if self._is_short(main) else final.estimate
        clock.on_progress(1)
        return Done(
            restored=self._clipped(self.units.restore(self._without_holes(best))),
            sigma=final.sigma,
            sigma_source=final.source,
            elbo=self.units.bound(main.bound, main.entries) if main.epochs else None,
            history=self.history,
            model=main.model,
            settings=main.settings,
            covariances=[run.settings.covariance for run in runs],
            trust_in_dct=trust,
            looks=final.looks,
            look_sizes=final.sizes,
            held_out_rmse=final.rmse,
            epochs=main.epochs,
            n_data=len(Patches(self.images, main.settings.patch_size)),
            n_trained=len(self.material.sample(main.settings).patches),
            device=str(self.images.device),
        )

    def _fit_all(self, clock: Clock, on_epoch: Callable[[Epoch], None]) -> list[Run]:
        """Fit one model after the other, each of the kind that the ones before it call for."""
        runs: list[Run] = []
        while not (runs and self._is_enough(runs, clock)):
            settings = self.plan.models[-1 if self._trust(runs) > 0 else 0]
            n_runs = (self.plan.noisy or self.plan).runs  # as many as there may be
            n_runs = len(runs) + 1 if settings.covariance == "dct" else n_runs
            part = clock.part(len(runs), n_runs + self._several_courses())
            run = self._fit(settings, part, on_epoch, f"model-{len(runs) + 1}")
            if runs and (run.epochs == 0 or (clock.should_stop() and not self._helps(run, runs))):
                break
            runs.append(run)
            if self._trust(runs) < 1:
                run.finish()
            if not self.complete:
                self._go_on_with(run.merged)
        return runs

    def _helps(self, cut: Run, runs: Sequence[Run]) -> bool:
        """Say whether a model that was cut short is worth more than those before it."""
        return self._trust(runs) == 1 and cut.epochs >= _FEW_EPOCHS * cut.settings.epochs

    def _is_enough(self, runs: Sequence[Run], clock: Clock) -> bool:
        """Say whether no more models are planned, or there is no time for one like the last."""
        last = runs[-1]
        if last.epochs == 0 or last.settings.covariance == "dct" or len(runs) >= self.plan.runs:
            return True
        return clock.should_stop() or clock.left() < last.seconds / 2

    def _go_on_with(self, estimate: Tensor) -> None:
        """Let an estimate of incomplete frames say which patches are near. If they are noisy and
        miss little, take them for complete: errors of what was filled in are less than the noise.
        """
        self.material.look_for_neighbours_in(estimate)
        pairs = zip(self.hidden, estimate, strict=True)
        seen = float(np.median([hidden.noise(frame) for hidden, frame in pairs]))
        noise = self.told if self.known else min(self.told, seen)
        missing = float(self.images.isnan().float().mean())
        if self.plan.noisy is None or noise < _NOISY or missing > _FEW:
            return
        self.plan, self.complete = self.plan.noisy, True
        whole = _filled(self._unclipped(self.material.seen, estimate), estimate)
        self.material = Material(whole, noise, self.known, self.material.generator, self.ranks)

    def _seconds_of(self, n_looks: int) -> float:
        """Return how long so many looks at all frames may take."""
        return n_looks * _MORE * self._one_look

    def _seconds_of_a_look(self, clock: Clock) -> float:
        """Measure a part of a look, at the frames as they are, if there is a time budget."""
        left, n_frames = clock.left(), len(self.images)
        if not 0 < left < np.inf or not (self.plan.looks or count(self.plan.courses)):
            return 0.0
        watch, share = clock.alone().watch, 0.0
        start, most = watch(), min(_MEASURING, _MEASURING_SHARE * left)

        def go_on(done: float) -> bool:
            nonlocal share
            share = done
            return done == 0 or watch() - start < most

        pilot = self.images.nan_to_num()
        if self.complete:
            size = self.plan.courses[0][0][0]
            Looks(self.images, pilot, self.told, go_on, self.ranks).along(((size,),))
        else:
            settle(
                self.images[0],
                pilot[0],
                self.hidden[0],
                sigma=self.told,
                real=self.told,
                known=True,
                sizes=self.plan.sizes[:1],
                looks=1,
                go_on=go_on,
                ranks=self.ranks,
            )
            share /= n_frames
        return self.ranks.most((watch() - start) / max(share, 1e-6))

    def _several_courses(self) -> bool:
        """Say whether there may be a choice of looks to take."""
        return len((self.plan.noisy or self.plan).courses) > 1

    def _fit(
        self, settings: Settings, clock: Clock, on_epoch: Callable[[Epoch], None], name: str
    ) -> Run:
        """Fit one model, and keep the records of its training."""
        entries = self.material.sample(settings).entries
        is_first, other = not self.history, self.plan.models[-1].covariance

        def tell(epoch: Epoch) -> None:
            self.history.append(self.units.record(epoch, entries))
            on_epoch(self.history[-1])

        def is_superseded(epochs: Sequence[Epoch]) -> bool:
            both = is_first and settings.covariance != other
            return both and is_for_dct(epochs, self.material.noise)

        return fit_model(self.material, settings, clock, tell, self.checkpoint, name, is_superseded)

    def _trust(self, runs: Sequence[Run]) -> float:
        """Return how far to trust models of kind "dct" after a first isotropic one, in [0, 1]."""
        planned = {settings.covariance for settings in self.plan.models}
        if len(planned) == 1:
            return float("dct" in planned)
        return trust_in_dct(_learned(runs), self.material.noise) if runs else 0.0

    def _share_of_dct(self, runs: Sequence[Run]) -> float:
        """Return the share of the models of kind "dct" in the estimate, in [0, 1]."""
        kinds = {run.settings.covariance for run in runs}
        return self._trust(runs) if len(kinds) > 1 else float("dct" in kinds)

    def _combine(self, runs: Sequence[Run]) -> tuple[Tensor, float]:
        """Average the estimates of each kind, and the kinds by the trust in them."""
        trust = self._share_of_dct(runs)

        def mean(kind: str) -> Tensor:
            merged = [run.merged for run in runs if run.settings.covariance == kind]
            return torch.stack(merged).mean(0)

        if trust in (0, 1):  # the other kind is not needed
            return mean("dct" if trust else "isotropic"), trust
        return torch.lerp(mean("isotropic"), mean("dct"), trust), trust

    def _main(self, runs: Sequence[Run]) -> Run:
        """Return the first model of the kind that counts most."""
        trust = self._share_of_dct(runs)
        return next(run for run in runs if trust <= 0.5 or run.settings.covariance == "dct")

    def _finish(self, estimates: Tensor, runs: Sequence[Run], clock: Clock) -> _Final:
        """Look again, unless the last estimate is in the checkpoint; then put it there."""
        looked = self._look_again if self.complete else self._fill

        def look() -> State:
            values = looked(estimates, runs, clock)._asdict()
            return State(values, {"estimate": values.pop("estimate")})

        final = self.checkpoint.once("final", clock, look)
        sizes = tuple(map(tuple, final.values.pop("sizes")))  # lists, as they come from a file
        estimate = final.tensors["estimate"].to(self.images.device)
        return _Final(estimate, sizes=sizes, **final.values)

    def _look_again(self, estimates: Tensor, runs: Sequence[Run], clock: Clock) -> _Final:
        """Refine the estimates as planned, and as the time allows."""
        course, share = self.plan.courses[0], 0.0
        if len(self.plan.courses) > 1:
            share, most = _TRIAL, max(count([course]) for course in self.plan.courses)
            trial = clock.without(self._seconds_of(most)).span(0, share)
            course = self._best_course(self._main(runs), trial)
        images = _filled(self._unclipped(self.images, estimates), estimates)
        going_on = self._go_on(clock.span(share, 1), count([course]))
        looks = Looks(images, estimates, self.material.noise, going_on, self.ranks)
        restored, error = looks.along(course), self._error(estimates)
        taken = tuple(dict.fromkeys(sizes[: looks.depth] for sizes in course))
        return _Final(restored, *self._published(runs), looks.depth, taken, error)

    @property
    def _may_be_cut_off(self) -> bool:
        """Say whether noise may have been cut off: without looks the models are the paper's, which
        take frames as they are, and a count of zero is no noise that was cut off.
        """
        looks = count(self.plan.courses) or self.plan.looks
        return looks > 0 and self.units.noise is None

    def _unclipped(self, images: Tensor, estimates: Tensor | None = None) -> Tensor:
        """Return images as if no noise had been cut off.

        Correlated noise was cut off before it was whitened: what is returned then comes from the
        frames as they were given, which are complete.
        """
        if not self._may_be_cut_off or self.told == 0:
            return images
        if self.units.spectra is None:
            return unclipped(images, self.told, estimates)
        # Whitened values have no ends.
        guess = None if estimates is None else torch.from_numpy(self.units.restore(estimates))
        sigma = torch.from_numpy(self.units.sigma(self.told))
        frames = unclipped(torch.from_numpy(self.frames.copy()), sigma, guess)
        return self.units.standardise(frames.numpy(), images.device)

    def _clipped(self, restored: Array) -> Array:
        """Return restored frames within the ends of the range at which noise was cut off."""
        if not self._may_be_cut_off:
            return restored
        # A copy, since torch takes no arrays with negative strides.
        return clipped(torch.from_numpy(restored), torch.from_numpy(self.frames.copy())).numpy()

    def _best_course(self, main: Run, clock: Clock) -> Course:
        """Find which looks suit the frames by a model of them with more noise."""
        courses, noise, material = self.plan.courses, self.material.noise, self.material
        if clock.should_stop() or clock.left() < main.seconds * _TRIAL_EPOCHS / 2:
            return courses[0]
        noisier, judge, sigma = split(material.seen, noise, material.generator)
        epochs = max(1, round(_TRIAL_EPOCHS * main.settings.epochs))
        run = fit_model(
            Material(noisier, sigma, self.known, material.generator, self.ranks),
            replace(main.settings, epochs=epochs),
            clock.without(self._seconds_of(count(courses))).span(0, _FITTING),
            lambda epoch: None,
            self.checkpoint,
            "trial",
        )
        if run.epochs == 0:
            return courses[0]
        going_on = self._go_on(clock.span(_FITTING, 1), count(courses))
        looks = Looks(noisier, run.merged.to(noisier), sigma, going_on, self.ranks)
        course = best_course(looks, courses, judge, self.images.isfinite())
        return courses[0] if clock.should_stop() else course

    def _go_on(self, clock: Clock, n_looks: int) -> Callable[[float], bool]:
        """Return what is told the looks taken, and says whether there is time to go on."""
        alone = clock.alone()
        return lambda taken: alone.go_on(taken / n_looks)

    def _error(self, estimates: Tensor) -> float | None:
        """Return the rms error of estimates at the hidden pixels of all frames."""
        pairs = zip(self.hidden, estimates, strict=True)
        return _rms([hidden.rmse(frame) for hidden, frame in pairs])

    def _is_short(self, main: Run) -> bool:
        """Say whether training was cut so short that its estimates may be worse than the frames.

        Where values are missing frames are no estimates to go back to.
        """
        cut = main.epochs < _FEW_EPOCHS * main.settings.epochs
        return cut and bool(self.images.isfinite().all())

    def _weighed(self, estimates: Tensor) -> Tensor:
        """Return the average of complete frames and estimates of them that has the least squared
        error, if they err independently: the frames by their noise, and by both the difference.
        """
        difference = estimates - self._unclipped(self.images, estimates)
        share = min(1.0, self.told**2 / max(float(difference.square().mean()), 1e-30))
        if share < _SURE:
            warnings.warn(
                f"there was little time to learn: {1 - share:.0%} of the picture as it was is in "
                "the estimate",
                stacklevel=2,
            )
        return estimates - (1 - share) * difference

    def _without_holes(self, estimates: Tensor) -> Tensor:
        """Fill holes that are wider than a patch from the outside in."""
        if not self.deep.any():
            return estimates
        without = estimates.masked_fill(self.deep[..., None], torch.nan)
        return torch.stack([fill_holes(frame, _HOLE_PATCH) for frame in without])

    def _fill(self, estimates: Tensor, runs: Sequence[Run], clock: Clock) -> _Final:
        """Look again at incomplete frames until hidden pixels say that they get no better."""
        frames = zip(self.images, estimates, self.hidden, strict=True)
        n, learned = len(self.images), _learned(runs)
        done = [
            self._settle(*frame, learned, clock.part(index, n))
            for index, frame in enumerate(frames)
        ]
        rmse = _rms([frame.rmse for frame in done])
        sigma, source = self._published(runs)
        if done[0].looks and not self.known:
            settled = float(np.mean([frame.sigma for frame in done]))
            held = math.isclose(settled, self.material.noise)
            judged = "estimated" if held or rmse is None else "held-out"
            lower = settled < sigma and not math.isclose(settled, sigma)
            sigma, source = (settled, judged) if lower else (sigma, source)
        final = torch.stack([frame.estimate for frame in done])
        sizes = (done[0].size,) * done[0].looks
        return _Final(final, sigma, source, done[0].looks, (sizes,), rmse)

    def _settle(
        self, image: Tensor, estimate: Tensor, hidden: Hidden, learned: float, clock: Clock
    ) -> Filled:
        """Look again at one frame."""
        estimated = self.material.noise
        return settle(
            image,
            estimate.to(image),
            hidden,
            sigma=estimated if self.known else learned,
            real=min(learned, estimated),
            known=self.known,
            sizes=self.plan.sizes,
            looks=self.plan.looks,
            go_on=self._go_on(clock, self.plan.looks),
            ranks=self.ranks,
        )

    def _published(self, runs: Sequence[Run]) -> tuple[float, str]:
        """Return the noise level to tell, in standardised units, and where it is from."""
        learned = _learned(runs)
        isotropic = self.plan.models[-1].covariance == "isotropic"
        if not self.known and (learned < self.told or isotropic):
            return learned, "learned"
        return self.told, self._source

    @property
    def _source(self) -> str:
        """Where the noise level that was told is from."""
        return "given" if self.given else "estimated"


def _learned(runs: Sequence[Run]) -> float:
    """Return the mean noise level that isotropic models found; infinite without one."""
    noises = [run.model.noise for run in runs]
    levels = [float(n.mean_error) ** 0.5 for n in noises if isinstance(n, Gaussian)]
    return float(np.mean(levels)) if levels else np.inf


def _tell_of_holes(missing: Tensor, deep: Tensor) -> None:
    """Warn that what is deep in a hole is a guess."""
    width, share = max(widest(frame) for frame in missing), float(deep.float().mean())
    warnings.warn(
        f"holes are up to {width} pixels wide: more than {_HOLE_PATCH // 2} pixels from the "
        f"nearest known one ({share:.1%} of the picture) edges and textures are continued from the "
        "outside in; what is there is plausible, not measured",
        stacklevel=2,
    )


def _filled(images: Tensor, estimates: Tensor) -> Tensor:
    """Return frames with estimates of what is missing."""
    return torch.where(images.isnan(), estimates.to(images), images)


def _rms(errors: Sequence[float | None]) -> float | None:
    """Return the rms of the errors of all frames with hidden pixels, None without any."""
    found = [error for error in errors if error is not None]
    return rms(found) if found else None


__all__ = ["Done", "Job"]
