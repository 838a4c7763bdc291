"""plan-export: the shares that the workers of an export take."""

from kfp import dsl

from components.images import image


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp has no types
def plan_export(
    shares: dsl.OutputPath(list),  # type: ignore[valid-type]  # the way KFP declares an output parameter
    storage_uri: str,
    dataset: dsl.Input[dsl.Dataset] = None,
    dataset_uri: str = "",
    splits: str = "val,test",
    workers: int = 1,
) -> dsl.ContainerSpec:
    """Divide an export among workers, no more than it has shards.

    Args:
        shares: what each worker is given, e.g. ["1/2", "2/2"].
        storage_uri: root in object storage, s3://bucket/prefix.
        dataset: what stage-data wrote. Leave it out where dataset_uri is given.
        dataset_uri: URI of a dataset manifest, for a step run by itself.
        splits: comma-separated.
        workers: pods with one GPU each, at most.
    """
    return dsl.ContainerSpec(
        image=image("stage-data"),
        command=["landseg", "plan-export"],
        args=[
            "--dataset",
            dataset_uri,
            "--splits",
            splits,
            "--workers",
            workers,
            "--storage-uri",
            storage_uri,
            "--executor-input",
            "{{$}}",
        ],
    )
