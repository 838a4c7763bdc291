"""A small valid document of each kind, with the objects it lists."""

from __future__ import annotations

import hashlib

from landseg import storage
from landseg.contracts.dataset import ClassSchema, DatasetManifest, Shard, SplitInfo
from landseg.contracts.documents import Blob, Document
from landseg.contracts.labels import LabelsManifest, MapArchive, MemberRecord
from landseg.contracts.model import ModelManifest
from landseg.contracts.probabilities import (
    IndexPart,
    ProbsManifest,
    ProbsShard,
    ProbsSpec,
    ProbsSplit,
    StoredTile,
    tiles_digest,
)
from landseg.contracts.references import Reference

SCHEMA = ClassSchema(classes=("land", "water"), palette=((0, 0, 0), (0, 0, 255)), bands=(1, 2, 3))
DIGEST = "ab" * 32
BYTES = bytes(range(256)) * 8
CONTENT: dict[str, bytes] = {}
"""Of objects that hold something else than `BYTES`."""


def blob(path: str, content: bytes = BYTES) -> Blob:
    return Blob(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def dataset() -> DatasetManifest:
    def split(name: str) -> SplitInfo:
        index = blob(f"tiles-{name}.jsonl")
        shard = Shard(**blob("../shards/one.tar").model_dump(), num_tiles=1)
        return SplitInfo(
            num_tiles=1,
            labelled=True,
            shards=(shard,),
            index=index,
            class_pixels=(3, 1),
            ignored_pixels=0,
            band_mean=(1.5, 2.0, 3.0),
            band_std=(0.5, 0.5, 0.5),
        )

    return DatasetManifest(
        dataset_id="0123456789abcdef",
        name="example",
        class_schema=SCHEMA,
        num_bands=3,
        dtype="uint8",
        splits={"train": split("train"), "val": split("val")},
    )


def model() -> ModelManifest:
    return ModelManifest(
        name="swin",
        checkpoint=blob("model.pth"),
        config="model = dict()",
        class_schema=SCHEMA,
        mean=(1.0, 2.0, 3.0),
        std=(1.0, 1.0, 1.0),
        metrics={"mIoU": 0.5},
        parameters={"lr": 0.1},
        versions={"torch": "2"},
        dataset_id="0123456789abcdef",
        dataset_sha256=DIGEST,
        seconds=1.0,
    )


def probs() -> ProbsManifest:
    spec = ProbsSpec(
        model="swin",
        model_sha256=DIGEST,
        checkpoint_sha256=DIGEST,
        dataset_id="0123456789abcdef",
        dataset_sha256=DIGEST,
        classes=("land", "water"),
        dtype="uint8",
        tta="h",
        views=("original", "horizontal"),
        precision="fp32",
    )
    shard = ProbsShard(
        **blob("val/0/c/0").model_dump(),
        canvas=(4, 4),
        capacity=8,
        tiles=(StoredTile(id="a", height=4, width=4),),
        views=(blob("val/0/v/0"), blob("val/0/v/1")),
    )
    CONTENT["index/val.jsonl"] = row = shard.model_dump_json().encode() + b"\n"
    part = IndexPart(**blob("index/val.jsonl", row).model_dump(), num_shards=1, num_tiles=1)
    digest = tiles_digest(shard.tiles)
    split = ProbsSplit(size_bytes=3 * len(BYTES), largest=(4, 4), tiles_sha256=digest, index=(part,))
    return ProbsManifest(spec=spec, splits={"val": split})


def first_probs() -> ProbsManifest:
    """As :func:`probs`, in version 1: the manifest holds what is in the index since."""
    now = probs()
    shard = ProbsShard.model_validate_json(CONTENT["index/val.jsonl"])
    return ProbsManifest(version=1, spec=now.spec, splits={"val": (shard,)})


def labels() -> LabelsManifest:
    return LabelsManifest(
        dataset_id="0123456789abcdef",
        dataset_sha256=DIGEST,
        class_schema=SCHEMA,
        members=(MemberRecord(model="swin", probs_sha256=DIGEST, weight=1.0),),
        splits={"val": (MapArchive(**blob("val.tar").model_dump(), num_tiles=1),)},
        summary=blob("summary.json"),
        ranking=blob("ranking.csv"),
        report=blob("report.html"),
    )


def first_labels() -> LabelsManifest:
    """As :func:`labels`, in version 1: one archive a split."""
    now = labels()
    return LabelsManifest.model_validate(now.model_dump() | {"version": 1, "splits": {"val": now.archives("val")[0]}})


def reference() -> Reference:
    return Reference(uri="s3://bucket/x", sha256=DIGEST, manifest_kind="landseg.model", facts={"tiles": 3, "ok": True})


MANIFESTS = (dataset, model, probs, labels)
PATHS = {
    "landseg.dataset": ["tiles-train.jsonl", "tiles-val.jsonl", "../shards/one.tar"],
    "landseg.model": ["model.pth"],
    "landseg.probs": ["index/val.jsonl", "val/0/c/0", "val/0/v/0", "val/0/v/1"],
    "landseg.labels": ["val.tar", "summary.json", "ranking.csv", "report.html"],
}


def write(document: Document, folder: str) -> storage.Loaded[Document]:
    """Store a manifest and all that it names."""
    for path in PATHS[document.kind]:
        storage.put_bytes(storage.join(folder, path), CONTENT.get(path, BYTES))
    return storage.write_document(storage.join(folder, "manifest.json"), document)
