"""Models with random weights, published as training publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from landseg import storage
from landseg.contracts.documents import Blob
from landseg.contracts.model import ModelInput, ModelManifest
from landseg.dataset.reader import StagedDataset
from landseg.models.build import build_model, fit_config
from landseg.models.configs import load_config
from landseg.models.normalisation import find_normalize, set_normalisation
from landseg.models.trained_model import INPUT

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 55.0)


def write_model(
    store: Path,
    dataset: str,
    seed: int = 0,
    *,
    family: str = "swin",
    images: ModelInput | None = None,
    scores: dict[str, float] | None = None,
) -> str:
    """A model of a staged dataset; the URI of its manifest, beside which `model.pth` lies.

    Args:
        store: folder.
        dataset: its manifest.
        seed: of the weights.
        family: swin or resnest.
        images: what the manifest and the checkpoint say of them; None: nothing, as earlier releases.
        scores: of the manifest.
    """
    torch.manual_seed(seed)
    staged = StagedDataset.open(dataset, store)
    schema = staged.schema
    if images is not None:
        schema = schema.model_copy(update={"bands": images.bands, "scale": images.scale})
    num_bands = len(schema.bands)
    mean, std = ((values * num_bands)[:num_bands] for values in (MEAN, STD))
    config = fit_config(load_config(f"{family}_tiny"), schema)
    set_normalisation(config, mean, std)
    if images is not None:  # what the checkpoint's own config says
        mean, std = find_normalize(config, "config")
    folder, path = f"{store}/{family}{seed}", store / "model.pth"
    meta: dict[str, Any] = {"config": config.pretty_text, "CLASSES": list(schema.classes)}
    meta |= {INPUT: images.model_dump(mode="json")} if images else {}
    torch.save({"meta": meta, "state_dict": build_model(config, schema).state_dict()}, path)
    storage.put_file(f"{folder}/model.pth", path)
    manifest = ModelManifest(
        name=family,
        checkpoint=Blob(path="model.pth", size_bytes=path.stat().st_size, sha256=storage.file_sha256(path)),
        config=config.pretty_text,
        class_schema=schema,
        input=images,
        mean=mean,
        std=std,
        metrics=scores or {},
        parameters={},
        versions={},
        dataset_id=staged.manifest.dataset_id,
        dataset_sha256=staged.sha256,
        seconds=0.0,
    )
    return storage.write_document(f"{folder}/manifest.json", manifest).uri
