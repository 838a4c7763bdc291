"""What is known about the training of an ensemble's models."""

from __future__ import annotations

from collections.abc import Sequence

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.errors import LandsegError
from landseg.contracts.model import ModelManifest
from landseg.contracts.references import ARGUMENTS, Arguments
from landseg.ensemble.members import Member


def model_of(member: Member) -> ModelManifest | None:
    """The manifest of the model that made the probabilities, if it is still where the export read it."""
    folder = storage.parent(member.reader.uri)
    try:
        arguments = storage.read_document(Arguments, storage.join(folder, ARGUMENTS)).document
        loaded = storage.read_document(ModelManifest, str(arguments.values["model_uri"]))
    except (LandsegError, KeyError):  # a bare checkpoint, or a model that was moved or pruned
        return None
    return loaded.document if loaded.sha256 == member.reader.spec.model_sha256 else None


def seen_by(members: Sequence[Member], dataset_id: str, split: Split) -> tuple[str, ...]:
    """The names of the models that are known to have been trained on a split of a dataset."""
    models = {member.name: model_of(member) for member in members}
    return tuple(
        name
        for name, model in models.items()
        if model and model.dataset_id == dataset_id and split in _train_splits(model)
    )


def _train_splits(model: ModelManifest) -> Sequence[object]:
    """What a manifest says of them; its parameters have no contract."""
    found = model.parameters.get("train_splits")
    return found if isinstance(found, list | tuple) else ()
