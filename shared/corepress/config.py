"""Settings from the environment; the command line overrides them."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path
from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a host is told by environment variables named ``COREPRESS_...``."""

    model_config = SettingsConfigDict(env_prefix="COREPRESS_", env_ignore_empty=True, frozen=True)

    state: Path = Field(default_factory=lambda: user_cache_path("corepress", appauthor=False))
    cache_limit: ByteSize = ByteSize(50 * 10**9)
    log: Path | None = None
