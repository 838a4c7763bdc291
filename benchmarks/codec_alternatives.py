"""Ways to store probabilities that `--dtype` does not offer, measured as `codec` measures those that it does.

Uniform steps with other numbers of bits, other compressors and filters, the most probable classes alone, and what the
heads compute before enlarging: logits of each view at a quarter of the resolution.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from benchmarks import machine, trained
from benchmarks.codec import exact_probs, read_probs, seconds
from landseg import storage
from landseg.dataset.reader import StagedDataset
from landseg.models.build import load_model, parse_config
from landseg.models.trained_model import open_model
from landseg.prediction.device import default_device
from landseg.prediction.predictor import Predictor
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, Probs

TIMED_TILES = 6
Array = NDArray[Any]


@dataclass(frozen=True)
class Way:
    """A way to store a tile: from float32 probabilities (or its logits) to arrays to be compressed, and back.

    Attributes:
        arrays: (C, H, W) float32 to arrays.
        probs: back.
        cname, shuffle: of Blosc.
    """

    arrays: Callable[[Probs], list[Array]]
    probs: Callable[[list[Array]], Probs]
    cname: bytes = b"zstd"
    shuffle: int = blosc.SHUFFLE

    def encode(self, values: Any) -> list[tuple[bytes, Any, tuple[int, ...]]]:
        """Compress: chunks with type and shape."""
        return [
            (
                blosc.compress(np.ascontiguousarray(array), self.cname, 5, self.shuffle, 1 << 20),
                array.dtype,
                array.shape,
            )
            for array in self.arrays(values)
        ]

    def decode(self, chunks: list[tuple[bytes, Any, tuple[int, ...]]]) -> Probs:
        """Decompress."""
        return self.probs([np.frombuffer(blosc.decompress(c), dtype).reshape(shape) for c, dtype, shape in chunks])


def _uniform(levels: int) -> Way:
    kind = np.uint8 if levels < 256 else np.uint16
    return Way(
        lambda probs: [np.rint(probs * np.float32(levels)).astype(kind)],
        lambda arrays: arrays[0].astype(np.float32) / np.float32(levels),
    )


def _companded(cname: bytes, shuffle: int) -> Way:
    dtype = DTYPES["companded"]
    return Way(
        lambda probs: [codec.quantize(probs, dtype)],
        lambda arrays: codec.dequantize(arrays[0], dtype),
        cname,
        shuffle,
    )


def _top(count: int) -> Way:
    """The most probable classes: their ids, and probabilities in 12 bits; the rest is shared by the others."""

    def arrays(probs: Probs) -> list[Array]:
        ids = np.argsort(-probs, axis=0, kind="stable")[:count].astype(np.uint8)
        return [ids, np.rint(np.take_along_axis(probs, ids.astype(np.intp), 0) * np.float32(4095)).astype(np.uint16)]

    def probs(stored: list[Array]) -> Probs:
        ids, values = stored
        known = values.astype(np.float32) / np.float32(4095)
        num_classes = int(ids.max()) + 1
        rest = np.maximum(1 - known.sum(axis=0), 0) / max(1, _NUM_CLASSES - count)
        full = np.broadcast_to(rest, (max(_NUM_CLASSES, num_classes), *rest.shape)).astype(np.float32)
        np.put_along_axis(full, ids.astype(np.intp), known, 0)
        return full

    return Way(arrays, probs)


_NUM_CLASSES = 9
_LOGITS = Way(lambda logits: [logits.astype(np.float16)], lambda arrays: _from_logits(arrays[0]))
"""(V, C, h, w) float16 logits of the views, before they are enlarged."""

WAYS = {
    "uniform 10 bits": _uniform(1023),
    "uniform 14 bits": _uniform(16383),
    "companded, lz4": _companded(b"lz4", blosc.SHUFFLE),
    "companded, bit shuffle": _companded(b"zstd", blosc.BITSHUFFLE),
    "companded, no shuffle": _companded(b"zstd", blosc.NOSHUFFLE),
    "top 3 classes, 12 bits": _top(3),
    "top 4 classes, 12 bits": _top(4),
}


def run() -> dict[str, Any]:
    """Measure."""
    dataset = trained.open_dataset()
    assert dataset.schema.num_classes == _NUM_CLASSES
    readers = exact_probs(dataset)
    tiles = [[probs for _, probs in read_probs(reader)] for reader in readers]
    rows = [_measure(name, way, tiles, tiles) for name, way in WAYS.items()]
    rows.append(_measure("logits at 1/4, float16", _LOGITS, [_logits(name, dataset) for name in trained.MODELS], tiles))
    return {
        "what": "bytes per tile of the smallest way with 99.99 % of the labels, against a float32 .npy",
        "ours": min(row["share_of_float32"] for row in rows if row["label_agreement"] >= 0.9999),
        "peer": 1.0,
        "unit": "share of float32",
        "table": rows,
        "machine": machine.describe(),
    }


def _measure(name: str, way: Way, given: list[list[Any]], exact: list[list[Probs]]) -> dict[str, Any]:
    num_bytes = same = 0
    encode_s: list[float] = []
    decode_s: list[float] = []
    for number, truths in enumerate(zip(*exact, strict=True)):
        decoded = []
        for values in (model[number] for model in given):
            chunks = way.encode(values)
            num_bytes += sum(len(chunk) for chunk, _, _ in chunks)
            decoded.append(way.decode(chunks))
            if len(encode_s) < TIMED_TILES:
                encode_s.append(seconds(lambda: way.encode(values)))  # noqa: B023
                decode_s.append(seconds(lambda: way.decode(chunks)))  # noqa: B023
        found, expected = (np.sum(probs, axis=0).argmax(axis=0) for probs in (decoded, truths))
        same += int(np.count_nonzero(found == expected))
    first = exact[0][0]
    pixels, tile_mb = len(exact[0]) * first[0].size, first.nbytes / 1e6
    return {
        "way": name,
        "share_of_float32": round(num_bytes / (len(exact) * len(exact[0]) * first.nbytes), 5),
        "label_agreement": round(same / pixels, 7),
        "encode_MB_per_s": round(tile_mb / statistics.median(encode_s)),
        "decode_MB_per_s": round(tile_mb / statistics.median(decode_s)),
    }


def _logits(name: str, dataset: StagedDataset) -> list[Array]:
    """(3, C, h, w) float32 logits of each val tile: original, mirrored, upside down, as the head computes them."""
    found = []
    with tempfile.TemporaryDirectory(prefix="landseg-bench-") as folder:
        model = open_model(str(trained.FOLDER / name / "model.json"), Path(folder))
        checkpoint = Path(folder) / "model.pth"
        storage.get_file(model.checkpoint_uri, checkpoint, sha256=model.checkpoint_sha256)
        config = parse_config(model.config, model.uri)
        network: Any = load_model(config, dataset.schema, checkpoint)
        predict = Predictor(
            network, config, model.mean, model.std, tta="none", precision="fp32", device=default_device()
        )
        with torch.inference_mode():
            for tile in dataset.tiles("val"):
                image = torch.from_numpy(predict.prepare(dataset.read_image("val", tile))[0])[None]
                views = torch.cat([image, image.flip(3), image.flip(2)]).to(default_device())
                logits = network._decode_head_forward_test(network.extract_feat(views), [{}] * len(views))
                found.append(logits.cpu().numpy())
    return found


def _from_logits(stored: Array) -> Probs:
    """Enlarge, softmax, flip back, and average as `--tta hv` does."""
    size = (trained.SIZE_PX, trained.SIZE_PX)
    logits = torch.from_numpy(stored.astype(np.float32))
    views = interpolate(logits, size=size, mode="bilinear", align_corners=False).softmax(1)
    mean: Probs = ((2 * views[0] + views[1].flip(2) + views[2].flip(1)) / 4).numpy()
    return mean
