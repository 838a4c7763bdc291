"""average-probs: the ensemble of one to five models."""

from kfp import dsl

from components.images import image


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp has no types
def average_probs(
    labels: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    confusion_matrix: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    storage_uri: str,
    run_id: str,
    dataset: dsl.Input[dsl.Dataset] = None,
    probs_1: dsl.Input[list[dsl.Dataset]] = None,
    probs_2: dsl.Input[list[dsl.Dataset]] = None,
    probs_3: dsl.Input[list[dsl.Dataset]] = None,
    probs_4: dsl.Input[list[dsl.Dataset]] = None,
    probs_5: dsl.Input[list[dsl.Dataset]] = None,
    dataset_uri: str = "",
    probs_uris: str = "",
    weights: str = "equal",
    temperature: str = "none",
    layers: str = "",
) -> dsl.ContainerSpec:
    """Average the models' probabilities into label maps, and score each model and the ensemble.

    Args:
        labels: reference to the manifest of the label PNGs.
        metrics: mIoU, mAcc and aAcc of each model and of the ensemble.
        confusion_matrix: of the ensemble.
        report: scores side by side, confusion matrix, gallery.
        summary: the scores as JSON.
        storage_uri: root in object storage, s3://bucket/prefix.
        run_id: names the run; results go to <storage_uri>/runs/<run_id>/.
        dataset: what stage-data wrote. Leave it out where dataset_uri is given.
        probs_1: what the workers of export-probs wrote for the first model. Leave it out where probs_uris is given.
        probs_2: of the second model.
        probs_3: of the third model.
        probs_4: of the fourth model.
        probs_5: of the fifth model.
        dataset_uri: URI of a dataset manifest, for a step run by itself.
        probs_uris: URIs of probability manifests, comma-separated, for a step run by itself.
        weights: one number per model in the order of the probs, comma-separated; equal; or auto: fitted to half of val.
        temperature: none, or auto: with weights auto, fit how sharp each model's probabilities should be.
        layers: maps to write beside the labels, comma-separated: entropy, disagreement.
    """
    return dsl.ContainerSpec(
        image=image("average-probs"),
        command=["landseg", "average-probs"],
        args=[
            "--dataset",
            dataset_uri,
            "--probs",
            probs_uris,
            "--weights",
            weights,
            "--temperature",
            temperature,
            "--layers",
            layers,
            "--storage-uri",
            storage_uri,
            "--run-id",
            run_id,
            "--executor-input",
            "{{$}}",
        ],
    )
