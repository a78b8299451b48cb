"""Make a small checkpoint of the true SD1.5 single-file layout, convert it, show the bundle.

Usage: ``python tests/demo.py FOLDER``. The network has every kind of layer and key that SD1.5 has,
narrower and with fewer layers; its weights are random.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import copyfile

FIXTURE = Path(__file__).parent / "fixtures" / "tiny" / "sd15"


def main(folder: Path) -> None:
    """Run the pipeline on the small checkpoint, then check the bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "demo.safetensors"
    copyfile(FIXTURE / "model.safetensors", checkpoint)
    bundle = folder / "bundles" / "demo" / "original"
    config = FIXTURE / "config.yaml"
    text_encoder = FIXTURE / "text_encoder.config.json"
    options = ["--original-config", str(config), "--config", f"text_encoder={text_encoder}"]
    state = ["--state", str(folder / "state")]
    out = ["--out", str(folder / "bundles")]
    _corepress("inspect", str(checkpoint), *options)
    _corepress("run", str(checkpoint), "--recipe", "original", *options, *state, *out)
    _corepress("verify", str(bundle))


def _corepress(*arguments: str) -> None:
    print("$ corepress", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "corepress", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
