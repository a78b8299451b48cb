"""From the files of a source to the parts of a normalized folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corepress.domain.artifact import Artifact, Blob, Digest
from corepress.domain.checkpoint import (
    ByteSource,
    Decision,
    Identification,
)
from corepress.domain.composition import CHECKPOINT, all_files
from corepress.domain.errors import from_document
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.domain.stage import Handle
from corepress.identify import compose
from corepress.identify.json_file import read_json_object
from corepress_normalize.companions import Folders, companions
from corepress_normalize.documents import MODEL_INDEX, default_model_index, json_file, model_index
from corepress_normalize.engine import Engine, Sink, Weights
from corepress_normalize.facts import checkpoint_facts, component_facts
from corepress_normalize.licence import licence
from corepress_normalize.precision import check_precision
from corepress_normalize.weight_files import weight_files

ROOT = "pipeline"
"""The name of the artifact whose files stand in the normalized folder itself."""
_MODEL_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Normalized:
    """The parts of a normalized folder, and what is known of it.

    ``artifacts`` are its subfolders by name, and under `ROOT` the files in the folder itself, all
    but the manifest. ``digests`` are the components', see `Weights`.
    """

    artifacts: Mapping[str, Artifact]
    facts: Mapping[str, Any]
    digests: Mapping[str, Digest | None]

    @property
    def files(self) -> dict[str, Blob]:
        """The files by their paths in the normalized folder."""
        return {
            path if folder == ROOT else f"{folder}/{path}": blob
            for folder, artifact in self.artifacts.items()
            for path, blob in artifact.files.items()
        }


def normalize(
    sources: Mapping[str, Mapping[str, Handle]],
    options: CheckpointOptions,
    sink: Sink,
    *,
    index: SourceIndex,
    lora_scales: Sequence[float] = (),
    tokenizer: Mapping[str, Handle] | None = None,
    earlier_decisions: Iterable[Decision] = (),
) -> Normalized:
    """Normalize a checkpoint, with what is put into it, into a sink.

    Args:
        sources: the files by relative path of each source, by role.
        options: how they are read and written.
        sink: takes the files.
        index: what is known of the sources' tensors already, with files named by `located`.
        lora_scales: of the LoRAs among the sources, in their order.
        tokenizer: the files of a tokenizer that replaces the source's own.
        earlier_decisions: made when the sources' files were chosen.

    Raises:
        AmbiguousPredictionType: the weights cannot tell it, and no option does.
        InvalidRequest: an option has no such value.
        NonFiniteWeights, Float16Overflow: see `Engine.write`.
        PermanentError: anything that `compose` and `companions` refuse.
    """
    check_precision(options.precision)
    source = sources[CHECKPOINT]
    composition = compose(sources, lora_scales, options.for_identify)
    composition.refuse_misfits()
    identification = composition.whole
    _refuse_problems(identification)
    folders, companion_decisions = companions(identification, source, tokenizer)
    engine = Engine(
        all_files(sources),
        index,
        sink,
        precision=options.precision,
        allow_non_finite=options.allow_non_finite,
        max_shard_bytes=options.max_shard_size,
        overflow=options.overflow,
    )
    weights = engine.write(identification.components.values())
    decisions = dict.fromkeys(
        [
            *earlier_decisions,
            *identification.decisions,
            *_option_decisions(options),
            *companion_decisions,
            *_weight_decisions(identification.components, weights),
        ]
    )
    facts = {
        **checkpoint_facts(identification),
        "clip_skip": options.clip_skip,
        "components": {
            name: component_facts(component, weights[name], identification.family)
            for name, component in identification.components.items()
        },
        "decisions": [asdict(decision) for decision in decisions],
        "licence": _licence(source),
    }
    artifacts = _folders(source, identification, weights, folders, sink)
    return Normalized(artifacts, facts, {name: each.digest for name, each in weights.items()})


def _refuse_problems(identification: Identification) -> None:
    """Raise the first of the problems for which identifying may go on and normalizing may not."""
    for problem in identification.problems:
        raise from_document(asdict(problem))


def _option_decisions(options: CheckpointOptions) -> Iterator[Decision]:
    if options.prediction_type != "auto":
        yield Decision("scheduler", f"prediction type {options.prediction_type}", "asked for")
    if options.clip_skip is not None:
        yield Decision(
            "text_encoder",
            f"clip-skip {options.clip_skip}",
            "asked for; the weights stay, a build takes the output of that layer",
        )


def _weight_decisions(
    components: Iterable[str], weights: Mapping[str, Weights]
) -> Iterator[Decision]:
    for name in components:
        casts = {
            (target.plan.source.dtype, target.dtype)
            for target in weights[name].tensors
            if target.is_cast
        }
        for before, after in sorted(casts):
            yield Decision(name, f"{before} to {after}", "the precision of the weights")
        if weights[name].kept_float32:
            yield Decision(
                name,
                f"kept in float32: {', '.join(weights[name].kept_float32)}",
                "values beyond 65504, the largest float16",
            )
        if weights[name].non_finite:
            yield Decision(
                name,
                f"warning: NaN or infinity in {', '.join(weights[name].non_finite)}",
                "allowed by option",
            )


def _licence(source: Mapping[str, ByteSource]) -> str | None:
    if _MODEL_CARD not in source:
        return None
    card = source[_MODEL_CARD]
    return licence(card.read(0, card.size_bytes).decode(errors="replace"))


def _folders(
    source: Mapping[str, ByteSource],
    identification: Identification,
    weights: Mapping[str, Weights],
    companions: Folders,
    sink: Sink,
) -> dict[str, Artifact]:
    artifacts = {
        folder: Artifact({path: sink.keep_bytes(data) for path, data in files.items()})
        for folder, files in companions.items()
    }
    for name, component in identification.components.items():
        config = sink.keep_bytes(json_file(component.config))
        artifacts[name] = Artifact(
            {"config.json": config, **weight_files(component.kind, weights[name], sink)}
        )
    if identification.pipeline is not None:
        base = (
            read_json_object(source, MODEL_INDEX)
            if MODEL_INDEX in source
            else default_model_index(identification.pipeline, identification.scheduler)
        )
        index = model_index(base, identification.components, companions.keys())
        artifacts[ROOT] = Artifact({MODEL_INDEX: sink.keep_bytes(json_file(index))})
    return artifacts
