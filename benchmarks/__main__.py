"""Choose a benchmark by its name."""

import argparse

from benchmarks import denoise, engine, paper_house

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
commands = parser.add_subparsers(required=True)
for module in (denoise, engine, paper_house):
    name = module.__name__.rsplit(".", 1)[1].replace("_", "-")
    module.add_arguments(commands.add_parser(name, description=module.__doc__, help=module.__doc__))
arguments = parser.parse_args()
arguments.run(arguments)
