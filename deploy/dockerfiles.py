"""Writes services/*/Dockerfile from deploy/Dockerfile.template: run it after a change, then commit.

The images differ in name, stage and libraries alone.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = {
    "intake": "intake",
    "fetch": "fetch",
    "normalize": "normalize",
    "compile": "convert",
    "publish": "publish",
}
"""Each service, and the stage that its image runs."""

_TORCH = """\
# On Linux, the package index has torch with gigabytes of CUDA; this one has builds for CPUs.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
"""


def path(service: str) -> Path:
    """Where a service's Dockerfile is."""
    return ROOT / "services" / service / "Dockerfile"


def page(service: str) -> str:
    """The content of a service's Dockerfile."""
    lock = (path(service).parent / "requirements.lock").read_text()
    values = {
        "service": service,
        "stage": STAGES[service],
        "torch": _TORCH if "\ntorch==" in lock else "",
    }
    text = (ROOT / "deploy" / "Dockerfile.template").read_text()
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


if __name__ == "__main__":
    for each in STAGES:
        path(each).write_text(page(each))
