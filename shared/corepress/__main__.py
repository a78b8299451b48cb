"""``python -m corepress``."""

from corepress.cli import main

main()
