"""Every error that a user, an operator or a dead letter can meet, with its stable code.

Three kinds decide what the runtime does with a delivery: :class:`PermanentError` (the input is the
cause: give up at once), :class:`TransientError` (something outside is the cause: try again later);
any other exception is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar

_LONGEST_RETRY_AFTER_S = 3600.0


class ExitCode(IntEnum):
    """The exit status of the command line."""

    DONE = 0
    USAGE = 2
    INPUT = 3
    OUTSIDE = 4
    VERIFICATION = 5
    BUG = 70


class CorepressError(Exception):
    """An error with a stable code, what is wrong and where, and a hint that says what to do."""

    code: ClassVar[str] = "internal-error"
    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "", path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path

    def document(self) -> dict[str, Any]:
        """The error as it appears in ``--json``, in events and in dead letters.

        Names of files need not be Unicode; what isn't is written as ``\\udcff``.
        """
        texts = {"message": self.message, "hint": self.hint, "path": self.path}
        return {"code": self.code} | {
            key: text.encode(errors="backslashreplace").decode() for key, text in texts.items()
        }


class PermanentError(CorepressError):
    """The input is the cause; trying again cannot help."""

    exit_code = ExitCode.INPUT


class TransientError(CorepressError):
    """Something outside failed for now; worth another try after ``retry_after_s``.

    That is an hour at most, whatever a server asks for.
    """

    exit_code = ExitCode.OUTSIDE

    def __init__(
        self, message: str, *, hint: str = "", path: str = "", retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, hint=hint, path=path)
        self.retry_after_s = min(retry_after_s, _LONGEST_RETRY_AFTER_S)

    def document(self) -> dict[str, Any]:
        """The error as JSON, with ``retry_after_s``."""
        return super().document() | {"retry_after_s": self.retry_after_s}


class InternalError(CorepressError):
    """A bug of ours, or the death of a stage's process, with its traceback in the message."""


class CorruptCheckpoint(PermanentError):
    """Not a well-formed safetensors, zip or pickle file, or a web page saved under its name."""

    code = "corrupt-checkpoint"


class UnsupportedCheckpoint(PermanentError):
    """Well-formed, but of no family that Corepress knows."""

    code = "unsupported-checkpoint"


class IncompleteCheckpoint(PermanentError):
    """A family matches, but tensors are missing or have the wrong shape."""

    code = "incomplete-checkpoint"


class MissingShard(PermanentError):
    """An index names a weight file that is not there."""

    code = "missing-shard"


class CorruptIndex(PermanentError):
    """A shard index is unreadable or disagrees with its shards."""

    code = "corrupt-index"


class UnsafePath(PermanentError):
    """A file name leads out of the checkpoint's folder."""

    code = "unsafe-path"


class MissingVariant(PermanentError):
    """No weight file has the variant that was asked for."""

    code = "missing-variant"


class UnsafePickle(PermanentError):
    """A pickle without permission to read it, or one that wants more than weights."""

    code = "unsafe-pickle"


class NonFiniteWeights(PermanentError):
    """Weights hold NaN or infinity."""

    code = "non-finite-weights"


class Float16Overflow(PermanentError):
    """Weights hold values that float16 cannot hold, and keeping them in float32 was ruled out."""

    code = "float16-overflow"


class IncompatibleLora(PermanentError):
    """A LoRA that does not fit the checkpoint it is to be merged into."""

    code = "incompatible-lora"


class IncompatibleVae(PermanentError):
    """A VAE that does not fit the checkpoint it is given to."""

    code = "incompatible-vae"


class IncompatibleControlNet(PermanentError):
    """A ControlNet that does not fit the base model it is given to."""

    code = "incompatible-controlnet"


class IncompatibleRefiner(PermanentError):
    """A refiner that does not fit the base model it is given to."""

    code = "incompatible-refiner"


class AmbiguousPredictionType(PermanentError):
    """The weights cannot tell epsilon from v-prediction; an option must."""

    code = "ambiguous-prediction-type"


class MissingConfig(PermanentError):
    """The weights cannot tell a size; a configuration file must."""

    code = "missing-config"


class UnsupportedRecipe(PermanentError):
    """A recipe that is malformed or asks for an impossible combination."""

    code = "unsupported-recipe"


class InvalidRequest(PermanentError):
    """A job request with a missing, unknown or contradictory field."""

    code = "invalid-request"


class InvalidFleetFile(PermanentError):
    """A fleet file that cannot be read, or with something wrong in the lines that are named."""

    code = "invalid-fleet-file"


class OutputConflict(PermanentError):
    """The output folder holds something that Corepress did not write."""

    code = "output-conflict"


class NameTaken(PermanentError):
    """A published name that belongs to another source."""

    code = "name-taken"


class VerificationFailed(PermanentError):
    """A build that differs from its checkpoint by more than the recipe allows."""

    code = "verification-failed"
    exit_code = ExitCode.VERIFICATION


class CompilerUnavailable(PermanentError):
    """A compiled build was required where no Core ML compiler can run."""

    code = "compiler-unavailable"


class CorruptBundle(PermanentError):
    """A package or bundle that is malformed, truncated or disagrees with itself."""

    code = "corrupt-bundle"


class UnsupportedOperation(PermanentError):
    """An ML program that uses an operation which the reference evaluator does not know."""

    code = "unsupported-operation"


class CompilationFailed(PermanentError):
    """The Core ML compiler refused a package."""

    code = "compilation-failed"


class Deadly(PermanentError):
    """Nobody who worked on this step lived to tell: it is not tried again by itself."""

    code = "deadly-step"
    exit_code = ExitCode.OUTSIDE


class Cancelled(PermanentError):
    """Somebody cancelled the job."""

    code = "cancelled"
    exit_code = ExitCode.OUTSIDE


class DiskFull(TransientError):
    """No room for what is about to be written."""

    code = "disk-full"


class OutOfMemory(TransientError):
    """Not enough memory for what is about to run, which would be killed."""

    code = "out-of-memory"


class SourceUnavailable(TransientError):
    """The source does not answer."""

    code = "source-unavailable"


class SourceNotFound(PermanentError):
    """There is nothing under the source's address."""

    code = "source-not-found"


class AccessDenied(PermanentError):
    """The source, the store or the bus refuses our credentials."""

    code = "access-denied"
    exit_code = ExitCode.OUTSIDE


class StoreUnavailable(TransientError):
    """The store does not answer."""

    code = "store-unavailable"


class HubUnavailable(TransientError):
    """The hub that a bundle is to be published to does not answer, or others are quicker."""

    code = "hub-unavailable"


class StoreBusy(TransientError):
    """Another process works on the same embedded store."""

    code = "store-busy"


class BusUnavailable(TransientError):
    """The message bus does not answer."""

    code = "bus-unavailable"


class Interrupted(TransientError):
    """The user stopped the command."""

    code = "interrupted"


def error_types() -> Iterator[type[CorepressError]]:
    """All concrete error classes, in the order in which this module defines them."""
    pending: list[type[CorepressError]] = [CorepressError]
    found: dict[str, type[CorepressError]] = {}
    while pending:
        kind = pending.pop(0)
        pending.extend(kind.__subclasses__())
        if "code" in vars(kind):
            found.setdefault(kind.code, kind)
    yield from found.values()


def from_document(document: dict[str, Any]) -> CorepressError:
    """Rebuild an error from :meth:`CorepressError.document`, as a child process sent it."""
    kinds = {kind.code: kind for kind in error_types()}
    kind = kinds.get(str(document.get("code")), InternalError)
    if kind is CorepressError:
        kind = InternalError
    error = kind(
        str(document.get("message", "")),
        hint=str(document.get("hint", "")),
        path=str(document.get("path", "")),
    )
    if isinstance(error, TransientError):
        error.retry_after_s = float(document.get("retry_after_s", error.retry_after_s))
    return error
