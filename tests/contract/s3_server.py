"""The S3 server of the tests: a private one, or the one that ``COREPRESS_TEST_S3`` names."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from secrets import token_hex

from corepress.adapters.s3.client import S3Location, open_client

sys.path.append(str(Path(__file__).parents[1] / "servers"))

from radosgw import ACCESS_KEY, SECRET_KEY, Radosgw


@cache
def endpoint() -> str:
    """The server's address; the first call starts it, and sets the credentials."""
    if "COREPRESS_TEST_S3" in os.environ:
        return os.environ["COREPRESS_TEST_S3"]
    folder = tempfile.mkdtemp(prefix="corepress-radosgw-")
    server = Radosgw(Path(folder))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.stop)
    server.start()
    os.environ["AWS_ACCESS_KEY_ID"] = ACCESS_KEY
    os.environ["AWS_SECRET_ACCESS_KEY"] = SECRET_KEY
    return server.endpoint


def new_bucket(prefix: str = "") -> S3Location:
    """An empty bucket."""
    location = S3Location(
        f"corepress-{token_hex(8)}", prefix, endpoint=endpoint(), region="us-east-1"
    )
    open_client(location).create_bucket(Bucket=location.bucket)
    return location
