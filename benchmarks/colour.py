"""Denoise pieces of colour pictures by the public command, beside CBM3D on the same noise."""

import argparse
from pathlib import Path

import numpy as np
from skimage import data

from benchmarks import denoise
from benchmarks.report import OUT
from benchmarks.series import add_arguments as add_series
from truvae.io import Picture, read_picture, write_picture

_SIDE = 256
# Row and column of the piece of each picture.
PLACES = {
    "castle": (100, 30),
    "chelsea": (30, 100),
    "coffee": (100, 150),
    "astronaut": (20, 100),
    "tissue": (128, 128),
    "motorcycle": (100, 200),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument(
        "--pictures", default=",".join(PLACES), help="(default: %(default)s)", type=_known
    )
    parser.add_argument("--sigmas", default="15,25,50")
    parser.add_argument("--quality", default="fast,balanced")
    parser.add_argument("--name", default="colour", help="section of RESULTS.md")
    parser.set_defaults(run=run, peers=[denoise.CBM3D])


def _known(pictures: str) -> list[str]:
    """Return the names of pictures."""
    names = pictures.split(",")
    for name in names:
        if name not in PLACES:
            raise argparse.ArgumentTypeError(f"no picture {name}: take of {', '.join(PLACES)}")
    return names


def run(options: argparse.Namespace) -> None:
    """Cut out the pieces, and denoise them as grey pictures are."""
    OUT.mkdir(exist_ok=True)
    options.pictures = ",".join(str(_piece(options, name)) for name in options.pictures)
    denoise.run(options)


def _piece(options: argparse.Namespace, name: str) -> Path:
    """Write the piece of a picture, and return its file."""
    row, column = PLACES[name]
    piece = _whole(options, name)[row : row + _SIDE, column : column + _SIDE]
    path = OUT / f"{name}.png"
    write_picture(path, Picture(piece, channels=True))
    return path


def _whole(options: argparse.Namespace, name: str) -> np.ndarray:
    """Return a picture: one of the real ones, or one that ships with scikit-image."""
    if name == "castle":
        return read_picture(options.data / "images" / "castle_lossless.png").data
    if name == "motorcycle":
        return data.stereo_motorcycle()[0]
    return getattr(data, {"tissue": "immunohistochemistry"}.get(name, name))()
