"""Softmax probabilities of tiles: mmseg's `whole` inference with MultiScaleFlipAug, batched and in any precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import mmcv
import numpy as np
import torch
from mmseg.models import EncoderDecoder
from torch.nn.functional import interpolate

from landseg.contracts.choices import Precision
from landseg.contracts.errors import LandsegError
from landseg.contracts.probabilities import VIEW_WEIGHTS, VIEWS, Tta, View
from landseg.models.failures import failure, is_out_of_memory, out_of_memory
from landseg.models.normalisation import expects_rgb, normalisation_table, normalised
from landseg.models.precision import autocast
from landseg.models.preprocessing import Image, Planes, loads_floats, tile_padding, tile_scales

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
        test_cfg: Any = model.test_cfg or {}  # a config may have none
        self._slide = test_cfg.get("mode", "whole") == "slide"
        self._plain = type(model).encode_decode is EncoderDecoder.encode_decode  # type: ignore[attr-defined]
        self._scales = tile_scales(config)
        self._table = normalisation_table(mean, std)
        self._statistics, self._loads_floats = tuple(zip(mean, std, strict=True)), loads_floats(config)
        self._padding = tile_padding(config, self._table)
        # On the device from the start: each copy would wait until the device has nothing left to do.
        values = () if self._padding is None else self._padding.values
        self._padded_with = torch.tensor(values, dtype=torch.float32, device=device)
        self._reverse = len(mean) == 3 and not expects_rgb(config)
        self._views = [(*_MOVES[view], weight) for view, weight in zip(VIEWS[tta], VIEW_WEIGHTS[tta], strict=True)]
        self._precision = precision
        self.device = device

    def prepare(self, image: Image) -> list[Planes]:
        """Resize to the test scales and normalise; may run in any thread.

        Args:
            image: (H, W, B) uint8, bands in the schema's order.

        Returns:
            One (B, h, w) float32 per test scale.
        """
        ordered = image[:, :, ::-1] if self._reverse else image
        loaded: Any = ordered.astype(np.float32) if self._loads_floats else ordered
        return [self._normalise(scale(loaded)) for scale in self._scales]

    def _normalise(self, image: Image) -> Planes:
        planes = np.empty((image.shape[2], *image.shape[:2]), np.float32)
        if self._loads_floats:
            for band, (mean, std) in enumerate(self._statistics):
                planes[band] = normalised(image[:, :, band], mean, std)
            return planes
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
        return _array(self.on_device(batch, size, keep=False)[0])

    def labels(self, batch: Sequence[list[Planes]], size: tuple[int, int]) -> torch.Tensor:
        """As :meth:`__call__`, but only the most probable class, found where the probabilities are and left there.

        Returns:
            (N, H, W) uint8 class ids, on the device.
        """
        probs, _ = self.on_device(batch, size, keep=False)
        return probs.argmax(1).to(torch.uint8)

    def with_views(self, batch: Sequence[list[Planes]], size: tuple[int, int]) -> tuple[Planes, Planes]:
        """Predict tiles of one size, and keep the views.

        Returns:
            As :meth:`__call__`; and (N, V, C, H, W) float32, each view separately, flipped back.
        """
        mean, views = self.on_device(batch, size, keep=True)
        assert views is not None
        return _array(mean), _array(views)

    def on_device(
        self, batch: Sequence[list[Planes]], size: tuple[int, int], keep: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :meth:`with_views`, but what is returned stays on the device; the views are None unless `keep`."""
        try:
            return self._predict(batch, size, keep)
        except LandsegError:
            raise
        except Exception as err:  # networks of many kinds, some of which take only certain sizes
            if is_out_of_memory(err):
                raise out_of_memory(err, "--batch-size") from err
            raise failure(err, self._model, (len(batch), *batch[0][0].shape), "predicting") from err

    def in_bf16(
        self, tile: list[Planes], size: tuple[int, int], keep: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :meth:`on_device`, for one tile, in bf16: for one on which the network overflows in fp16."""
        # A late fusion has its weights in fp16; what it stands for has not.
        head = vars(getattr(self._model, "decode_head", self))
        fused, precision = head.pop("_forward_feature", None), self._precision
        self._precision = "bf16"
        try:
            return self.on_device([tile], size, keep)
        finally:
            self._precision = precision
            if fused is not None:
                head["_forward_feature"] = fused

    def _predict(
        self, batch: Sequence[list[Planes]], size: tuple[int, int], keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        total: torch.Tensor | None = None
        kept: list[torch.Tensor] = []
        weights = 0
        with torch.inference_mode(), autocast(self._precision, self.device):
            for planes in zip(*batch, strict=True):
                images = self._on_device(planes)
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

    def _on_device(self, planes: Sequence[Planes]) -> torch.Tensor:
        """(N, B, h, w) float32. To a GPU through page-locked memory: then this process need not wait for the copy."""
        if self.device.type != "cuda":
            return torch.from_numpy(np.stack(planes)).to(self.device)
        host = torch.empty((len(planes), *planes[0].shape), pin_memory=True)
        np.stack(planes, out=host.numpy())
        return host.to(self.device, non_blocking=True)

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
        with torch.autocast(self.device.type, enabled=False):
            # In planes, whatever the network's layout: what is stored lies so.
            logits = self._resize(logits.float().contiguous(), shape)[:, :, : unpadded[0], : unpadded[1]]
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
        padded = self._padded_with[None, :, None, None].expand(len(images), -1, *size).clone()
        padded[:, :, :height, :width] = images
        return padded

    def _resize(self, logits: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        if tuple(logits.shape[2:]) == tuple(size):
            return logits
        return interpolate(logits, size=size, mode="bilinear", align_corners=self._model.align_corners)


def _array(probs: torch.Tensor) -> Planes:
    return cast(Planes, probs.cpu().numpy())
