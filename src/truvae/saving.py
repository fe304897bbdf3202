"""Models on disk: a folder with `model.safetensors` and `config.json`; nothing is ever executed."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
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


_Made = TypeVar("_Made")


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
    noise, noise_tensors = parts_of(model.noise)
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
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".truvae.") as aside:
        made = Path(aside) / "model"
        made.mkdir()
        # Tensors must not share memory in the file.
        plain = torch.contiguous_format
        copies = {k: v.detach().cpu().clone(memory_format=plain) for k, v in weights.items()}
        save_file(copies, made / _WEIGHTS)
        (made / _CONFIG).write_text(text + "\n", "utf-8")
        if folder.exists():
            # Without it there is no model, rather than one of two halves.
            (folder / _CONFIG).unlink(missing_ok=True)
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
        If the folder holds no model, a damaged one, one from a newer truvae, or the decoder is
        missing or another.
    """
    folder = Path(folder)
    head = read_head(folder)
    try:
        stored = load_file(folder / _WEIGHTS)
    except Exception as error:  # of damaged files, some are not safetensors' own
        raise InputError(f"{folder / _WEIGHTS} cannot be read: {error}") from None
    weights = {name: tensor.to(device) for name, tensor in stored.items()}
    with damage_told(folder):
        prior = _prior(head["prior"], weights)
        model = Model(
            prior,
            _decoder(head["decoder"], weights, decoder),
            noise_of(head["noise"], part("noise", weights)),
        )
        model.decoder.to(prior.pi.device)
        if decoder is None:  # one's own may be costly to run
            _check_parts(model)
    return Saved(model, head["config"], part("tensors", weights))


@contextmanager
def damage_told(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Tell any error as one of the folder of a saved model, in one line."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    except Exception as error:  # what is damaged may raise nearly anything
        raise InputError(f"{folder} is damaged: {type(error).__name__}: {error}") from error


def read_head(folder: Path) -> dict[str, Any]:
    """Return the whole configuration of a saved model, without its tensors.

    Raises
    ------
    InputError
        If the folder holds no model, a damaged one, or one from a newer truvae.
    """
    path = folder / _CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not the folder of a saved model: it has no {_CONFIG}")
    damaged = InputError(f"{path} is damaged: it does not describe a model")
    try:
        text = path.read_text("utf-8")
        head: dict[str, Any] = json.loads(text, parse_float=_finite, parse_constant=_finite)
        newer = head["format"] > _FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if newer:
        raise InputError(
            f"{folder} was saved by truvae {head.get('truvae')} in a newer format: update truvae"
        )
    parts = [head.get(name) for name in ("prior", "decoder", "noise", "config")]
    if "truvae" not in head or not all(isinstance(part, dict) for part in parts):
        raise damaged
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
    """Return the records of epochs as JSON can hold them: what is not finite, which it lacks, as
    null.

    >>> records = epochs_to_json([Epoch(0, 1.0, -9.0, math.nan, 2.0, 10, 1.0)])
    >>> records[0]["sigma"], epochs_from_json(records)[0].sigma
    (None, nan)
    """
    records = (dataclasses.asdict(epoch) for epoch in epochs)
    return [{k: v if math.isfinite(v) else None for k, v in record.items()} for record in records]


def epochs_from_json(records: Iterable[Mapping[str, Any]]) -> list[Epoch]:
    """Return the epochs that `epochs_to_json` made records of."""
    values: list[dict[str, Any]] = [
        {k: math.nan if v is None else v for k, v in record.items()} for record in records
    ]
    return [_made(Epoch, each) for each in values]


def _finite(text: str) -> float:
    """Return a number of a configuration; JSON has no others than finite ones."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def _made(cls: type[_Made], values: Mapping[str, Any]) -> _Made:
    """Make a dataclass from values that were saved, each of which must be of the type of its field.

    >>> _made(Bernoulli, {"pi": torch.ones(2), "limit": "high"})
    Traceback (most recent call last):
    TypeError: limit is no float
    """
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        value: object = values.get(field.name, field.default)
        wanted: Any = (int, float) if field.type is float else field.type
        if not isinstance(value, wanted) or (isinstance(value, bool) and field.type is not bool):
            raise TypeError(f"{field.name} is no {getattr(field.type, '__name__', field.type)}")
    return cls(**values)


def _plain(decoder: nn.Module) -> nn.Module:
    """Return the module that torch.compile wraps, or the module itself."""
    inner: nn.Module = getattr(decoder, "_orig_mod", decoder)
    return inner


def _decoder_config(decoder: nn.Module) -> dict[str, Any]:
    if type(decoder) is not MLP:
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
        decoder = _mlp(config, part("decoder", weights))
    elif decoder is None:
        raise InputError(
            f"the model has a decoder of its own, {config['kind']}: give a module of that kind as "
            "decoder"
        )
    try:
        _plain(decoder).load_state_dict(part("decoder", weights))
    except RuntimeError as error:
        raise InputError(f"the saved parameters do not fit the decoder: {error}") from None
    return decoder.eval()


def _mlp(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MLP:
    """Return a decoder for the weights; it takes no memory before it is known that they fit."""
    sizes = config["sizes"]
    if not all(type(size) is int and size > 0 for size in sizes) or (
        len(weights) != 2 * (len(sizes) - 1)
    ):
        raise ValueError("the sizes of the decoder are not those of its parameters")
    output = config["output"] and _ACTIVATIONS[config["output"]]
    activation = _ACTIVATIONS[config["activation"]]
    with torch.device("meta"):
        decoder = MLP(sizes[0], sizes[1:-1], sizes[-1], activation, output)
    wanted = {name: tensor.shape for name, tensor in decoder.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the sizes of the decoder are not those of its parameters")
    first = weights["first.weight"]
    return decoder.to(first.dtype).to_empty(device=first.device)


def _prior(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Bernoulli:
    pi = weights["prior.pi"]
    if pi.ndim != 1 or not pi.is_floating_point() or not bool(((pi > 0) & (pi < 1)).all()):
        raise ValueError("what should be probabilities of latents are none")
    return _made(Bernoulli, {**config, "pi": pi})


def _check_parts(model: Model) -> None:
    """Raise an error unless prior, decoder and noise fit together: one state is tried."""
    with torch.no_grad():
        outputs = model.decode_dense(torch.zeros(1, model.n_latents).to(model.prior.pi))
        means = model.noise.mean(outputs)
        if model.noise.log_likelihood(torch.zeros_like(means), outputs).shape != (1, 1):
            raise ValueError("decoder and noise are not of one model")
        _ = model.noise.sigma


def parts_of(noise: Noise) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the kind and numbers of a noise model, and its tensors."""
    kind = type(noise).__name__
    if _NOISES.get(kind) is not type(noise):
        raise InputError(f"a noise model {kind} cannot be saved: only {', '.join(_NOISES)} can")
    values = {field.name: getattr(noise, field.name) for field in dataclasses.fields(noise)}  # type: ignore[arg-type]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if name not in tensors}
    return {"kind": kind, **numbers}, tensors


def noise_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Noise:
    """Return the noise model that `parts_of` took apart."""
    numbers = {name: value for name, value in config.items() if name != "kind"}
    variances = [t for name, t in tensors.items() if name != "basis"]
    if any(bool((t < 0).any()) for t in variances):
        raise ValueError("a variance is below 0")
    return _made(_NOISES[config["kind"]], {**numbers, **tensors})


def _named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def part(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one part by their names within it."""
    start = name + "."
    return {name[len(start) :]: t for name, t in weights.items() if name.startswith(start)}


__all__ = [
    "Saved",
    "check_folder",
    "damage_told",
    "epochs_from_json",
    "epochs_to_json",
    "load_model",
    "noise_of",
    "part",
    "parts_of",
    "read_head",
    "save_model",
]
