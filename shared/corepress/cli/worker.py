"""``corepress worker``: the workers of some stages on this host."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from corepress.adapters.logging import logged
from corepress.bootstrap import stage_names
from corepress.cli.output import command, print_json, size_text
from corepress.config import read_settings
from corepress.domain.errors import CompilerUnavailable, CorepressError
from corepress.ports.bus import INTAKE
from corepress.ports.telemetry import NodeRef

_LOOK_EVERY_S = 0.2
_LAST_WORDS_S = 15.0
"""What handing a delivery back may take."""


class WorkerLog:
    """A `corepress.ports.telemetry.Telemetry` for whoever looks into a service's log."""

    def started(self, ref: NodeRef) -> None:
        """The stage begins to run."""
        self.say(ref.job, f"{ref.node} ..." if ref.attempt == 1 else f"{ref.node} ... again")

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        """Events tell that."""

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        """The action is committed."""
        if cached:
            self.say(ref.job, f"{ref.node}: done before")
        else:
            memory = size_text(figures["peak_memory_bytes"])
            self.say(ref.job, f"{ref.node}: {figures['seconds']:.1f} s, {memory} of memory")

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        """The delivery failed for now."""
        self.say(ref.job, f"{ref.node}: {error['message']} (again in {delay_s:.0f} s)")

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        """The delivery failed for good."""
        self.say(ref.job, f"{ref.node}: failed, {error['code']}: {error['message']}")

    def trouble(self, error: CorepressError, pause_s: float) -> None:
        """Store or bus failed."""
        self.say("trouble", f"[{error.code}] {error.message} (again in {pause_s:.1f} s)")

    def say(self, subject: str, what: str) -> None:
        """Print a line on stderr."""
        click.echo(f"{subject}: {what}", err=True)


@click.command()
@click.argument("stages", metavar="STAGE...", nargs=-1, required=True)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Downloads and work in progress; by default $COREPRESS_STATE or the user's cache folder.",
)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a step that is running may go on when the worker is told to stop.",
)
@command
def worker(stages: tuple[str, ...], state: Path | None, grace_s: float, as_json: bool) -> None:
    """Work for the fleet: intake, fetch, normalize, convert, compile, publish.

    One step runs at a time; start more workers to use more of a host. SIGTERM and Ctrl-C end it:
    it takes nothing more, finishes what it is at within the grace period or hands it back, to
    be done by others. It may be killed, too: nothing is lost.

    \b
    Examples:
      corepress worker intake fetch normalize publish
      corepress worker convert --grace 120
    """
    from corepress.fleet import FleetWorker  # noqa: PLC0415  (see cli/submit.py)

    known = (INTAKE, *stage_names())
    if unknown := [stage for stage in stages if stage not in known]:
        raise click.BadParameter(
            f"there is no stage {unknown[0]!r}; there are {', '.join(known)}", param_hint="STAGE"
        )
    if "compile" in stages and sys.platform != "darwin":
        raise CompilerUnavailable(
            "a worker of compile: only macOS has a Core ML compiler",
            hint="start it on a Mac; all other stages run here",
        )
    settings = read_settings()
    if state is not None:
        settings = settings.model_copy(update={"state": state})
    log = WorkerLog()
    with logged(log, settings.log) as telemetry:
        fleet = FleetWorker(settings, stages, telemetry, log.say, log.trouble)
        told: list[float] = []

        def stop(_number: int, _frame: object) -> None:
            told.append(time.monotonic())
            fleet.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, stop)
        fleet.start()
        log.say("worker", f"at work on {', '.join(stages)}")
        while not fleet.wait(_LOOK_EVERY_S):
            if not told:
                continue
            waited_s = time.monotonic() - told[0]
            if waited_s > grace_s or len(told) > 1:
                fleet.hand_back()
            if waited_s > grace_s + _LAST_WORDS_S:
                break  # what is not settled is delivered again, to others
    log.say("worker", "stopped")
    if as_json:
        print_json({"stages": list(stages)})
