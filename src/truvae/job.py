"""Frames, restored together: fit models, combine their estimates, look again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truvae.fill import Filled, Hidden, settle
from truvae.fitting import Material, Run, fit_model
from truvae.model import Model
from truvae.noise import Gaussian
from truvae.patches import Patches
from truvae.refine import refine
from truvae.settings import Plan, Settings, trust_in_dct
from truvae.training import Clock, Epoch
from truvae.units import Units

Array = npt.NDArray[Any]

# Seconds of a time budget that are set aside for each look at each value of a picture.
_SECONDS_PER_VALUE = 4e-5
# Least noise that is reckoned with, over the spread of the picture: less is beyond float32.
_LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Done:
    """Restored frames and how they came about (see `restore.Result`)."""

    restored: Array
    """(F, R, C, K), in units of the picture, float."""
    sigma: float
    """In standardised units."""
    sigma_source: str
    elbo: float
    history: list[Epoch]
    model: Model
    settings: Settings
    covariances: list[str]
    trust_in_dct: float
    looks: int
    held_out_rmse: float | None
    """In standardised units."""
    epochs: int
    n_data: int
    device: str


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
    ) -> None:
        self.plan, self.units, self.told, self.known = plan, units, noise, known
        generator = torch.Generator(device).manual_seed(seed)
        self.images = units.standardise(frames, device)
        self.complete = bool(self.images.isfinite().all())
        whole = self.complete or plan.looks == 0
        self.hidden = [
            Hidden.none(image) if whole else Hidden.draw(image, generator) for image in self.images
        ]
        pairs = zip(self.hidden, self.images, strict=True)
        seen = torch.stack([hidden.away(image) for hidden, image in pairs])
        self.material = Material(seen, max(noise, _LEAST_NOISE), known, generator)
        self.history: list[Epoch] = []

    def run(self, clock: Clock, on_epoch: Callable[[Epoch], None]) -> Done:
        """Fit the models, combine their estimates, and look again."""
        looking = self.plan.looks * _SECONDS_PER_VALUE * self.images.numel()
        runs = self._fit_all(clock.without(looking), on_epoch)
        estimate, trust = self._combine(runs)
        main = next(run for run in runs if trust <= 0.5 or run.settings.covariance == "dct")
        sigma, source = self._published(runs)
        looks, rmse = 0, None
        if self.complete:
            estimate, looks = self._look_again(estimate, clock)
        else:
            filled = self._fill(estimate, _learned(runs), clock)
            estimate = torch.stack([frame.estimate for frame in filled])
            looks, rmse = filled[0].looks, _held_out(filled)
            if looks and not self.known:
                settled = float(np.mean([frame.sigma for frame in filled]))
                sigma, source = min((sigma, source), (settled, "held-out"))
        return Done(
            restored=self.units.restore(estimate),
            sigma=sigma,
            sigma_source=source,
            elbo=self.units.bound(main.bound, self._entries(main.settings)),
            history=self.history,
            model=main.model,
            settings=main.settings,
            covariances=[run.settings.covariance for run in runs],
            trust_in_dct=trust,
            looks=looks,
            held_out_rmse=rmse,
            epochs=main.epochs,
            n_data=len(Patches(self.images, main.settings.patch_size)),
            device=str(self.images.device),
        )

    def _fit_all(self, clock: Clock, on_epoch: Callable[[Epoch], None]) -> list[Run]:
        """Fit one model after the other, each of the kind that the ones before it call for."""
        runs: list[Run] = []
        n_runs = self.plan.runs
        while len(runs) < n_runs and not (runs and clock.left() < runs[-1].seconds / 2):
            settings = self.plan.models[-1 if self._trust(runs) > 0 else 0]
            run = self._fit(settings, clock.part(len(runs), n_runs), on_epoch)
            if runs and clock.should_stop():
                break  # it did not come far enough to help
            runs.append(run)
            if not self.complete:
                self.material.look_for_neighbours_in(run.merged)
        return runs

    def _fit(self, settings: Settings, clock: Clock, on_epoch: Callable[[Epoch], None]) -> Run:
        """Fit one model, and keep the records of its training."""
        entries = self._entries(settings)

        def tell(epoch: Epoch) -> None:
            self.history.append(self.units.record(epoch, entries))
            on_epoch(self.history[-1])

        return fit_model(self.material, settings, clock, tell)

    def _trust(self, runs: Sequence[Run]) -> float:
        """Return how far to trust models of kind "dct" after a first isotropic one, in [0, 1]."""
        isotropic_only = len(self.plan.models) == 1 or not runs
        return 0.0 if isotropic_only else trust_in_dct(_learned(runs), self.material.noise)

    def _combine(self, runs: Sequence[Run]) -> tuple[Tensor, float]:
        """Average the estimates of each kind, and the kinds by the trust in them."""
        estimates: dict[str, list[Tensor]] = {}
        for run in runs:
            estimates.setdefault(run.settings.covariance, []).append(run.merged)
        kinds = {kind: torch.stack(merged).mean(0) for kind, merged in estimates.items()}
        if len(kinds) == 1:
            ((kind, estimate),) = kinds.items()
            return estimate, float(kind == "dct")
        trust = self._trust(runs)
        return torch.lerp(kinds["isotropic"], kinds["dct"], trust), trust

    def _look_again(self, estimates: Tensor, clock: Clock) -> tuple[Tensor, int]:
        """Refine the estimates as often as planned, and as the time allows."""
        looks = 0
        while looks < self.plan.looks and clock.left() > 0 and not clock.should_stop():
            pairs = zip(self.images, estimates, strict=True)
            size, noise = self.plan.sizes[0], self.material.noise
            estimates = torch.stack([refine(image, last, noise, size) for image, last in pairs])
            looks += 1
        return estimates, looks

    def _fill(self, estimates: Tensor, learned: float, clock: Clock) -> list[Filled]:
        """Look again at incomplete frames until hidden pixels say that they get no better."""
        return [
            settle(
                image,
                estimate.to(image),
                hidden,
                sigma=self.material.noise if self.known else learned,
                known=self.known,
                sizes=self.plan.sizes,
                looks=self.plan.looks,
                go_on=lambda: clock.left() > 0 and not clock.should_stop(),
            )
            for image, estimate, hidden in zip(self.images, estimates, self.hidden, strict=True)
        ]

    def _published(self, runs: Sequence[Run]) -> tuple[float, str]:
        """Return the noise level to tell, in standardised units, and where it is from."""
        if self.known:
            return self.told, "given"
        learned = _learned(runs)
        if learned < self.told or self.plan.models[-1].covariance == "isotropic":
            return learned, "learned"
        return self.told, "estimated"

    def _entries(self, settings: Settings) -> Tensor:
        return self.material.sample(settings.patch_size).patches.mean_observed()


def _learned(runs: Sequence[Run]) -> float:
    """Return the mean noise level that isotropic models found; infinite without one."""
    noises = [run.model.noise for run in runs]
    levels = [float(n.mean_error) ** 0.5 for n in noises if isinstance(n, Gaussian)]
    return float(np.mean(levels)) if levels else np.inf


def _held_out(filled: Sequence[Filled]) -> float | None:
    """Return the rms of the errors at the hidden pixels of all frames."""
    errors = [frame.rmse for frame in filled if frame.rmse is not None]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else None


__all__ = ["Done", "Job"]
