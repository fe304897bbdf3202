"""The record of one file: what was done, learned and measured, for programs and in one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truvae import __version__
from truvae.console import cost

if TYPE_CHECKING:
    from truvae.results import AudioResult, Result

    AnyResult = Result | AudioResult

Record = dict[str, Any]

_UNITS = {"picture": "pixels", "sound": "samples"}


def described(kind: str, result: "AnyResult", options: Mapping[str, Any]) -> Record:
    """Return what was done and learned, as far as pictures and sounds have it in common."""
    settings, seconds = result.settings, [epoch.seconds for epoch in result.history]
    return {
        "kind": kind,
        "version": __version__,
        "seed": options["seed"],
        "preset": options.get("preset"),
        "covariance": options.get("covariance", "auto"),
        "covariances": result.covariances,
        "looks": result.looks,
        "quality": options["quality"],
        "device": result.device,
        "n_data": result.n_data,
        "patch_size": settings.patch_size,
        "n_latents": settings.n_latents,
        "hidden": list(settings.hidden),
        "n_states": settings.n_states,
        "epochs": result.epochs,
        "elbo": result.elbo,
        "sigma": result.sigma,
        "sigma_source": result.sigma_source,
        "sigma_channels": list(result.sigma_channels),
        "active_latents": result.active_latents,
        "missing": result.missing,
        "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
    }


def concluded(
    source: Path,
    target: Path,
    shape: Sequence[int],
    options: Mapping[str, Any],
    notes: Sequence[str],
    start: float,
    interrupted: bool,
) -> Record:
    """Return what there is to tell once the result is written: where it went, whether it is but the
    best so far, and what it cost.
    """
    return {
        "input": str(source),
        "output": str(target),
        "interrupted": interrupted,
        "shape": list(shape),
        **cost(start),
        "notes": [*notes],
        "report": options["report"] and str(options["report"]),
        "saved_model": options["save_model"] and str(options["save_model"]),
    }


def failure(source: Path, error: BaseException) -> Record:
    """Return the record of a file that could not be restored."""
    return {"input": str(source), "error": " ".join(str(error).split())}


def summary(record: Mapping[str, Any]) -> str:
    """Return a record in one line for people."""
    parts = [record["output"], f"sigma {record['sigma']:.4g} ({record['sigma_source']})"]
    if record["noise_gain"] is not None:
        gains = ", ".join(f"{gain:.3g}" for gain in record["noise_gain"])
        parts.append(f"noise grows with the signal (gain {gains})")
    if record["noise_correlation"] is not None:
        shares = ", ".join(f"{max(each):.2f}" for each in record["noise_correlation"])
        parts.append(f"noise of neighbouring pixels correlated ({shares})")
    if record["missing"]:
        parts.append(f"{record['missing']:.1%} missing {_UNITS[record['kind']]} filled in")
    if record["held_out_rmse"] is not None:
        parts.append(f"error at hidden pixels {record['held_out_rmse']:.4g}")
    for name in ("snr", "psnr"):
        if record.get(name) is not None:
            noisy = record[f"{name}_noisy"]
            before = "" if noisy is None else f"{noisy:.2f} -> "
            parts.append(f"{name.upper()} {before}{record[name]:.2f} dB")
    if record["ssim"] is not None:  # of an incomplete reference there is none
        parts.append(f"SSIM {record['ssim']:.3f}")
    n = len(record["covariances"])
    parts.append(f"{n} model{'s' * (n != 1)} in {record['seconds']:.1f} s")
    return "  ".join(parts)


def save(folder: Path, kind: str, result: "AnyResult", more: Mapping[str, Any]) -> None:
    """Save the model of standardised patches if there is one, and how to come back from these."""
    from truvae.saving import save_model

    config = {
        "kind": kind,
        "patch_size": result.settings.patch_size,
        "covariance": result.settings.covariance,
        **more,
        "offset": result.offset.tolist(),
        "spread": result.spread.tolist(),
        "epochs": result.epochs,
        "elbo": result.elbo,
    }
    if result.model is not None:
        save_model(folder, result.model, config)


__all__ = ["concluded", "described", "failure", "save", "summary"]
