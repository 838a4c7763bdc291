"""export-probs: softmax probabilities of every tile, from one model."""

from kfp import dsl

from components.images import image


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp has no types
def export_probs(
    probs: dsl.Output[dsl.Dataset],
    storage_uri: str,
    run_id: str,
    dataset: dsl.Input[dsl.Dataset] = None,
    model: dsl.Input[dsl.Model] = None,
    dataset_uri: str = "",
    model_uri: str = "",
    splits: str = "val,test",
    tta: str = "hv",
    views: str = "mean",
    dtype: str = "companded",
    worker: str = "1/1",
) -> dsl.ContainerSpec:
    """Predict every tile of the asked splits and store the probabilities.

    Args:
        probs: reference to the probability manifest; of several workers, the last to finish writes it.
        storage_uri: root in object storage, s3://bucket/prefix.
        run_id: names the run; results go to <storage_uri>/runs/<run_id>/.
        dataset: what stage-data wrote. Leave it out where dataset_uri is given.
        model: what a training wrote. Leave it out where model_uri is given.
        dataset_uri: URI of a dataset manifest, for a step run by itself.
        model_uri: URI of a model manifest, for a step run by itself.
        splits: comma-separated.
        tta: views that are averaged: none, h (and its mirror image) or hv (and both mirror images).
        views: mean: store the mean of the views; each: every view by itself too, so that their worth can be scored.
        dtype: how probabilities are stored.
        worker: I/N, the I-th of N shares of the work.
    """
    return dsl.ContainerSpec(
        image=image("export-probs"),
        command=["landseg", "export-probs"],
        args=[
            "--dataset",
            dataset_uri,
            "--model",
            model_uri,
            "--splits",
            splits,
            "--tta",
            tta,
            "--views",
            views,
            "--dtype",
            dtype,
            "--worker",
            worker,
            "--storage-uri",
            storage_uri,
            "--run-id",
            run_id,
            "--executor-input",
            "{{$}}",
        ],
    )
