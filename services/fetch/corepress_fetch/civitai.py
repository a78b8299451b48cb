"""Model versions on Civitai.

``CIVITAI_ENDPOINT`` names another server than https://civitai.com; ``CIVITAI_API_TOKEN`` is the
token that many downloads need.
Source: https://developer.civitai.com/site/reference/model-versions
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from corepress.domain.errors import InvalidRequest, SourceNotFound, SourceUnavailable
from corepress_fetch.http_file import HttpAccess, HttpFile, Stated
from corepress_fetch.http_retry import refuse_status, retrying, translated
from corepress_fetch.listing import chosen

_ENDPOINT = "https://civitai.com"
_ADDRESS = re.compile(r"civitai://(?P<version>\d+)(?:/(?P<name>[^/]+))?/?", re.IGNORECASE)
_MODELS = ("Model", "Pruned Model")
_CONFIGURATION = "Config"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def open_version(uri: str) -> tuple[str, dict[str, HttpFile]]:
    """The model file of a version: the primary one, safetensors before pickles.

    Beside it, where there is one, the configuration that it was trained with.

    Args:
        uri: ``civitai://VERSION``, or ``civitai://VERSION/FILE`` for another of its files.

    Returns:
        the address with the file's name, and the files by name.

    Raises:
        InvalidRequest: no such address.
        SourceNotFound: no such version, or it has no such file.
        AccessDenied: it needs a token, or another one.
        SourceUnavailable: the server does not answer.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise InvalidRequest(
            f"{uri} names no model version",
            hint="civitai://VERSION, the number behind modelVersionId= on the model's page",
            path=uri,
        )
    endpoint = (os.environ.get("CIVITAI_ENDPOINT") or _ENDPOINT).rstrip("/")
    version = retrying(partial(_version, endpoint, uri, found["version"]))
    model = _chosen(uri, version, unquote(found["name"] or ""))
    name = str(model["name"])
    entries = {name: model}
    if model.get("type") in _MODELS:
        entries |= {
            str(PurePosixPath(name).with_suffix(".yaml")): entry
            for entry in version["files"]
            if entry.get("type") == _CONFIGURATION
        }
    files = {path: _file(path, endpoint, version, entry) for path, entry in entries.items()}
    return f"civitai://{found['version']}/{quote(name)}", chosen(files, "")


def _version(endpoint: str, uri: str, version: str) -> Mapping[str, Any]:
    access = _access(endpoint, endpoint)
    with translated(uri):
        response = access.client.get(f"{endpoint}/api/v1/model-versions/{version}")
    refuse_status(response, uri, access.denied_hint)
    try:
        document: Mapping[str, Any] = response.json()
        document["files"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SourceUnavailable(
            f"{uri}: {endpoint} answers with something else than Civitai does",
            hint="check CIVITAI_ENDPOINT, or try again later",
            path=uri,
        ) from error
    return document


def _chosen(uri: str, version: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    files = version["files"]
    if name:
        wanted = [entry for entry in files if entry["name"] == name]
    else:
        wanted = sorted((entry for entry in files if entry.get("type") in _MODELS), key=_preference)
    if not wanted:
        names = ", ".join(entry["name"] for entry in files) or "nothing"
        raise SourceNotFound(
            f"{uri}: there is no {name or 'model'} in this version",
            hint=f"it has {names}",
            path=uri,
        )
    return dict(wanted[0])


def _preference(entry: Mapping[str, Any]) -> tuple[bool, bool]:
    is_safe = (entry.get("metadata") or {}).get("format") == "SafeTensor"
    return not is_safe, not entry.get("primary", False)


def _file(
    name: str, endpoint: str, version: Mapping[str, Any], entry: Mapping[str, Any]
) -> HttpFile:
    address = str(entry["downloadUrl"])
    access = _access(endpoint, address, f"/models/{version.get('modelId', '')}")
    sha256 = str((entry.get("hashes") or {}).get("SHA256", "")).lower()
    if not _SHA256.fullmatch(sha256):
        return HttpFile(address, None, access)
    size_bytes = HttpFile(address, sha256, access).size_bytes  # the list has it rounded
    stated = Stated(name, size_bytes, {"bytes": size_bytes, "sha256": sha256})
    return HttpFile(address, sha256, access, stated)


def _access(endpoint: str, address: str, page: str = "") -> HttpAccess:
    """How to ask for what is at an address; only Civitai itself gets the token."""
    token = os.environ.get("CIVITAI_API_TOKEN")
    is_own = urlsplit(address).netloc == urlsplit(endpoint).netloc
    return HttpAccess(
        {"Authorization": f"Bearer {token}"} if token and is_own else {},
        f"visit {endpoint}{page}, and set CIVITAI_API_TOKEN to a token of an account "
        "that may download it",
    )
