"""Where things lie in the sample data: land use, rivers, roads and buildings on an endless plane.

A larger tile shows more land, not larger things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.sample.covers import BACKGROUND, BUILDING, COVERS, DESERT, GRASS, ROAD, WATER, Ground, Sky, water
from landseg.sample.noise import (
    FloatArray,
    KeyArray,
    choose,
    combine,
    rectangles,
    rotate,
    uniform,
    value_noise,
    voronoi,
)

SETTLEMENT = 9  # a land use besides the nine classes: gardens or yards with streets and buildings
ZONE_PX = 62  # mean width of a zone: a piece of land in one use
REGION_ZONES = 3  # a region, which has one character, is so many zones wide
ROAD_SPACING_PX = 165
RIVER_SPACING_PX = 430
SHADOW_PX = 6

# The odds of each land use (the nine classes, then settlement) in a rural, an urban and an arid region.
_REGIONS = np.array([0.36, 0.34, 0.3])
_USES = np.array(
    [  # background, field, grass, building, road, construction, dig, desert, water, settlement
        [16, 44, 16, 0, 0, 2, 4, 0, 9, 9],
        [4, 2, 9, 0, 0, 25, 4, 0, 5, 51],
        [10, 6, 2, 0, 0, 4, 32, 41, 3, 2],
    ]
)


@dataclass(frozen=True)
class Scene:
    """A drawn tile: (H, W) arrays."""

    labels: NDArray[np.uint8]  # 0..8
    objects: KeyArray  # pixels of one object have one key
    relief: FloatArray  # brightness of the surface, about 1

    def put(self, mask: NDArray[np.bool_], label: int, objects: KeyArray, relief: FloatArray) -> None:
        """Cover the pixels where `mask` is true; `objects` and `relief` hold just those pixels."""
        self.labels[mask] = label
        self.objects[mask] = objects
        self.relief[mask] = relief


def draw_scene(size_px: int, key: KeyArray) -> Scene:
    """Draw one tile.

    Args:
        size_px: height and width.
        key: the tile's key (0-d), the only source of randomness.
    """
    sun = float(uniform(key, 1, 0, 2 * np.pi))
    sky = Sky(key, float(np.cos(sun)), float(np.sin(sun)))
    columns, rows = np.meshgrid(np.arange(size_px), np.arange(size_px))
    # Float32 coordinates stay exact to a thousandth of a pixel up to here.
    x, y = uniform(key, 2, 0, 4096) + columns, uniform(key, 3, 0, 4096) + rows
    x, y = x.astype(np.float32), y.astype(np.float32)

    warped_x = x + 5 * value_noise(x, y, 22, combine(key, 4)) + 1.5 * value_noise(x, y, 7, combine(key, 5))
    warped_y = y + 5 * value_noise(x, y, 22, combine(key, 6)) + 1.5 * value_noise(x, y, 7, combine(key, 7))
    zones = voronoi(warped_x, warped_y, ZONE_PX, combine(key, 8))
    down, right = np.gradient(zones.border)
    slope = np.asarray(np.clip(-(right * sky.sun_x + down * sky.sun_y), -1, 1), np.float32)
    region = combine(key, 9, zones.column // REGION_ZONES, zones.row // REGION_ZONES)
    use = choose(zones.key, 10, _USES[choose(region, 0, _REGIONS)])
    # Neighbouring woods, or dunes, are one wood, or one desert.
    owner = np.where((use == BACKGROUND) | (use == DESERT), combine(region, use), zones.key)
    ground = Ground(x, y, owner, zones.border, slope)

    scene = Scene(np.zeros(x.shape, np.uint8), np.zeros(x.shape, np.uint64), np.ones(x.shape, np.float32))
    for label, cover in COVERS.items():
        mask = use == label
        if mask.any():
            scene.put(mask, label, *cover(ground.at(mask), sky))
    _river(scene, ground, sky)
    if (use == SETTLEMENT).any():
        _settlement(scene, ground, sky, use == SETTLEMENT)
    _roads(scene, ground, sky)
    return scene


def _river(scene: Scene, ground: Ground, sky: Sky) -> None:
    """Winding rivers, far apart."""
    u, v = rotate(ground.x, ground.y, uniform(sky.key, 100, 0, np.pi))
    v = v + 26 * np.sin(u / 41) + 14 * np.sin(u / 23 + 2) + 4 * sky.noise(ground, 30, 101)
    number = np.floor(v / RIVER_SPACING_PX)
    middle = abs(v - (number + 0.5) * RIVER_SPACING_PX)
    width = 13 + 3 * sky.noise(ground, 50, 102)
    mask = middle < width
    river = Ground(ground.x, ground.y, combine(sky.key, 103, number), width - middle, ground.slope)
    if mask.any():
        scene.put(mask, WATER, *water(river.at(mask), sky))


def _settlement(scene: Scene, ground: Ground, sky: Sky, mask: NDArray[np.bool_]) -> None:
    """Houses in gardens or halls among trees, in rows along streets, with their shadows."""
    halls = uniform(ground.key, 120) < 0.45  # per zone
    pitch = np.where(halls, uniform(ground.key, 121, 34, 42), uniform(ground.key, 121, 23, 29))
    angle = uniform(ground.key, 122, 0, np.pi)
    u, v = rotate(ground.x, ground.y, angle)

    for label, where in ((GRASS, mask & ~halls), (BACKGROUND, mask & halls)):
        if where.any():
            scene.put(where, label, *COVERS[label](ground.at(where), sky))

    # Streets run between every second row of plots, and across less often; halls have none of their own.
    street = np.minimum(abs(np.mod(v + pitch, 2 * pitch) - pitch), abs(np.mod(u + 2 * pitch, 4 * pitch) - 2 * pitch))
    paved = mask & ~halls & (street < 3.2)

    plot = rectangles(u, v, pitch, pitch, combine(ground.key, 126))
    du = plot.du + uniform(plot.key, 127, -1.5, 1.5)
    dv = plot.dv + uniform(plot.key, 128, -1.5, 1.5)
    half_u, half_v = pitch * uniform(plot.key, 129, 0.27, 0.38), pitch * uniform(plot.key, 130, 0.24, 0.34)
    wing = (du * np.where(uniform(plot.key, 131) < 0.5, 1, -1) > 0) & (abs(du) < half_u) & (dv > 0)
    wing &= (dv < half_v + 0.13 * pitch) & (uniform(plot.key, 132) < 0.35)
    built = ((abs(du) < half_u) & (abs(dv) < half_v)) | wing
    built &= mask & ~paved & (uniform(plot.key, 133) < 0.9) & (ground.border > 1.5)

    shaded = np.zeros_like(built)
    for step in range(1, SHADOW_PX + 1):
        shaded |= _shift(built, round(-step * sky.sun_x), round(-step * sky.sun_y))
    scene.relief[shaded & ~built] *= 0.5
    scene.put(paved, ROAD, combine(ground.key, 134)[paved], _asphalt(ground, sky, street, 3.2)[paved])
    scene.relief[paved & shaded] *= 0.6

    # The ridge follows the longer side; each half of a gable roof is as bright as it faces the sun.
    sun_u, sun_v = rotate(sky.sun_x, sky.sun_y, angle)
    gable = np.where(half_u > half_v, np.sign(dv) * sun_v, np.sign(du) * sun_u)
    rim = np.minimum(half_u - abs(du), half_v - abs(dv)) < 1.2
    flat = np.where(rim, 1.2, np.where((np.mod(du, 9) < 2.5) & (np.mod(dv, 8) < 2.5), 0.78, 1.0))
    roof = np.where(halls | (uniform(plot.key, 135) < 0.25), flat, 1.02 + 0.26 * gable).astype(np.float32)
    scene.put(built, BUILDING, plot.key[built], roof[built])


def _shift(mask: NDArray[np.bool_], right: int, down: int) -> NDArray[np.bool_]:
    """Move a mask; what comes in from outside is false."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved


def _roads(scene: Scene, ground: Ground, sky: Sky) -> None:
    """Parallel winding roads with side roads that join one to the next."""
    u, v = rotate(ground.x, ground.y, uniform(sky.key, 140, 0, np.pi))
    bend = uniform(sky.key, 141, 0, 16)  # some tiles have straight roads
    u, v = np.asarray(u + bend / 2 * np.sin(v / 37)), np.asarray(v + bend * np.sin(u / 47))
    number = np.round(v / ROAD_SPACING_PX)
    main = abs(v - number * ROAD_SPACING_PX)
    main_width = uniform(combine(sky.key, 142, number), 0, 4.2, 5.6)

    strip = combine(sky.key, 143, np.floor(v / ROAD_SPACING_PX))
    along = u + uniform(strip, 0, 0, ROAD_SPACING_PX)
    turn = np.round(along / ROAD_SPACING_PX)
    side_key = combine(strip, turn)
    side = abs(along - turn * ROAD_SPACING_PX)
    side_mask = (side < 3.6) & (uniform(side_key, 1) < 0.7)

    scene.put(side_mask, ROAD, side_key[side_mask], _asphalt(ground, sky, side, 3.6)[side_mask])
    main_mask = main < main_width
    lines = np.where((main < 0.7) & (np.mod(u, 14) < 8), 1.3, _asphalt(ground, sky, main, main_width))
    scene.put(main_mask, ROAD, combine(sky.key, 142, number)[main_mask], lines[main_mask])


def _asphalt(ground: Ground, sky: Sky, middle: NDArray[Any], width: FloatArray | float) -> FloatArray:
    """A smooth surface with a lighter line along each edge; `middle` is the distance to the centre line."""
    edge = width - middle < 1.1
    return np.where(edge, 1.18, 1 + 0.03 * sky.noise(ground, 6, 150)).astype(np.float32)
