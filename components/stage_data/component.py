"""stage-data: raw tiles become an indexed, checksummed dataset in object storage."""

from kfp import dsl

from components.images import image


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp has no types
def stage_data(
    dataset: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    checks: dsl.Output[dsl.Artifact],
    source: str,
    storage_uri: str,
    source_version: str = "",
    on_bad_tile: str = "fail",
    max_bad: int = 10,
) -> dsl.ContainerSpec:
    """Pair, validate and pack raw tiles into tar shards in object storage, with manifest and statistics.

    Args:
        dataset: reference to the dataset manifest.
        report: what is in the dataset: tiles, classes, bands, pictures, problems.
        checks: the report's facts as JSON.
        source: raw tiles (docs/contracts.md, "Raw dataset"): an s3:// prefix, or a folder the pod can see.
        storage_uri: root in object storage, s3://bucket/prefix.
        source_version: anything that changes when the tiles at the source do, which KFP's cache does not see itself.
        on_bad_tile: fail, or skip: leave bad tiles out.
        max_bad: with skip, fail all the same if more tiles are bad.
    """
    return dsl.ContainerSpec(
        image=image("stage-data"),
        command=["landseg", "stage-data"],
        args=[
            "--source",
            source,
            "--storage-uri",
            storage_uri,
            "--on-bad-tile",
            on_bad_tile,
            "--max-bad",
            max_bad,
            "--executor-input",
            "{{$}}",
        ],
    )
