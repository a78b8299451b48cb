"""The message that asks a stage for work: a job's node with its complete task."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from corepress.domain.errors import InvalidRequest
from corepress.domain.stage import Task
from corepress.messages.envelope import decode, encode

TYPE = "corepress.work.v1"


class _BlobData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    digest: str
    bytes: int


class _TaskData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stage: str
    parameters: dict[str, object]
    inputs: dict[str, dict[str, _BlobData]]


class _WorkData(BaseModel):
    model_config = ConfigDict(extra="forbid")
    job: str
    node: str
    task: _TaskData


@dataclass(frozen=True, slots=True)
class Work:
    """Do this task; it is this node of this job."""

    job: str
    node: str
    task: Task

    def encode(self) -> bytes:
        """The message's bytes."""
        data = {"job": self.job, "node": self.node, "task": self.task.document()}
        return encode(TYPE, f"{self.job}/{self.node}", data)

    @staticmethod
    def decode(body: bytes) -> Work:
        """The inverse of `encode`.

        Raises:
            InvalidRequest: says which field is wrong.
        """
        data = decode(body, TYPE)
        try:
            TypeAdapter(_WorkData).validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(f"work message: {where}: {first['msg']}", path=where) from error
        return Work(data["job"], data["node"], Task.from_document(data["task"]))
