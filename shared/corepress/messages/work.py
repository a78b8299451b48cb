"""The message that asks a stage for work: a job's node with its complete task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from corepress.domain.job import HIGHEST_PRIORITY
from corepress.domain.stage import Task
from corepress.messages.envelope import decode, encode

TYPE = "corepress.work.v1"

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
"""Of a job or a node: it is part of keys in the store."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise ValueError("not a path inside a folder")
    return path


_Path = Annotated[str, AfterValidator(_inside)]
"""Of a file: stages lay files out in folders of their own."""

_Digest = Annotated[str, Field(pattern=r"^(sha256|tensors|arranged):[0-9a-f]{64}$")]


class _PartData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: _Path
    digest: _Digest


class _BlobData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    digest: _Digest
    bytes: int = Field(ge=0)
    part_of: _PartData | None = None


class _TaskData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stage: str
    parameters: dict[str, Any]
    inputs: dict[str, dict[_Path, _BlobData]]


class _WorkData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    job: _Name
    node: _Name
    task: _TaskData
    priority: int = Field(default=0, ge=0, le=HIGHEST_PRIORITY)


@dataclass(frozen=True, slots=True)
class Work:
    """Do this task; it is this node of this job, and has its priority."""

    job: str
    node: str
    task: Task
    priority: int = 0

    def encode(self) -> bytes:
        """The message's bytes."""
        data: dict[str, Any] = {
            "job": self.job,
            "node": self.node,
            "task": self.task.document(),
        }
        if self.priority:
            data["priority"] = self.priority
        return encode(TYPE, f"{self.job}/{self.node}", data)

    @staticmethod
    def decode(body: bytes) -> Work:
        """The inverse of `encode`.

        Raises:
            InvalidRequest: says which field is wrong.
        """
        data = decode(body, TYPE, _WorkData)
        task = Task.from_document(data.task.model_dump())
        return Work(data.job, data.node, task, data.priority)
