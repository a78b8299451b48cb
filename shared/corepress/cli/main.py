"""The ``corepress`` command and its exit statuses."""

from __future__ import annotations

import logging

import click

from corepress.cli.dead_letters import dead_letters
from corepress.cli.doctor import doctor
from corepress.cli.fleet import fleet
from corepress.cli.inspect import inspect
from corepress.cli.normalize import normalize
from corepress.cli.recipes import recipes
from corepress.cli.run import run
from corepress.cli.status import cancel, status, watch
from corepress.cli.submit import submit
from corepress.cli.topology import topology
from corepress.cli.verify import verify
from corepress.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="corepress", prog_name="corepress")
def main() -> None:
    """Stable Diffusion checkpoints in any layout in, verified Core ML bundles out.

    \b
    Example:
      corepress run model.safetensors --recipe original --out bundles
    """


# it warns on every host that is no Mac, and of every torch newer than itself
logging.getLogger("coremltools").setLevel(logging.ERROR)

for _command in (
    *(inspect, normalize, run, verify, recipes, doctor),
    *(submit, fleet, status, watch, cancel, dead_letters, worker, topology),
):
    main.add_command(_command)
