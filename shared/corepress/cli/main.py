"""The ``corepress`` command and its exit statuses."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

import click

from corepress.cli.output import print_json, usage_document

_COMMANDS = {
    "inspect": "inspect",
    "normalize": "normalize",
    "run": "run",
    "verify": "verify",
    "export": "export",
    "recipes": "recipes",
    "allocate": "allocate",
    "doctor": "doctor",
    "submit": "submit",
    "fleet": "fleet",
    "status": "status",
    "watch": "status",
    "cancel": "status",
    "dead-letters": "dead_letters",
    "worker": "worker",
    "topology": "topology",
    "catalogue": "catalogue",
    "promote": "promote",
    "rebuild": "rebuild",
    "gc": "gc",
}
"""The module of each command; only that of the one that is called is loaded."""


class _Commands(click.Group):
    """The commands of `_COMMANDS`, which are functions of their names.

    It says what is wrong with a command line in JSON too, where that was asked for.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Their names."""
        return sorted(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, None of an unknown name."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"corepress.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

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
