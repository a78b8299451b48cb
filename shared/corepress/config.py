"""Settings from the environment; the command line overrides them."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path
from pydantic import ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from corepress.domain.errors import InvalidRequest

_PREFIX = "COREPRESS_"


class Settings(BaseSettings):
    """What a host is told by environment variables named ``COREPRESS_...``."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, frozen=True)

    state: Path = Field(default_factory=lambda: user_cache_path("corepress", appauthor=False))
    cache_limit: ByteSize = ByteSize(50 * 10**9)
    log: Path | None = None
    bus: str | None = None
    store: str | None = None
    s3_virtual_hosts: bool = False
    local_sources: Path | None = None
    lease_s: float = Field(default=60.0, gt=0)


def read_settings() -> Settings:
    """The settings of this host.

    Raises:
        InvalidRequest: a variable's value means nothing; names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        variable = f"${_PREFIX}{wrong['loc'][0]}".upper()
        raise InvalidRequest(
            f"{variable} is {wrong['input']!r}: {wrong['msg']}",
            hint="correct it or unset it; sizes are in bytes, or such as 20GB",
        ) from error
