"""A staged dataset, and made-up probabilities of three models on it."""

import pytest
from ensembles import export, open_dataset, stage


@pytest.fixture(scope="session")
def staged(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("staged"))


@pytest.fixture
def dataset(staged, tmp_path):
    return open_dataset(staged, tmp_path)


@pytest.fixture(scope="session")
def exported(staged, tmp_path_factory):
    """Three models' probabilities, by name."""
    folder = tmp_path_factory.mktemp("probs")
    dataset = open_dataset(staged, folder)
    return {model: export(folder / model, dataset, model) for model in ("swin", "resnest", "third")}
