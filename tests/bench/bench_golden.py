"""How near tiny UNets and ControlNets of every kind come to what the original authors' code gave.

    python tests/bench/bench_golden.py

Prints the least figure over all golden timesteps for each kind and attention, in float32 arithmetic
and with every operation rounded to its declared type. Takes a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from test_convert_matrix import TARGETS, golden_db, network_of, spec_of, write

from corepress.domain.recipe import Attention
from corepress.evaluate import Package
from corepress_compile.export import convert_graph

ATTENTIONS: tuple[Attention, ...] = ("original", "split_einsum", "split_einsum_v2")


def cell(name: str, attention: Attention) -> str:
    """The figures of one package: float32, then native."""
    spec = spec_of(name, attention)
    graph = convert_graph(spec, network_of(name, spec), lambda *_: None)
    with TemporaryDirectory() as folder:
        package = Package.open(write(name, spec, graph, Path(folder)))
        float32, native = (golden_db(name, package, each) for each in ("float32", "native"))
    return f"{min(float32.values()):.1f} / {min(native.values()):.1f}"


def main() -> None:
    """Print a table."""
    print(f"| | {' | '.join(ATTENTIONS)} |\n|---|---|---|---|")
    for name in TARGETS:
        cells = [cell(name, attention) for attention in ATTENTIONS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
