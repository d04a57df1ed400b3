"""The command line: one file per command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """The ``convscope`` command."""
    from convscope.cli.process import run

    sys.exit(run(sys.argv[1:]))
