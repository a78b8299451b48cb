"""What ``corepress verify`` does: bundles and lone packages, with or without their checkpoint.

Imports torch and coremltools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from corepress.cli.progress import ProgressDisplay
from corepress.domain.artifact import Digest
from corepress.domain.bundle import (
    CHUNK_NUMBERS,
    attached_controlnet,
    component_of,
    model_name,
    model_of,
    whole_of,
)
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import InvalidRequest, MissingConfig, VerificationFailed
from corepress.domain.figures import Figures, outputs_below
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.recipe import (
    DEFAULT_MIN_PSNR_DB,
    DENOISERS,
    SIZED,
    SOURCE_COMPONENT,
    UNETS,
    gives_epsilon,
)
from corepress.evaluate import Package
from corepress.runtime.files import LocalFile, local_path
from corepress.runtime.weights_digest import weights_digest
from corepress_compile.interface import check_packages, spec_of
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec
from corepress_fetch.local_copy import local_copies
from corepress_normalize.documents import MANIFEST
from corepress_normalize.folder import normalize_folder
from corepress_publish.published import (
    Manifest,
    PublishedModel,
    check_sums,
    missing_from,
    read_manifest,
)


@dataclass(slots=True)
class ModelReport:
    """One model: what was checked of it, and its figures where it was evaluated.

    ``same_weights`` says whether the checkpoint's weights are those that the bundle names, None
    where that is not known.
    """

    path: str
    checked: list[str]
    precision: str
    inputs: list[Mapping[str, Any]]
    outputs: list[Mapping[str, Any]]
    min_psnr_db: float
    psnr_db: Figures = field(default_factory=dict)
    same_weights: bool | None = None


@dataclass(slots=True)
class Report:
    """What was checked; ``missing`` is what a bundle lacks to make images with it alone, None of a
    lone package; ``image`` is what `corepress.cli.image.draw` tells."""

    bundle: str
    against: str | None
    family: str | None
    checked: list[str]
    missing: list[str] | None
    models: dict[str, ModelReport]
    image: Mapping[str, Any] | None = None

    @property
    def failures(self) -> list[str]:
        """The outputs below their threshold, in words."""
        return [
            f"{name}: {output} agrees with the checkpoint to {reached} dB only, "
            f"{model.min_psnr_db} dB were asked for"
            for name, model in self.models.items()
            for output, reached in outputs_below(model.psnr_db, model.min_psnr_db).items()
        ]

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self) | {"complete": self.missing == [] if self.missing is not None else None}


@dataclass(frozen=True, slots=True)
class Source:
    """A normalized checkpoint: its folder, its family, and the digests of its weights."""

    folder: Path
    family: str
    digests: Mapping[str, Digest]


@contextmanager
def opened_sources(request: JobRequest, display: ProgressDisplay) -> Iterator[dict[str, Source]]:
    """The checkpoint under `CHECKPOINT`, and others by the names of their models in a bundle.

    Raises:
        PermanentError, TransientError: see `local_copies` and `normalize_folder`.
    """
    attached = {attached_controlnet(uri): uri for uri in request.controlnets}
    if request.refiner:
        attached["unet_refiner"] = request.refiner
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(_opened(uri, options, display))
            for name, uri, options in (
                (CHECKPOINT, request.source, request.options),
                *((name, uri, request.options.for_attachments) for name, uri in attached.items()),
            )
        }


@contextmanager
def _opened(uri: str, options: CheckpointOptions, display: ProgressDisplay) -> Iterator[Source]:
    """A checkpoint, normalized for the while unless it is a normalized folder already."""
    path = local_path(uri)
    asked = replace(options, clip_skip=None) != CheckpointOptions()
    if path is not None and (path / MANIFEST).is_file() and not asked:
        yield _source(path)
        return
    with TemporaryDirectory(prefix="corepress-verify-") as temporary:
        folder = Path(temporary) / "normalized"
        with local_copies(uri, options, folder, display.activity) as (copy, local_options):
            display.say(f"normalizing {uri}")
            normalize_folder(copy, folder, local_options, display.activity)
        yield _source(folder)


def _source(folder: Path) -> Source:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        digests = {name: _weights_digest(folder / name) for name in manifest["components"]}
        return Source(folder, str(manifest["family"]), digests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingConfig(
            f"cannot read {path}: {error!r}",
            hint="normalize the checkpoint again",
            path=str(path),
        ) from error


def _weights_digest(folder: Path) -> Digest:
    return weights_digest(map(LocalFile, sorted(folder.glob("*.safetensors"))))


@dataclass(frozen=True, slots=True)
class Checked:
    """What was checked without a checkpoint, and what can be evaluated against one.

    ``packages`` has each model or its two chunks, by their own names in the report, by the name of
    the whole.
    """

    report: Report
    packages: Mapping[str, Mapping[str, Package]]
    manifest: Manifest | None


def check_package(path: Path) -> Checked:
    """Check a lone ``.mlpackage``; a chunk is checked together with the one beside it.

    Raises:
        VerificationFailed: its interface is not one that apps read.
        PermanentError: see `Package.open`.
    """
    packages = {each.stem: Package.open(each) for each in _with_chunks(path)}
    check_packages(list(packages.values()))
    models = {
        name: _model_report(package, package.path.name, DEFAULT_MIN_PSNR_DB[package.precision])
        for name, package in packages.items()
    }
    return Checked(
        Report(str(path), None, None, ["interface"], None, models), {path.stem: packages}, None
    )


def _with_chunks(path: Path) -> list[Path]:
    whole = whole_of(model_of(path))
    if whole == model_of(path):
        return [path]
    return [path.with_stem(f"{whole}Chunk{number}") for number in CHUNK_NUMBERS]


def check_bundle(bundle: Path, display: ProgressDisplay) -> Checked:
    """Check a published bundle: its files, and the interface of its packages.

    Of compiled models, only the files.

    Raises:
        CorruptBundle: it disagrees with itself.
        VerificationFailed: a file differs from what was published, or an interface from what
            apps read.
    """
    manifest = read_manifest(bundle)
    display.say("checksums ...")
    check_sums(bundle, lambda done, total: display.activity("checksums", done, total))
    report = Report(
        str(bundle), None, manifest.family, ["checksums"], missing_from(bundle, manifest), {}
    )
    models: dict[str, dict[str, Package]] = {}
    for component, model in manifest.components.items():
        least_db = manifest.recipe.threshold_db(model.precision)
        if model.path.endswith(".mlpackage"):
            package = Package.open(bundle / model.path)
            models.setdefault(whole_of(component), {})[component] = package
            entry = _model_report(package, model.path, least_db)
            _hold_to_manifest(component, model, entry)
        else:
            entry = ModelReport(
                model.path, [], model.precision, model.inputs, model.outputs, least_db
            )
        entry.checked.insert(0, "checksums")
        report.models[component] = entry
    for packages in models.values():
        check_packages(list(packages.values()), published_spec(manifest, next(iter(packages))))
    if models:
        report.checked.append("interface")
    return Checked(report, models, manifest)


def refuse_other_kind(checked: Checked, source: Source) -> None:
    """Refuse what cannot be compared at all.

    Raises:
        VerificationFailed: it is a checkpoint of another kind.
        InvalidRequest: there is nothing to evaluate.
    """
    manifest, report = checked.manifest, checked.report
    if not checked.packages:
        raise InvalidRequest(
            f"{report.bundle} holds compiled models only, which the evaluator cannot read",
            hint="leave --against out, or build the bundle again with --compile never",
            path=report.bundle,
        )
    if manifest and source.family != manifest.family:
        raise VerificationFailed(
            f"the bundle is of the family {manifest.family}, the checkpoint of {source.family}",
            hint="give the checkpoint that the bundle was made of",
        )


def evaluate_against(
    checked: Checked,
    sources: Mapping[str, Source],
    clip_skip: int | None,
    native: bool,
    display: ProgressDisplay,
) -> None:
    """Compare the packages with their checkpoint; the figures are added to the report.

    Args:
        checked: what to evaluate.
        sources: the checkpoints, see `opened_sources`; what was made of another than these is left
            out.
        clip_skip: of a lone text encoder that does not say; a bundle's manifest tells it.
        native: whether to take the native figures too.
        display: is told how far it has come.

    Raises:
        InvalidRequest: there is nothing to compare a model with.
        PermanentError: see `measure`.
    """
    manifest, report, source = checked.manifest, checked.report, sources[CHECKPOINT]
    report.family = source.family
    report.checked.append("figures")
    for whole, packages in checked.packages.items():
        *_, (name, package) = packages.items()
        attached = whole if manifest and whole in manifest.attachments else None
        if attached and attached not in sources:
            continue
        source = sources[attached or CHECKPOINT]
        if manifest:
            spec = published_spec(manifest, name, source.folder / "scheduler")
        else:
            spec = spec_of(
                list(packages.values()), source.family, clip_skip, source.folder / "scheduler"
            )
        component = SOURCE_COMPONENT[spec.component]
        if component not in source.digests:
            raise InvalidRequest(
                f"the checkpoint has no {component} to compare {package.path.name} with",
                hint=f"it has: {', '.join(source.digests)}",
            )
        display.say(f"evaluating {whole} ...")
        model = report.models[name]  # of the second chunk, which gives the outputs
        model.psnr_db = measure(
            spec,
            source.folder / component,
            [each.path for each in packages.values()],
            partial(_show_progress, display, name),
            native=native,
        )
        for each in packages:
            report.models[each].checked.append("figures")
            if manifest:
                published = manifest.normalized.get(attached or component)
                report.models[each].same_weights = source.digests[component] == published


def published_spec(manifest: Manifest, name: str, scheduler: Path | None = None) -> BuildSpec:
    """What a model of a bundle was built as.

    Args:
        manifest: of the bundle.
        name: of the model in it.
        scheduler: the folder of the checkpoint's scheduler; only evaluating needs it.
    """
    component = component_of(name)
    attached = manifest.attachments.get(whole_of(name))
    parameters: dict[str, Any] = {
        "component": component,
        "family": attached.family if attached else manifest.family,
        "precision": manifest.components[name].precision,
        "deployment_target": manifest.recipe.deployment_target,
        "batch": manifest.recipe.batch if component in DENOISERS else 1,
        "clip_skip": manifest.clip_skip,
        "guidance_scale": manifest.recipe.guidance_scale,
        "epsilon_output": component in UNETS
        and gives_epsilon(manifest.recipe.prediction_type, manifest.trained_prediction_type or ""),
    }
    if component in SIZED:
        (size,) = manifest.sizes
        parameters |= {"size": size, "vae_scale_factor": manifest.vae_scale_factor}
    return BuildSpec.from_parameters(parameters, scheduler)


def _show_progress(display: ProgressDisplay, name: str, done: float) -> None:
    display.activity(name, done, 1, "part")


def _model_report(package: Package, path: str, least_db: float) -> ModelReport:
    return ModelReport(
        path,
        ["interface"],
        package.precision,
        [feature.document() for feature in package.inputs],
        [feature.document() for feature in package.outputs],
        least_db,
    )


def _hold_to_manifest(name: str, model: PublishedModel, found: ModelReport) -> None:
    kind = model_of(PurePosixPath(model.path))
    stated = (model_name(name), model.precision, model.inputs, model.outputs)
    if stated != (kind, found.precision, found.inputs, found.outputs):
        raise VerificationFailed(
            f"{model.path} is not what manifest.json says of {name}", path=model.path
        )
