"""The sample data's colours: from a scene to what a sensor would have recorded."""

from __future__ import annotations

import numpy as np

from landseg.sample.noise import FloatArray, KeyArray, choose, combine, uniform
from landseg.sample.scene import Scene

# Red, green, blue and near-infrared of each material, on the 0..255 scale of an 8-bit image.
_MATERIALS = {
    "lush": (82, 106, 62, 200),
    "olive": (106, 112, 74, 165),
    "straw": (158, 144, 100, 140),
    "soil": (128, 106, 82, 105),
    "clay": (150, 112, 88, 115),
    "sand": (182, 162, 128, 135),
    "gravel": (148, 142, 130, 125),
    "asphalt": (106, 106, 104, 85),
    "slate": (76, 82, 86, 65),
    "concrete": (180, 178, 172, 145),
    "tile": (162, 94, 74, 115),
    "deep water": (54, 74, 88, 14),
    "algae": (84, 104, 72, 26),
    "silt": (134, 120, 92, 42),
    "shallow": (106, 122, 124, 24),
}
# What each class, in id order, is made of, and how often.
_MADE_OF: tuple[dict[str, float], ...] = (
    {"lush": 38, "olive": 38, "straw": 12, "soil": 12},
    {"lush": 28, "olive": 18, "straw": 26, "soil": 18, "clay": 10},
    {"lush": 42, "olive": 30, "straw": 24, "soil": 4},
    {"tile": 32, "slate": 22, "concrete": 18, "asphalt": 12, "sand": 9, "clay": 7},
    {"asphalt": 46, "gravel": 20, "concrete": 12, "sand": 12, "soil": 10},
    {"gravel": 27, "concrete": 27, "sand": 22, "soil": 14, "clay": 10},
    {"clay": 34, "gravel": 22, "soil": 22, "slate": 12, "sand": 10},
    {"sand": 52, "straw": 20, "clay": 16, "gravel": 12},
    {"deep water": 42, "algae": 20, "shallow": 20, "silt": 18},
)
_COLOURS = np.array(list(_MATERIALS.values()), np.float32)
_WEIGHTS = np.array([[mix.get(material, 0) for material in _MATERIALS] for mix in _MADE_OF])


def paint_scene(scene: Scene, key: KeyArray, num_bands: int) -> FloatArray:
    """Record a scene.

    Args:
        scene: (H, W) arrays.
        key: the tile's key (0-d).
        num_bands: 3 for red, green, blue; 4 for near-infrared as well.

    Returns:
        (H - 2, W - 2, num_bands) float32 on the 0..255 scale, not clipped: the blur consumes a pixel at each side.
    """
    material = choose(scene.objects, 200, _WEIGHTS[scene.labels])
    image = _COLOURS[material][..., :num_bands] * scene.relief[..., None]
    image *= uniform(scene.objects, 201, 0.84, 1.16)[..., None]
    for band in range(num_bands):
        # No two fields, and no two days, have quite the same colour.
        day = uniform(key, 210 + band, 0.95, 1.05) * uniform(key, 209, 0.86, 1.14)
        image[..., band] *= uniform(scene.objects, 202 + band, 0.95, 1.05) * day
    image = _blur(_blur(image).swapaxes(0, 1)).swapaxes(0, 1)
    noise = np.random.default_rng(int(combine(key, 220))).normal(0, 2.5, image.shape)
    return np.asarray(image + noise, np.float32)


def _blur(image: FloatArray) -> FloatArray:
    """The optics' blur along the first axis, which loses a pixel at each end."""
    return np.asarray(0.2 * image[:-2] + 0.6 * image[1:-1] + 0.2 * image[2:], np.float32)
