"""Publishing to repositories on a Hugging Face hub.

A repository gets each build as a folder that is the bundle as it is, the model card of the first,
and an archive of each as apps download it. ``HF_ENDPOINT`` names another hub than huggingface.co;
the token is the one that `huggingface_hub` finds: ``HF_TOKEN``, or what ``hf auth login`` left.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.adapters.app_archive import write_archive
from corepress.domain.apps import FORMS, archive_stem, form_of, resources
from corepress.domain.artifact import Artifact, Blob
from corepress.domain.bundle import MANIFEST, MODEL_CARD
from corepress.domain.errors import AccessDenied, CorepressError, HubUnavailable, InvalidRequest
from corepress.domain.hub_address import HubAddress
from corepress.domain.job import JobRequest
from corepress.domain.publication import hub_target, version_of
from corepress.ports.store import Store
from corepress.runtime import catalogue
from corepress.runtime.jobs import request_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_MAIN = "main"
_MOST_TRIES = 5
_OVERTAKEN = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class HubPublisher:
    """A `corepress.ports.publisher.Publisher` to where a job's request says.

    Where builds are in a catalogue, a repository never gets an older version than the catalogue's
    latest: a commit is made on top of what was looked at, or not at all.

    Args:
        store: holds the bundles' files, jobs and perhaps a catalogue.
        scratch: a folder for archives.
    """

    def __init__(self, store: Store, scratch: Path) -> None:
        self._store = store
        self._scratch = scratch

    def publish(self, job: str, name: str, build: str, bundle: Artifact) -> None:
        """Publish a bundle; where a repository has it already, nothing is done."""
        request = request_of(self._store, job)
        if not request.publish:
            return
        paths = {path: self._local_path(blob) for path, blob in bundle.files.items()}
        for target in map(hub_target, request.publish):
            with tempfile.TemporaryDirectory(dir=_made(self._scratch)) as scratch:
                archive, others = _archives(target, request, build, paths, Path(scratch))
                files = {f"{build}/{path}": file for path, file in paths.items()}
                files[archive.name] = archive
                if build == _builds(request)[0]:
                    files[MODEL_CARD] = paths[MODEL_CARD]
                self._commit(target, name, build, bundle, files, others)

    def _commit(
        self,
        target: HubAddress,
        name: str,
        build: str,
        bundle: Artifact,
        files: Mapping[str, Path],
        others: set[str],
    ) -> None:
        """Have a repository hold these files, and nothing else of this build."""
        # importing it takes a second
        from huggingface_hub import (  # noqa: PLC0415
            CommitOperationAdd,
            CommitOperationDelete,
            HfApi,
        )
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415

        disable_progress_bars()
        api = HfApi(os.environ.get("HF_ENDPOINT"))
        branch = target.revision or _MAIN
        with _translated(api, target):
            api.create_repo(target.repository, private=True, exist_ok=True)
            for tried in range(1, _MOST_TRIES + 1):
                head = api.model_info(target.repository, revision=branch).sha
                if not self._is_latest(name, build, bundle):
                    return
                there = api.list_repo_files(target.repository, revision=head)
                stale = {
                    path
                    for path in set(there) - files.keys()
                    if path in others or path.startswith(f"{build}/")
                }
                try:
                    api.create_commit(
                        target.repository,
                        [
                            *(CommitOperationAdd(path, file) for path, file in files.items()),
                            *(CommitOperationDelete(path) for path in sorted(stale)),
                        ],
                        commit_message=f"{name}, {build}, version {version_of(bundle)}",
                        revision=branch,
                        parent_commit=head,
                    )
                except HfHubHTTPError as error:
                    if error.response.status_code not in _OVERTAKEN or tried == _MOST_TRIES:
                        raise
                else:
                    return

    def _is_latest(self, name: str, build: str, bundle: Artifact) -> bool:
        known = catalogue.versions(self._store, name, build)
        return not known or known[-1].version == version_of(bundle)

    def _local_path(self, blob: Blob) -> Path:
        return self._store.open(blob).local_path()


def _archives(
    target: HubAddress,
    request: JobRequest,
    build: str,
    paths: Mapping[str, Path],
    scratch: Path,
) -> tuple[Path, set[str]]:
    """The archive of a build, and the names of what it takes the place of.

    Of several builds with the same attention, the first has the name that apps look for.
    """
    attention = json.loads(paths[MANIFEST].read_bytes())["recipe"]["attention"]
    alike = [
        each
        for recipe in request.recipes
        for each in recipe.build_names()
        if recipe.attention == attention
    ]
    label = attention if alike[0] == build else f"{build}_{attention}"
    loaded = resources(paths)
    names = {form: f"{archive_stem(target.name, label, form)}.zip" for form in FORMS}
    own = names.pop(form_of(loaded))
    write_archive(scratch / own, loaded)
    return scratch / own, set(names.values())


def _builds(request: JobRequest) -> list[str]:
    return [build for recipe in request.recipes for build in recipe.build_names()]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _translated(api: HfApi, target: HubAddress) -> Iterator[None]:
    """What the hub's client raises, as coded errors."""
    import httpx2  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        yield
    except HfHubHTTPError as error:
        raise _coded(error, api, target) from error
    except (HFValidationError, ValueError) as error:
        raise InvalidRequest(
            f"{target}: {error}", hint="--publish hf://owner/name", path="publish"
        ) from error
    except (httpx2.HTTPError, RuntimeError, OSError) as error:
        # where an upload fails it raises a RuntimeError
        raise HubUnavailable(
            f"{target}: {error}", hint=f"check the network and {api.endpoint}", path=str(target)
        ) from error


def _coded(error: HfHubHTTPError, api: HfApi, target: HubAddress) -> CorepressError:
    status = error.response.status_code
    said = f"{target}: {error.server_message or f'the hub answers {status}'}"
    details: dict[str, Any] = {"path": str(target)}
    if status in (*_OVERTAKEN, *_LATER) or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return HubUnavailable(said, hint="try again later", **details)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        hint = f"set HF_TOKEN to a token that may write to {api.endpoint}/{target.repository}"
        return AccessDenied(said, hint=hint, **details)
    return InvalidRequest(said, hint=f"visit {api.endpoint}/{target.repository}", **details)
