"""Run the command line: python -m truvae."""

from truvae.cli import main

main()
