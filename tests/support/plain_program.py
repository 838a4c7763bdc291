"""The program that people write around mmsegmentation: probabilities of several checkpoints, summed, as label maps.

Nothing of landseg but the stand-in that lets mmcv import where its compiled ops are missing.

    python plain_program.py IMAGES OUT CHECKPOINT...
"""

import sys
from pathlib import Path

import landseg.models  # noqa: F401  # makes mmcv importable

# isort: split
import mmcv
import numpy as np
import torch
from mmcv.cnn.utils import revert_sync_batchnorm
from mmseg.datasets.pipelines import Compose
from mmseg.models import build_segmentor
from PIL import Image


def load(path):
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    config = mmcv.Config.fromstring(checkpoint["meta"]["config"], ".py")
    model = revert_sync_batchnorm(build_segmentor(config.model, test_cfg=config.get("test_cfg")))
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval(), Compose(config.data.test.pipeline)


def main(images, out, checkpoints):
    models = [load(path) for path in checkpoints]
    Path(out).mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(images).iterdir()):
        total = 0
        for model, pipeline in models:
            data = pipeline({"img_info": {"filename": str(path)}, "img_prefix": None})
            with torch.no_grad():
                views = [
                    model.inference(image[None], [meta.data], True)
                    for image, meta in zip(data["img"], data["img_metas"], strict=True)
                ]
            total = total + torch.stack(views).mean(dim=0)
        labels = total.argmax(dim=1)[0].numpy().astype(np.uint8)
        Image.fromarray(labels).save(Path(out) / f"{path.stem}.png")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
