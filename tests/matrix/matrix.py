"""Open what `corepress normalize` writes with old and new diffusers; ``make matrix``.

Builds one virtual environment for each row of `ENVIRONMENTS` below ``build/matrix/``; torch alone,
which is large, is linked from the environment that runs this. Writes ``docs/compatibility.md``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "matrix"
TINY = ROOT / "tests" / "fixtures" / "tiny"
PAGE = ROOT / "docs" / "compatibility.md"

ENVIRONMENTS = (
    ("diffusers==0.28.2", "transformers==4.41.2", "huggingface_hub==0.25.2", "numpy==1.26.4"),
    ("diffusers==0.30.2", "transformers==4.44.2", "huggingface_hub==0.25.2", "numpy==1.26.4"),
    ("diffusers==0.32.2", "transformers==4.48.3", "huggingface_hub==0.29.3", "numpy==2.2.6"),
    ("diffusers==0.35.2", "transformers==4.57.6", "huggingface_hub==0.36.2", "numpy==2.2.6"),
    (),
)
"""What is installed, with all that it needs; the last row is this project's own environment."""
_TORCH_NEEDS = ("sympy", "networkx", "jinja2", "setuptools")
_ACCELERATE = "accelerate==1.2.1"  # older diffusers open no shards without it

FOLDERS = (
    ("sd15-exact", "sd15", []),
    ("sd15-fp16", "sd15", ["--precision", "fp16"]),
    ("sdxl-base-exact", "sdxl-base", []),
    ("sdxl-base-fp32-exact", "sdxl-base", ["--precision", "fp32"]),
)
SHARDED = (("sd15-shards-exact", "sd15", ["--max-shard-size", "400kB"]),)
"""Name, checkpoint, options; the weights of the exact ones are those of the golden outputs."""

_HEAD = """\
# Compatibility

What `corepress normalize` writes is opened by `DiffusionPipeline.from_pretrained(FOLDER)`, without
a `variant` argument, in each of these environments. Every parameter is compared with the file bit
by bit, and UNet, VAE and text encoders with the outputs of the original authors' code. The folders:
SD1.5 and SDXL base in float32 and float16, of the tiny checkpoints in `tests/fixtures/tiny`; and in
the last column SD1.5 in shards, which are only written with `--max-shard-size`. diffusers 0.28.2
opens no shards, not even its own; until 0.32.2 it needs accelerate for them, which is installed.

`make matrix` builds the environments, does this, writes this page, and fails where anything does.

| diffusers | transformers | opens and agrees | in shards |
|---|---|---|---|
"""


def main() -> None:
    """Run the matrix."""
    shutil.rmtree(BUILD, ignore_errors=True)
    columns = [[_folder(*row) for row in rows] for rows in (FOLDERS, SHARDED)]
    rows = [_row(environment, columns) for environment in ENVIRONMENTS]
    PAGE.write_text(_HEAD + "".join(rows))
    print(PAGE.read_text())
    if any("no:" in row for row in rows):
        raise SystemExit(1)


def _folder(name: str, checkpoint: str, options: list[str]) -> str:
    source, folder = TINY / checkpoint, BUILD / "folders" / name
    command = [sys.executable, "-m", "corepress", "normalize", str(source / "model.safetensors")]
    command += ["--original-config", str(source / "config.yaml"), *options]
    for path in source.glob("*.config.json"):
        command += ["--config", f"{path.name.split('.')[0]}={path}"]
    folder.mkdir(parents=True)
    subprocess.run([*command, "--out", str(folder / "pipeline")], check=True, capture_output=True)
    shutil.copyfile(source / "golden.safetensors", folder / "golden.safetensors")
    return str(folder)


def _row(requirements: tuple[str, ...], columns: list[list[str]]) -> str:
    python = _python(requirements)
    script = "from importlib.metadata import version; print(version('{}'))"
    cells = [_said(python, "-c", script.format(name)) for name in ("diffusers", "transformers")]
    opener = str(Path(__file__).with_name("open_folders.py"))
    for folders in columns:
        said = _said(python, opener, *folders)
        cells.append("yes" if said.startswith("{") else f"no: {said}")
    own = Path(__file__).with_name("own_shards.py")
    if not _succeeds(python, str(own), f"{columns[0][0]}/pipeline/unet"):
        cells[-1] = "opens no shards"
    return f"| {' | '.join(cells)} |\n"


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _said(*command: str) -> str:
    """The last line of a command's output, or of its complaint; paths start at ``build/matrix``."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return lines[-1].replace(f"{BUILD}/", "")


def _python(requirements: tuple[str, ...]) -> str:
    if not requirements:
        return sys.executable
    folder = BUILD / requirements[0].replace("==", "-")
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for path in {Path(file).parts[0] for file in distribution("torch").files or ()} - {".."}:
        (packages / path).symlink_to(Path(str(distribution("torch").locate_file(path))))
    install = [python, "-m", "pip", "install", "--quiet", *requirements, *_TORCH_NEEDS, _ACCELERATE]
    subprocess.run(install, check=True)
    return python


if __name__ == "__main__":
    main()
