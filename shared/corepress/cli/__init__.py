"""The command line: ``corepress``."""

from corepress.cli.main import main

__all__ = ["main"]
