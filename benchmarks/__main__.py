"""Choose a benchmark by its name."""

import argparse

from benchmarks import (
    audio,
    barbara,
    bars,
    big,
    cifar,
    colour,
    correlated_bars,
    decoder,
    denoise,
    eight_bit,
    engine,
    gallery,
    inpainting,
    interrupted,
    memory,
    microscopy,
    operators,
    paper_house,
    patches,
    ranks,
    recording,
    scaling,
    smoothed,
    stack,
    tables,
)

MODULES = (
    denoise,
    colour,
    eight_bit,
    smoothed,
    engine,
    bars,
    correlated_bars,
    operators,
    patches,
    scaling,
    paper_house,
    barbara,
    cifar,
    inpainting,
    audio,
    recording,
    interrupted,
    ranks,
    big,
    memory,
    microscopy,
    stack,
    tables,
    decoder,
    gallery,
)
parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
commands = parser.add_subparsers(required=True)
for module in MODULES:
    name = module.__name__.rsplit(".", 1)[1].replace("_", "-")
    told = module.__doc__.replace("%", "%%")
    module.add_arguments(commands.add_parser(name, description=told, help=told))
arguments = parser.parse_args()
arguments.run(arguments)
