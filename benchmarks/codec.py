"""What each way to store probabilities costs: bytes, label agreement, mIoU change, encode and decode MB/s.

The float32 probabilities of two trained models are stored in each way, and the ensemble's labels compared with those of
float32 averaging. Ways that `--dtype` does not offer are measured by `codec_alternatives`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, trained
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.averaging import Average, Labels
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, Dtype, Probs, Stored, default_dtype
from landseg.probabilities.reader import ProbsReader
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores

TIMED_TILES = 8


def run() -> dict[str, Any]:
    """Measure."""
    dataset = trained.open_dataset()
    readers = exact_probs(dataset)
    tiles = {tile.id: tile for tile in dataset.tiles("val")}
    truth = {tile_id: dataset.read_label("val", tile) for tile_id, tile in tiles.items()}
    exact: dict[str, Labels] = {}
    rows = []
    for dtype in sorted(DTYPES.values(), key=lambda dtype: dtype.name != "float32"):
        rows.append(_measure(dtype, dataset, readers, truth, exact))
    name = default_dtype(dataset.schema.num_classes)
    default = next(row for row in rows if row["dtype"] == name)
    float32_bytes = 4 * dataset.schema.num_classes * trained.SIZE_PX**2
    return {
        "what": f"bytes per tile, {name} against a float32 .npy",
        "ours": round(default["share_of_float32"] * float32_bytes),
        "peer": float32_bytes,
        "ratio": default["share_of_float32"],
        "unit": "bytes per tile",
        "target": 0.1,
        "label_agreement": default["label_agreement"],
        "label_agreement_target": 0.9999,
        "mean_top_probability": {
            reader.spec.model: round(
                statistics.mean(float(probs.max(axis=0).mean()) for _, probs in read_probs(reader)), 3
            )
            for reader in readers
        },
        "table": rows,
        "machine": machine.describe(),
    }


def exact_probs(dataset: StagedDataset) -> list[ProbsReader]:
    """Both trained models' probabilities, in float32."""
    for model in trained.MODELS:
        trained.train(model)
    return [trained.export(model, dataset, "--dtype", "float32", "--precision", "fp32") for model in trained.MODELS]


def read_probs(reader: ProbsReader) -> Iterator[tuple[str, Probs]]:
    """Every tile's id and (C, H, W) float32 probabilities."""
    for index, shard in enumerate(reader.index("val")):
        with reader.shard("val", index) as opened:
            for position, tile in enumerate(shard.tiles):
                yield tile.id, opened.read(position)


def _measure(
    dtype: Dtype,
    dataset: StagedDataset,
    readers: list[ProbsReader],
    truth: dict[str, NDArray[np.uint8]],
    exact: dict[str, Labels],
) -> dict[str, Any]:
    """Store every tile as `dtype`; float32 comes first and fills `exact`."""
    schema = dataset.schema
    average = Average((dtype,) * len(readers), (1.0,) * len(readers), (1.0,) * len(readers))
    num_bytes = num_float32 = same = pixels = 0
    confusions = np.zeros((2, schema.num_classes, schema.num_classes), np.int64)
    encode_s: list[float] = []
    decode_s: list[float] = []
    for tiles in zip(*map(read_probs, readers), strict=True):
        tile_id = tiles[0][0]
        stored = [codec.quantize(probs, dtype) for _, probs in tiles]
        for (_, probs), values in zip(tiles, stored, strict=True):
            chunk = codec.encode_tile(values, values.shape[1:])
            num_bytes += len(chunk)
            num_float32 += probs.nbytes
            if len(encode_s) < TIMED_TILES:
                encode_s.append(seconds(lambda: codec.encode_tile(codec.quantize(probs, dtype), values.shape[1:])))  # noqa: B023
                decode_s.append(seconds(lambda: _decode(chunk, values, dtype)))  # noqa: B023
        labels = average.labels(stored, [tuple(range(len(readers)))])[0]
        reference = exact.setdefault(tile_id, labels)
        same += int(np.count_nonzero(labels == reference))
        pixels += labels.size
        for i, predicted in enumerate((labels, reference)):
            confusions[i] += confusion_matrix(truth[tile_id], predicted, schema.num_classes, schema.ignore_index)
    miou = [scores(confusion, schema.classes)["mIoU"] for confusion in confusions]
    tile_mb = num_float32 / len(truth) / len(readers) / 1e6
    return {
        "dtype": dtype.name,
        "share_of_float32": round(num_bytes / num_float32, 5),
        "label_agreement": round(same / pixels, 7),
        "ensemble_mIoU": round(miou[0], 5),
        "mIoU_change": round(miou[0] - miou[1], 7),
        "encode_MB_per_s": round(tile_mb / statistics.median(encode_s)),
        "decode_MB_per_s": round(tile_mb / statistics.median(decode_s)),
    }


def _decode(chunk: bytes, values: Stored, dtype: Dtype) -> Probs:
    size = values.shape[1:]
    return codec.dequantize(codec.decode_tile(chunk, dtype, len(values), size, size, "benchmark"), dtype)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread: other processes do not count."""
    start = time.thread_time()
    work()
    return time.thread_time() - start
