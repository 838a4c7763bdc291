"""The part of the pipeline that belongs to one model: train it, export its probabilities."""

from typing import Any

from kfp import dsl

from components.export_probs.component import export_probs
from components.models import MODELS
from pipelines.scheduling import EXPORT_PROBS, TRAIN, schedule


def train_and_export(name: str, train: Any) -> Any:
    """Make the sub-pipeline of one model, a group in the DAG view.

    Args:
        name: the model's name in a run.
        train: the model's training component.

    Returns:
        A pipeline whose only output is the reference to the model's probabilities.
    """

    def branch(
        dataset: dsl.Input[dsl.Dataset],
        storage_uri: str,
        run_id: str,
        config: str,
        epochs: int,
        batch_per_gpu: int,
        lr: float,
        seed: int,
        train_splits: str,
        pretrained: str,
        class_weights: str,
        precision: str,
        gpus: int,
        splits: str,
        tta: str,
        dtype: str,
        node_selector: dict,  # type: ignore[type-arg]  # KFP knows no type arguments of dict and list
        tolerations: list,  # type: ignore[type-arg]
    ) -> dsl.Dataset:
        training = train(
            dataset=dataset,
            dataset_uri="",
            storage_uri=storage_uri,
            run_id=run_id,
            config=config,
            epochs=epochs,
            batch_per_gpu=batch_per_gpu,
            lr=lr,
            seed=seed,
            train_splits=train_splits,
            pretrained=pretrained,
            class_weights=class_weights,
            precision=precision,
            gpus=gpus,
        )
        schedule(training, TRAIN, f"train-{name}", node_selector, tolerations)
        export = export_probs(
            dataset=dataset,
            dataset_uri="",
            model=training.outputs["model"],
            model_uri="",
            storage_uri=storage_uri,
            run_id=run_id,
            splits=splits,
            tta=tta,
            dtype=dtype,
        )
        schedule(export, EXPORT_PROBS, f"export-probs-{name}", node_selector, tolerations)
        return export.outputs["probs"]

    return dsl.pipeline(name=name, description=f"Train {name} and export its probabilities.")(branch)


BRANCHES = {name: train_and_export(name, train) for name, train in MODELS.items()}
