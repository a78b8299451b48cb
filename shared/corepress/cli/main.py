"""The ``corepress`` command and its exit statuses."""

from __future__ import annotations

import logging
from typing import Any

import click

from corepress.cli.allocate import allocate
from corepress.cli.doctor import doctor
from corepress.cli.inspect import inspect
from corepress.cli.normalize import normalize
from corepress.cli.output import print_json, usage_document
from corepress.cli.recipes import recipes
from corepress.cli.run import run
from corepress.cli.verify import verify


class _Commands(click.Group):
    """Says what is wrong with a command line in JSON too, where that was asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named."""
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if as_json:
                print_json({"error": usage_document(error)})
            raise


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="corepress", prog_name="corepress")
def main() -> None:
    """Stable Diffusion checkpoints in any layout in, verified Core ML bundles out.

    \b
    Example:
      corepress run model.safetensors --recipe original --out bundles
    """


# it warns on every host that is no Mac, and of every torch newer than itself
logging.getLogger("coremltools").setLevel(logging.ERROR)

for _command in (inspect, normalize, run, verify, allocate, recipes, doctor):
    main.add_command(_command)
