"""Softmax probabilities of tiles: mmseg's `whole` inference with MultiScaleFlipAug, batched and in any precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import mmcv
import numpy as np
import torch
from mmseg.models import EncoderDecoder
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from landseg.contracts.choices import Precision
from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import LandsegError
from landseg.contracts.probabilities import VIEW_WEIGHTS, VIEWS, Tta, View
from landseg.models.build import load_model
from landseg.models.configs import parse_config
from landseg.models.failures import failure, is_out_of_memory, out_of_memory
from landseg.models.late_fusion import fuse_late
from landseg.models.precision import TORCH_DTYPES, autocast, cpu_has_bf16
from landseg.models.preprocessing import Image, Planes, expects_rgb, normalisation_table, tile_padding, tile_scales
from landseg.models.trained_model import TrainedModel
from landseg.raw.processes import num_cpus

_MOVES: dict[View, tuple[bool, tuple[int, ...]]] = {
    "original": (False, ()),
    "horizontal": (False, (3,)),
    "vertical": (False, (2,)),
    "rotated_180": (False, (2, 3)),
    "transposed": (True, ()),
    "rotated_90": (True, (3,)),
    "rotated_270": (True, (2,)),
    "anti_transposed": (True, (2, 3)),
}
"""How a view is made of (N, C, H, W): whether rows and columns are exchanged, and the axes that are then flipped."""


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def num_gpus() -> int:
    """GPUs that predicting uses: one, or none where there is none."""
    return int(default_device().type == "cuda")


def resolve_precision(choice: str) -> Precision:
    """What `--precision auto` means here: the smallest type that the device computes in natively."""
    if choice != "auto":
        return cast(Precision, choice)
    if default_device().type == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


class Predictor:
    """A model ready to predict tiles.

    Args:
        model: the segmentor; moved to the device and to evaluation mode.
        config: its config, for the test pipeline.
        mean: per band, in the order in which the model takes them, on the 0-255 scale.
        std: likewise.
        tta: the views to average.
        precision: fp32, bf16 or fp16: the type of the network's forward pass. Softmax and means are always float32.
        device: where to compute.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: mmcv.Config,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        tta: Tta,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self._model: Any = model.to(device).eval()
        self._slide = model.test_cfg.get("mode", "whole") == "slide"  # type: ignore[union-attr, operator]
        self._plain = type(model).encode_decode is EncoderDecoder.encode_decode  # type: ignore[attr-defined]
        self._scales = tile_scales(config)
        self._table = normalisation_table(mean, std)
        self._padding = tile_padding(config, self._table)
        self._reverse = len(mean) == 3 and not expects_rgb(config)
        self._views = [(*_MOVES[view], weight) for view, weight in zip(VIEWS[tta], VIEW_WEIGHTS[tta], strict=True)]
        self._precision = precision
        self._device = device

    def prepare(self, image: Image) -> list[Planes]:
        """Resize to the test scales and normalise; may run in any thread.

        Args:
            image: (H, W, B) uint8, bands in the schema's order.

        Returns:
            One (B, h, w) float32 per test scale.
        """
        ordered = image[:, :, ::-1] if self._reverse else image
        return [self._normalise(scale(ordered)) for scale in self._scales]

    def _normalise(self, image: Image) -> Planes:
        planes = np.empty((image.shape[2], *image.shape[:2]), np.float32)
        for band, table in enumerate(self._table):
            np.take(table, image[:, :, band], out=planes[band])
        return planes

    def __call__(self, batch: Sequence[list[Planes]], size: tuple[int, int]) -> Planes:
        """Predict tiles of one size.

        Args:
            batch: N prepared tiles.
            size: (height, width) of the tiles themselves.

        Returns:
            (N, C, H, W) float32: the mean over views, at the tiles' own size; sums to 1 over C.
        """
        return _array(self._checked(batch, size, keep=False)[0])

    def labels(self, batch: Sequence[list[Planes]], size: tuple[int, int]) -> NDArray[np.uint8]:
        """As :meth:`__call__`, but only the most probable class, found where the probabilities are.

        Returns:
            (N, H, W) uint8 class ids.
        """
        probs, _ = self._checked(batch, size, keep=False)
        labels: NDArray[np.uint8] = probs.argmax(1).to(torch.uint8).cpu().numpy()
        return labels

    def with_views(self, batch: Sequence[list[Planes]], size: tuple[int, int]) -> tuple[Planes, Planes]:
        """Predict tiles of one size, and keep the views.

        Returns:
            As :meth:`__call__`; and (N, V, C, H, W) float32, each view separately, flipped back.
        """
        mean, views = self._checked(batch, size, keep=True)
        assert views is not None
        return _array(mean), _array(views)

    def _checked(
        self, batch: Sequence[list[Planes]], size: tuple[int, int], keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        try:
            return self._predict(batch, size, keep)
        except LandsegError:
            raise
        except Exception as err:  # networks of many kinds, some of which take only certain sizes
            if is_out_of_memory(err):
                raise out_of_memory(err, "--batch-size") from err
            raise failure(err, self._model, (len(batch), *batch[0][0].shape), "predicting") from err

    def _predict(
        self, batch: Sequence[list[Planes]], size: tuple[int, int], keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        total: torch.Tensor | None = None
        kept: list[torch.Tensor] = []
        weights = 0
        with torch.inference_mode(), autocast(self._precision, self._device):
            for planes in zip(*batch, strict=True):
                images = torch.from_numpy(np.stack(planes)).to(self._device)
                for number, (turned, axes, weight) in enumerate(self._views):
                    moved = images.transpose(2, 3).contiguous() if turned else images
                    moved = moved.flip(axes) if axes else moved
                    view = self._probs(moved, size[::-1] if turned else size)
                    view = view.flip(axes) if axes else view
                    view = view.transpose(2, 3).contiguous() if turned else view
                    if keep and number == len(kept):
                        kept.append(view.clone())
                    elif keep:
                        kept[number].add_(view)
                    weights += weight
                    if total is None:
                        total = view if weight == 1 else view.mul_(weight)
                    else:
                        total.add_(view, alpha=weight)
            assert total is not None
            views = torch.stack(kept, 1).div_(len(self._scales)) if keep else None
            return total.div_(weights), views

    def _probs(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Softmax of one view, at the tile's own size; of a single channel its sigmoid p, as (1 - p, p)."""
        unpadded = tuple(images.shape[2:])
        images = self._padded(images)
        shape = tuple(images.shape[2:])
        metas = [{"ori_shape": shape, "img_shape": shape, "pad_shape": shape, "flip": False}] * len(images)
        if self._slide:
            logits = self._model.slide_inference(images, metas, False)
        elif self._plain:
            # As in EncoderDecoder.encode_decode, but the logits are enlarged in float32.
            features = self._model.extract_feat(images)
            logits = self._model._decode_head_forward_test(features, metas)
        else:
            logits = self._model.encode_decode(images, metas)
        with torch.autocast(self._device.type, enabled=False):
            logits = self._resize(logits.float(), shape)[:, :, : unpadded[0], : unpadded[1]]
            logits = self._resize(logits, size)
            if logits.shape[1] > 1:
                return logits.softmax(1)
            second = logits.sigmoid()
            return torch.cat([1 - second, second], 1)

    def _padded(self, images: torch.Tensor) -> torch.Tensor:
        if self._padding is None:
            return images
        height, width = images.shape[2:]
        size = self._padding(height, width)
        if size == (height, width):
            return images
        values = torch.tensor(self._padding.values, dtype=images.dtype, device=images.device)
        padded = values[None, :, None, None].expand(len(images), -1, *size).clone()
        padded[:, :, :height, :width] = images
        return padded

    def _resize(self, logits: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        if tuple(logits.shape[2:]) == tuple(size):
            return logits
        return interpolate(logits, size=size, mode="bilinear", align_corners=self._model.align_corners)


def _array(probs: torch.Tensor) -> Planes:
    return cast(Planes, probs.cpu().numpy())


def load_predictor(
    trained: TrainedModel,
    schema: ClassSchema,
    checkpoint: Path,
    *,
    tta: Tta,
    precision: Precision,
    trusted: Sequence[str] = (),
) -> Predictor:
    """A trained model, ready to predict on this machine's device.

    Args:
        trained: what to load.
        schema: of the dataset, with the bands of the model; its classes must be the model's.
        checkpoint: the checkpoint as a local file.
        tta: the views to average.
        precision: fp32, bf16 or fp16.
        trusted: modules besides OpenMMLab's that may be imported for the types they register.
    """
    config = parse_config(trained.config, f"config of {trained.uri}")
    model = load_model(config, schema, checkpoint, trusted)
    return final_predictor(model, config, trained.mean, trained.std, tta=tta, precision=precision)


def final_predictor(
    model: torch.nn.Module,
    config: mmcv.Config,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    tta: Tta,
    precision: Precision,
) -> Predictor:
    """A :class:`Predictor` on this machine's device, of a model that is not trained any further and may be rebuilt."""
    # As in training: float32 products stay float32, not TF32, and a container's limit of CPUs holds.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(min(torch.get_num_threads(), num_cpus()))
    predictor = Predictor(model, config, mean, std, tta=tta, precision=precision, device=default_device())
    if precision != "fp32":
        fuse_late(model, TORCH_DTYPES[precision])
    return predictor
