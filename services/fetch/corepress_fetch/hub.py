"""Repositories on a Hugging Face hub: listed by its own client, read as files on a web server.

The client's downloads end in a cache folder; these are hashed on their way into the store.

``HF_ENDPOINT`` names another hub than huggingface.co; the token is the one that `huggingface_hub`
finds: ``HF_TOKEN``, or what ``hf auth login`` left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils._headers import build_hf_headers

from corepress.domain.errors import (
    AccessDenied,
    CorepressError,
    InvalidRequest,
    SourceNotFound,
    SourceUnavailable,
)
from corepress.domain.hub_address import HubAddress
from corepress_fetch.http_file import HttpAccess, HttpFile, Stated
from corepress_fetch.http_retry import retry_after_s, retrying
from corepress_fetch.listing import chosen

_TIMEOUT_S = 30.0
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def open_repository(address: HubAddress) -> tuple[HubAddress, dict[str, HttpFile]]:
    """The files of a repository, as one commit has them.

    Returns:
        the address with that commit as its revision, and the files by relative path.

    Raises:
        SourceNotFound: no such repository, revision or file.
        AccessDenied: it is private, or its licence was not accepted.
        InvalidRequest: no repository can have such a name.
        SourceUnavailable: the hub does not answer.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    info = retrying(lambda: _info(endpoint, address))
    assert info.sha is not None, "a revision has a commit"
    pinned = replace(address, revision=info.sha)
    base = f"{endpoint}/{address.repository}/resolve/{info.sha}"
    access = HttpAccess(build_hf_headers(), _denied_hint(endpoint, address))
    files = {
        path: _file(f"{base}/{quote(entry.rfilename)}", path, entry, access)
        for path, entry in _entries(info, address).items()
    }
    return pinned, files


def _info(endpoint: str, address: HubAddress) -> ModelInfo:
    with _translated(endpoint, address):
        return HfApi(endpoint).model_info(
            address.repository,
            revision=address.revision,
            files_metadata=True,
            timeout=_TIMEOUT_S,
        )


def _entries(info: ModelInfo, address: HubAddress) -> dict[str, RepoSibling]:
    entries = chosen({entry.rfilename: entry for entry in info.siblings or ()}, address.path)
    if not entries:
        raise SourceNotFound(
            f"{address} is neither a file nor a folder of that repository",
            hint="check the spelling; hf://owner/name[@revision][/file]",
            path=str(address),
        )
    return entries


def _file(url: str, path: str, entry: RepoSibling, access: HttpAccess) -> HttpFile:
    sha256 = entry.lfs["sha256"] if entry.lfs else None
    size_bytes = entry.size or 0
    version: dict[str, Any] = {"sha256": sha256} if sha256 else {"git": entry.blob_id}
    stated = Stated(path, size_bytes, {"bytes": size_bytes, **version})
    return HttpFile(url, sha256, access, stated)


def _denied_hint(endpoint: str, address: HubAddress) -> str:
    return (
        f"visit {endpoint}/{address.repository}: ask for access or accept its licence there, "
        "and set HF_TOKEN to a token that may read it"
    )


@contextmanager
def _translated(endpoint: str, address: HubAddress) -> Iterator[None]:
    """What the hub's client raises, as coded errors."""
    try:
        yield
    except HFValidationError as error:
        raise InvalidRequest(
            f"{address}: {error}", hint="hf://owner/name[@revision][/file]", path=str(address)
        ) from error
    except HfHubHTTPError as error:
        raise _coded(error, endpoint, address) from error
    except OfflineModeIsEnabled as error:
        raise SourceUnavailable(
            f"{address}: {error}", hint="unset HF_HUB_OFFLINE", path=str(address)
        ) from error
    except (httpx2.HTTPError, OSError) as error:
        raise SourceUnavailable(
            f"{address}: {error}", hint=f"check the network and {endpoint}", path=str(address)
        ) from error
    except ValueError as error:
        raise SourceUnavailable(
            f"{address}: {endpoint} answers with something else than a hub does ({error})",
            hint="check HF_ENDPOINT",
            path=str(address),
        ) from error


def _coded(error: HfHubHTTPError, endpoint: str, address: HubAddress) -> CorepressError:
    status = error.response.status_code
    said = f"{address}: {error.server_message or f'the hub answers {status}'}"
    page = f"{endpoint}/{address.repository}"
    if isinstance(error, RevisionNotFoundError):
        return SourceNotFound(
            f"{address.repository} has no revision {address.revision!r}",
            hint=f"choose one at {page}/tree/main",
            path=str(address),
        )
    if isinstance(error, RepositoryNotFoundError) and status == HTTPStatus.NOT_FOUND:
        return SourceNotFound(
            f"{address}: there is no such repository, or it is a private one",
            hint=f"check the spelling and visit {page}; HF_TOKEN may open a private one",
            path=str(address),
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AccessDenied(said, hint=_denied_hint(endpoint, address), path=str(address))
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SourceUnavailable(
            said,
            hint="try again later",
            path=str(address),
            retry_after_s=retry_after_s(error.response.headers.get("Retry-After", "")),
        )
    return SourceNotFound(said, hint=f"visit {page}", path=str(address))
