"""What people download: published bundles, beside the store in its bucket."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from corepress.adapters.s3.client import call_object, is_absent, open_client
from corepress.adapters.s3.handle import S3Handle
from corepress.adapters.s3.store import S3Store
from corepress.adapters.s3.upload import Upload
from corepress.adapters.s3.writer import blob_key
from corepress.domain.artifact import Artifact, Blob
from corepress.domain.bundle import MANIFEST
from corepress.domain.errors import StoreUnavailable
from corepress.domain.publication import build_prefix, version_of
from corepress.ports.clock import Clock
from corepress.runtime import catalogue
from corepress.runtime.catalogue_page import PageKeeper

_CONNECTIONS = 8
_COPIED_WHOLE_BYTES = 512 << 20
"""A larger object is copied in parts, several at once; of more than 5 GiB, it has to be."""


class S3Publisher:
    """A `corepress.ports.publisher.Publisher` to ``published/<name>/<build>/<version>/``.

    The server copies the files; they don't pass through here. A version is entered into the
    catalogue when all of its files are there, and never changes.

    Args:
        store: holds the bundles' files.
        clock: tells when something was published.

    Attributes:
        page: of the catalogue; it is kept up with publications, but not with each of many.
    """

    def __init__(self, store: S3Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._location = store.location
        self._client = open_client(store.location)
        self.page = PageKeeper(store, clock)

    def publish(self, job: str, name: str, build: str, bundle: Artifact) -> None:
        """Publish a bundle; equal ones are one version, however often they are published."""
        blob = bundle.files[MANIFEST]
        manifest = json.loads(self._store.open(blob).read(0, blob.size_bytes))
        catalogue.claim_name(self._store, name, manifest["source"])
        prefix = f"{self._location.prefix}{build_prefix(name, build)}{version_of(bundle)}/"
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            placing = [
                pool.submit(self._place, blob, prefix + path) for path, blob in bundle.files.items()
            ]
            for each in placing:
                each.result()
        catalogue.enter(self._store, self._clock, job, name, build, bundle, manifest)
        self.page.published()
        self.page.keep_up()

    def _place(self, blob: Blob, key: str) -> None:
        """Let the server copy a blob to a key, unless it is there."""
        if self._has(blob, key):
            return
        source = blob_key(self._location, blob.digest)
        try:
            if blob.size_bytes <= _COPIED_WHOLE_BYTES:
                whole = {"Bucket": self._location.bucket, "Key": source}
                self._call("copy_object", key, CopySource=whole)
            else:
                self._copy_in_parts(source, blob.size_bytes, key)
        except ClientError as error:
            if not is_absent(error):
                raise
            raise StoreUnavailable(
                f"the store no longer has {blob.digest}, which is to become {key}",
                hint="start the job again: what is missing is made anew",
            ) from error

    def _copy_in_parts(self, source: str, size_bytes: int, key: str) -> None:
        copy = Upload(self._client, self._location, key)
        try:
            copy.copy(S3Handle(self._client, self._location, source, size_bytes), 0, size_bytes)
            copy.complete()
        finally:
            copy.close()

    def _has(self, blob: Blob, key: str) -> bool:
        try:
            return bool(self._call("head_object", key)["ContentLength"] == blob.size_bytes)
        except ClientError as error:
            if is_absent(error):
                return False
            raise

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        return call_object(self._client, self._location, operation, key, **arguments)
