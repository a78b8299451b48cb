"""How near tiny UNets and ControlNets of every kind come to what the original authors' code gave.

    python tests/bench/bench_golden.py

Prints the least figure over all golden timesteps for each kind and attention, in float32 arithmetic
and with every operation rounded to its declared type. Takes a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from convert_support import conforming
from golden_figures import controlnet_db, unet_db
from test_convert_matrix import ATTENTIONS, TARGETS, spec_of

from corepress.domain.recipe import Attention


def cell(name: str, attention: Attention) -> str:
    """The figures of one package: float32, then native."""
    package = conforming(name, spec_of(name, attention))
    figures = [
        controlnet_db(package, arithmetic)
        if name == "controlnet"
        else unet_db(name, package, arithmetic)
        for arithmetic in ("float32", "native")
    ]
    return " / ".join(f"{min(each.values()):.1f}" for each in figures)


def main() -> None:
    """Print a table."""
    print(f"| | {' | '.join(ATTENTIONS)} |\n|---|---|---|---|")
    for name in TARGETS:
        cells = [cell(name, attention) for attention in ATTENTIONS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
