"""`landseg average-probs` as tests call it, and what it leaves."""

import io
import tarfile
from pathlib import Path

from ensembles import published_objects
from PIL import Image

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.labels import LabelsManifest


def average(staged, refs, root, *flags, run_id="r"):
    probs = [text for ref in refs for text in ("--probs", ref)]
    common = ["--storage-uri", str(root), "--run-id", run_id, "--output-dir", str(root / "out")]
    return main(["average-probs", "--dataset", staged, *probs, *common, *flags])


def published(root):
    return storage.read_document(LabelsManifest, str(root / "out" / "labels.json"))


def objects(root, run_id="r"):
    """Published objects by name, but for the results of shards and what is written before the work begins."""
    return named(root / "runs" / run_id)


def named(folder):
    found = {Path(name): data for name, data in published_objects(folder).items()}
    early = ("arguments.json", "identity.json")
    return {path.name: data for path, data in found.items() if "parts" not in path.parts and path.name not in early}


def label_maps(labels, split):
    found = {}
    for archive in labels.document.archives(split):
        data = storage.get_bytes(storage.join(storage.parent(labels.uri), archive.path), sha256=archive.sha256)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found |= {info.name: Image.open(io.BytesIO(tar.extractfile(info).read())) for info in tar}
    return found
