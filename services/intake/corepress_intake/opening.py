"""Opening jobs: the same submission, however often it comes, is one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corepress.domain.errors import InvalidRequest
from corepress.domain.job import JobRequest
from corepress.ports.bus import Bus
from corepress.ports.store import Store
from corepress.runtime import jobs, oversight
from corepress.runtime.files import local_path
from corepress_intake.request import Submission

Resolve = Callable[[JobRequest], tuple[JobRequest, Mapping[str, Mapping[str, Any]]]]
"""Gives a request with its sources named as they are at this moment, and those by role, as the
fetch stage takes them. A request that it gave it gives again."""


def open_job(store: Store, bus: Bus, submission: Submission, resolve: Resolve) -> bool:
    """Write a job down and send its first messages, unless that was done before.

    Killed at any point, it is to be called again with the same submission.

    Returns:
        whether the job is new.

    Raises:
        PermanentError: a source is not there, or not for us.
        TransientError: store, bus or a source do not answer for now.
    """
    if jobs.is_open(store, submission.job):
        jobs.publish_opening(store, bus, submission.job)
        return False
    request, sources = resolve(submission.request)
    oversight.forget_refusal(store, submission.job)
    standing = jobs.settle_request(store, submission.job, request)
    if standing != request:  # another was faster, or died, when the sources were others
        request, sources = resolve(standing)
    jobs.submit(store, bus, submission.job, request, sources)
    return True


def refuse_hidden_sources(request: JobRequest, folder: Path | None) -> None:
    """Refuse sources on a disk that the fleet's hosts do not share.

    Args:
        request: the job's.
        folder: what they share, under the same path; None: nothing.

    Raises:
        InvalidRequest: names the source.
    """
    paths = {**request.checkpoints}
    if request.options.tokenizer is not None:
        paths["tokenizer"] = request.options.tokenizer
    for role, uri in paths.items():
        path = local_path(uri)
        if path is not None and not (folder and _is_inside(path, folder)):
            raise InvalidRequest(
                f"{uri} is a file of one host, which others of the fleet cannot read",
                hint="give an address; or set COREPRESS_LOCAL_SOURCES, for the workers too, to a "
                "folder that all hosts have under the same path, and give an absolute path in it",
                path=role,
            )


def _is_inside(path: Path, folder: Path) -> bool:
    return path.is_absolute() and path.resolve().is_relative_to(folder.resolve())
