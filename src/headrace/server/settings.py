"""The server's settings: flags, `HEADRACE_*` variables and a TOML file, in this order of precedence."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """How the server behaves, whatever it serves."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="forbid", frozen=True)

    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    websocket: bool = False
    max_body_mb: float = Field(default=16, gt=0)
    timeout_ms: float = Field(default=600_000, ge=0)
    stall_timeout_ms: float = Field(default=60_000, ge=0)
    shutdown_timeout: float = Field(default=30, ge=0)
    ping_interval: float = Field(default=15, gt=0)
    resume_window: float = Field(default=300, ge=0)
    resume_mb: float = Field(default=64, gt=0)
