"""The parts of the pipelines that belong to one model: export its probabilities, and before it train it."""

from typing import Any

from kfp import dsl

from components.export_probs.component import export_probs
from components.models import MODELS
from components.plan_export.component import plan_export
from pipelines.dags.scheduling import EXPORT_PROBS, PLAN_EXPORT, TRAIN, schedule


def export(
    name: str,
    *,
    dataset: Any,
    workers: Any,
    storage_uri: Any,
    splits: Any,
    node_selector: Any,
    tolerations: Any,
    **arguments: Any,
) -> Any:
    """Export a model's probabilities by a number of workers that is known when the pipeline runs.

    Args:
        name: the model's name in a run.
        dataset: what stage-data wrote.
        workers: pods with one GPU each, at most.
        storage_uri: root in object storage.
        splits: splits to predict, comma-separated.
        node_selector: of the workers' nodes.
        tolerations: of the workers' nodes.
        arguments: the other arguments of the component.

    Returns:
        The references that the workers leave: a list of artifacts.
    """
    plan = plan_export(dataset=dataset, dataset_uri="", storage_uri=storage_uri, splits=splits, workers=workers)
    schedule(plan, PLAN_EXPORT, f"plan-export-{name}")
    with dsl.ParallelFor(plan.outputs["shares"], name=f"workers-{name}") as share:
        worker = export_probs(
            dataset=dataset, dataset_uri="", storage_uri=storage_uri, splits=splits, worker=share, **arguments
        )
        schedule(worker, EXPORT_PROBS, f"export-probs-{name}", node_selector, tolerations)
    return dsl.Collected(worker.outputs["probs"])


def train_and_export(name: str, train: Any) -> Any:
    """Make the sub-pipeline of one model, a group in the DAG view.

    Args:
        name: the model's name in a run.
        train: the model's training component.

    Returns:
        A pipeline whose only output are the references to the model's probabilities, one per worker.
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
        export_workers: int,
        splits: str,
        tta: str,
        views: str,
        dtype: str,
        node_selector: dict,  # type: ignore[type-arg]  # KFP knows no type arguments of dict and list
        tolerations: list,  # type: ignore[type-arg]
    ) -> list[dsl.Dataset]:
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
        return export(  # type: ignore[no-any-return]
            name,
            dataset=dataset,
            workers=export_workers,
            model=training.outputs["model"],
            model_uri="",
            storage_uri=storage_uri,
            run_id=run_id,
            splits=splits,
            tta=tta,
            views=views,
            dtype=dtype,
            node_selector=node_selector,
            tolerations=tolerations,
        )

    return dsl.pipeline(name=name, description=f"Train {name} and export its probabilities.")(branch)


def export_only(name: str) -> Any:
    """Make the sub-pipeline of a model that is already trained, a group in the DAG view.

    Args:
        name: the model's name in a run.

    Returns:
        As :func:`train_and_export`.
    """

    def branch(
        dataset: dsl.Input[dsl.Dataset],
        model_uri: str,
        storage_uri: str,
        run_id: str,
        export_workers: int,
        splits: str,
        tta: str,
        views: str,
        dtype: str,
        node_selector: dict,  # type: ignore[type-arg]
        tolerations: list,  # type: ignore[type-arg]
    ) -> list[dsl.Dataset]:
        return export(  # type: ignore[no-any-return]
            name,
            dataset=dataset,
            workers=export_workers,
            model_uri=model_uri,
            storage_uri=storage_uri,
            run_id=run_id,
            splits=splits,
            tta=tta,
            views=views,
            dtype=dtype,
            node_selector=node_selector,
            tolerations=tolerations,
        )

    return dsl.pipeline(name=name, description=f"Export the probabilities of {name}.")(branch)


BRANCHES = {name: train_and_export(name, train) for name, train in MODELS.items()}
EXPORTS = {name: export_only(name) for name in MODELS}
