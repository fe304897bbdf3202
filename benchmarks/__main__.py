"""Choose a benchmark by its name."""

import argparse

from benchmarks import denoise, engine

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
commands = parser.add_subparsers(required=True)
for module in (denoise, engine):
    name = module.__name__.rsplit(".", 1)[1]
    module.add_arguments(commands.add_parser(name, description=module.__doc__, help=module.__doc__))
arguments = parser.parse_args()
arguments.run(arguments)
