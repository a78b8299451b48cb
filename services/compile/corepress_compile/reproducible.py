"""Packages of equal content get equal bytes.

coremltools writes random UUIDs into ``Manifest.json``, the day into the model's metadata, and
leaves a debugging file of the export beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from coremltools.proto import Model_pb2

_DATE_KEY = "com.github.apple.coremltools.conversion_date"
_DEBUG_FILE = "executorch_debug_handle_mapping.json"


def make_reproducible(package: Path) -> None:
    """Take out of a saved package all that changes from one conversion to the next."""
    (package / _DEBUG_FILE).unlink(missing_ok=True)
    _name_items(package / "Manifest.json")
    model = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    specification = Model_pb2.Model()
    specification.ParseFromString(model.read_bytes())
    specification.description.metadata.userDefined.pop(_DATE_KEY, None)
    model.write_bytes(specification.SerializeToString(deterministic=True))


def _name_items(manifest: Path) -> None:
    """Give the package's items UUIDs that follow from their paths."""
    document = json.loads(manifest.read_text())
    names = {
        old: str(uuid5(NAMESPACE_URL, item["path"]))
        for old, item in document["itemInfoEntries"].items()
    }
    document["itemInfoEntries"] = {
        names[old]: item for old, item in document["itemInfoEntries"].items()
    }
    document["rootModelIdentifier"] = names[document["rootModelIdentifier"]]
    manifest.write_text(json.dumps(document, indent=4, sort_keys=True) + "\n")
