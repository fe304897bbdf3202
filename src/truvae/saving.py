"""Models on disk: a folder with `model.safetensors` and `config.json`; nothing is ever executed."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truvae import __version__
from truvae.decoders import MLP, relu
from truvae.errors import InputError
from truvae.model import Bernoulli, Model
from truvae.noise import (
    BernoulliNoise,
    CorrelatedGaussian,
    DiagonalGaussian,
    Gaussian,
    LowRankGaussian,
    Noise,
    PoissonNoise,
)
from truvae.training import Epoch

# Grows when older versions of truvae can no longer read what is written.
_FORMAT = 1
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_NOISES: dict[str, type[Noise]] = {
    cls.__name__: cls
    for cls in (
        Gaussian,
        CorrelatedGaussian,
        DiagonalGaussian,
        LowRankGaussian,
        BernoulliNoise,
        PoissonNoise,
    )
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": relu,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


class Saved(NamedTuple):
    """What a folder holds."""

    model: Model
    config: dict[str, Any]
    """What was saved with the model under the key "config"."""
    tensors: dict[str, Tensor]
    """What was saved with it under the key "tensors"."""


def save_model(
    folder: str | os.PathLike[str],
    model: Model,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Save a model as a folder, which appears complete or not at all.

    Parameters
    ----------
    folder
        A new or empty folder, or one that holds a saved model, which is replaced.
    model
        A model with one of truvae's noise models. Of a decoder that is not an `MLP` only the
        parameters are saved.
    config, tensors
        What is to be kept with it: anything that JSON can hold, and tensors by name.

    Raises
    ------
    InputError
        If something else lies in the folder, or a part of the model cannot be saved.

    Examples
    --------
    >>> from truvae import datasets
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(f"{folder}/bars", datasets.bars())
    ...     load_model(f"{folder}/bars").model.n_latents
    8
    """
    folder = Path(folder)
    check_folder(folder)
    noise, noise_tensors = _noise_config(model.noise)
    head = {
        "format": _FORMAT,
        "truvae": __version__,
        "prior": {"limit": model.prior.limit, "shared": model.prior.shared},
        "decoder": _decoder_config(model.decoder),
        "noise": noise,
        "config": dict(config or {}),
    }
    # Numbers of NumPy are numbers too.
    text = json.dumps(head, indent=1, allow_nan=False, default=lambda number: number.item())
    weights = {
        "prior.pi": model.prior.pi,
        **_named("decoder", _plain(model.decoder).state_dict()),
        **_named("noise", noise_tensors),
        **_named("tensors", tensors or {}),
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        made = Path(aside) / "model"
        made.mkdir()
        # Tensors must not share memory in the file.
        plain = torch.contiguous_format
        copies = {k: v.detach().cpu().clone(memory_format=plain) for k, v in weights.items()}
        save_file(copies, made / _WEIGHTS)
        (made / _CONFIG).write_text(text + "\n", "utf-8")
        if folder.exists():
            for name in (_WEIGHTS, _CONFIG):
                (made / name).replace(folder / name)
        else:
            made.rename(folder)


def load_model(
    folder: str | os.PathLike[str],
    decoder: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> Saved:
    """Load what `save_model` saved, on any device.

    Parameters
    ----------
    folder
        The folder.
    decoder
        If the model has a decoder of one's own: a module of the same kind, which gets the saved
        parameters.
    device
        Where to put the tensors.

    Raises
    ------
    InputError
        If the folder holds no model, one from a newer truvae, or the decoder is missing or another.
    """
    folder = Path(folder)
    head = read_head(folder)
    try:
        weights = load_file(folder / _WEIGHTS, device=str(device))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / _WEIGHTS} cannot be read: {error}") from None
    prior = Bernoulli(weights["prior.pi"], **head["prior"])
    model = Model(
        prior, _decoder(head["decoder"], weights, decoder), _noise(head["noise"], weights)
    )
    model.decoder.to(prior.pi.device)
    return Saved(model, head["config"], _part("tensors", weights))


def read_head(folder: Path) -> dict[str, Any]:
    """Return the whole configuration of a saved model, without its tensors.

    Raises
    ------
    InputError
        If the folder holds no model, or one from a newer truvae.
    """
    path = folder / _CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not the folder of a saved model: it has no {_CONFIG}")
    try:
        head: dict[str, Any] = json.loads(path.read_text("utf-8"))
        version = head["format"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: it does not describe a model") from None
    if version > _FORMAT:
        raise InputError(
            f"{folder} was saved by truvae {head.get('truvae')} in a newer format: update truvae"
        )
    return head


def check_folder(folder: Path) -> None:
    """Check, before the work begins, that a model can be saved to a folder.

    Raises
    ------
    InputError
        If its parent is missing, or other things lie in it.
    """
    if not folder.parent.is_dir():
        raise InputError(f"the folder {folder.parent} does not exist: create it first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: a model is saved as a folder")
    if folder.is_dir() and not {path.name for path in folder.iterdir()} <= {_WEIGHTS, _CONFIG}:
        raise InputError(f"{folder} holds other things than a saved model: give a new folder")
    if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK):
        raise InputError(f"{folder} cannot be written: choose another folder")


def epochs_to_json(epochs: Iterable[Epoch]) -> list[dict[str, Any]]:
    """Return the records of epochs as JSON can hold them: NaN, which it lacks, as null.

    >>> records = epochs_to_json([Epoch(0, 1.0, -9.0, math.nan, 2.0, 10, 1.0)])
    >>> records[0]["sigma"], epochs_from_json(records)[0].sigma
    (None, nan)
    """
    records = (dataclasses.asdict(epoch) for epoch in epochs)
    return [{k: None if v != v else v for k, v in record.items()} for record in records]


def epochs_from_json(records: Iterable[Mapping[str, Any]]) -> list[Epoch]:
    """Return the epochs that `epochs_to_json` made records of."""
    values: list[dict[str, Any]] = [
        {k: math.nan if v is None else v for k, v in record.items()} for record in records
    ]
    return [Epoch(**each) for each in values]


def _plain(decoder: nn.Module) -> nn.Module:
    """Return the module that torch.compile wraps, or the module itself."""
    inner: nn.Module = getattr(decoder, "_orig_mod", decoder)
    return inner


def _decoder_config(decoder: nn.Module) -> dict[str, Any]:
    if not isinstance(decoder, MLP):
        return {"kind": type(_plain(decoder)).__qualname__}
    layers = [m for m in decoder.modules() if isinstance(m, nn.Linear)]
    others = [_activation_name(m) for m in decoder.rest if not isinstance(m, nn.Linear)]
    n_hidden = len(layers) - 1
    return {
        "kind": "MLP",
        "sizes": [layers[0].in_features, *(layer.out_features for layer in layers)],
        "activation": others[0] if n_hidden else "relu",
        "output": others[n_hidden] if len(others) > n_hidden else None,
    }


def _activation_name(module: nn.Module) -> str:
    """Return the name of a non-linearity with its usual settings."""
    for name, make in _ACTIVATIONS.items():
        if repr(module) in (repr(make()), repr(make()).replace("inplace=True", "")):
            return name
    raise InputError(
        f"a decoder with {module!r} cannot be saved: its non-linearities must be one of "
        f"{', '.join(_ACTIVATIONS)}, with their usual settings"
    )


def _decoder(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], decoder: nn.Module | None
) -> nn.Module:
    if "sizes" in config:
        n_latents, *hidden, n_outputs = config["sizes"]
        output = config["output"] and _ACTIVATIONS[config["output"]]
        activation = _ACTIVATIONS[config["activation"]]
        decoder = MLP(n_latents, hidden, n_outputs, activation, output)
    elif decoder is None:
        raise InputError(
            f"the model has a decoder of its own, {config['kind']}: give a module of that kind as "
            "decoder"
        )
    try:
        _plain(decoder).load_state_dict(_part("decoder", weights))
    except RuntimeError as error:
        raise InputError(f"the saved parameters do not fit the decoder: {error}") from None
    return decoder.eval()


def _noise_config(noise: Noise) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the kind and numbers of a noise model, and its tensors."""
    kind = type(noise).__name__
    if _NOISES.get(kind) is not type(noise):
        raise InputError(f"a noise model {kind} cannot be saved: only {', '.join(_NOISES)} can")
    values = {field.name: getattr(noise, field.name) for field in dataclasses.fields(noise)}  # type: ignore[arg-type]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if name not in tensors}
    return {"kind": kind, **numbers}, tensors


def _noise(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Noise:
    numbers = {name: value for name, value in config.items() if name != "kind"}
    return _NOISES[config["kind"]](**numbers, **_part("noise", weights))


def _named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def _part(part: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one part by their names within it."""
    start = part + "."
    return {name[len(start) :]: t for name, t in weights.items() if name.startswith(start)}


__all__ = [
    "Saved",
    "check_folder",
    "epochs_from_json",
    "epochs_to_json",
    "load_model",
    "read_head",
    "save_model",
]
