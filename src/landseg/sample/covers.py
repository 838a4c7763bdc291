"""The land covers of the sample data: what the surface of each class looks like, colour aside.

A cover gives each point an object, whose key later draws its material, and a brightness, which carries the texture.
Since the classes share materials, they differ by texture, shape and context.
The ground resolution is fixed at about one metre a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

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

CLASSES = ("background", "field", "grass", "building", "road", "construction", "dig", "desert", "water")
BACKGROUND, FIELD, GRASS, BUILDING, ROAD, CONSTRUCTION, DIG, DESERT, WATER = range(9)


@dataclass(frozen=True)
class Ground:
    """Points of land: arrays of one shape."""

    x: FloatArray
    y: FloatArray
    key: KeyArray  # the zone's
    border: FloatArray  # distance to the zone's border in px
    slope: FloatArray  # how much a slope down to the border faces the sun, -1..1

    def at(self, mask: NDArray[np.bool_]) -> Ground:
        """The points where `mask` is true, as 1-d arrays."""
        return Ground(**{f.name: getattr(self, f.name)[mask] for f in fields(self)})


@dataclass(frozen=True)
class Sky:
    """What one tile's light and randomness come from."""

    key: KeyArray  # 0-d, the tile's
    sun_x: float  # unit vector that points to the sun
    sun_y: float

    def noise(self, ground: Ground, feature_px: float, salt: int) -> FloatArray:
        """Smooth noise in [-1, 1] at each point."""
        return value_noise(ground.x, ground.y, feature_px, combine(self.key, salt))


Texture = tuple[KeyArray, FloatArray]  # the object and the brightness at each point


def wood(ground: Ground, sky: Sky) -> Texture:
    """Trees or scrub: round crowns, lit on one side, dark gaps between."""
    crowns = voronoi(ground.x, ground.y, 7.5, combine(sky.key, 20))
    density = uniform(ground.key, 21, 0.55, 1.1)
    standing = uniform(crowns.key, 22) < density
    radius = uniform(crowns.key, 23, 3.2, 4.8)
    height = 1 - (crowns.dx**2 + crowns.dy**2) / radius**2
    light = (crowns.dx * sky.sun_x + crowns.dy * sky.sun_y) / radius
    crown = 0.88 + 0.2 * height + 0.38 * light + uniform(crowns.key, 24, -0.12, 0.12)
    floor = np.where(light < 0, 0.5, 0.72)
    clearing = 1.05 + 0.08 * sky.noise(ground, 5, 25)
    relief = np.where(standing, np.where(height > 0, crown, floor), clearing)
    return ground.key, relief.astype(np.float32)


def field(ground: Ground, sky: Sky) -> Texture:
    """Parcels, each with crop rows along one of its sides."""
    u, v = rotate(ground.x, ground.y, uniform(ground.key, 30, 0, np.pi))
    width, height = uniform(ground.key, 31, 34, 64), uniform(ground.key, 32, 26, 44)
    parcel = rectangles(u, v, width, height, ground.key)
    along = np.where(uniform(parcel.key, 33) < 0.5, parcel.du, parcel.dv)
    period = uniform(parcel.key, 34, 4.2, 7.0)
    rows = uniform(parcel.key, 35, 0.09, 0.24) * np.sin(along * (2 * np.pi) / period)
    relief = 1 + rows + 0.06 * sky.noise(ground, 16, 36)
    edge = np.minimum(width / 2 - abs(parcel.du), height / 2 - abs(parcel.dv)) < 1.2
    return parcel.key, np.where(edge, 0.78, relief).astype(np.float32)


def grass(ground: Ground, sky: Sky) -> Texture:
    """Meadow: soft patches and nothing else."""
    relief = 1 + 0.13 * sky.noise(ground, 18, 40) + 0.08 * sky.noise(ground, 6, 41)
    return ground.key, relief


def construction(ground: Ground, sky: Sky) -> Texture:
    """A site divided into plots: foundation slabs with a grid, heaps, stacked material, bare ground, tracks."""
    u, v = rotate(ground.x, ground.y, uniform(ground.key, 50, 0, np.pi))
    plot = rectangles(u, v, 15.0, 13.0, ground.key)
    kind = choose(plot.key, 51, np.array([0.4, 0.25, 0.2, 0.15]))
    half_u, half_v = uniform(plot.key, 52, 4.0, 6.8), uniform(plot.key, 53, 3.5, 5.8)
    inside = (abs(plot.du) < half_u) & (abs(plot.dv) < half_v)
    rebar = (np.mod(plot.du, 3.5) < 1.2) | (np.mod(plot.dv, 3.5) < 1.2)
    slab = np.where(rebar, 0.75, 1.25)
    facing = plot.du / half_u * 0.5 + plot.dv / half_v * 0.5
    heap = 1.0 + 0.4 * np.sign(facing) * np.clip(abs(facing) * 3, 0, 1)
    stack = np.where(np.mod(plot.du, 4.0) < 2.6, 1.3, 0.6)
    bare = 1.0 + 0.12 * sky.noise(ground, 4, 54)
    tracks = abs(np.mod(v + 3 * np.sin(u / 17), 26.0) - 13.0)
    bare = np.where(abs(tracks - 2.5) < 0.9, 0.72, bare)
    relief = np.where(inside, np.choose(kind, [slab, heap, stack, bare]), bare)
    objects = np.where(inside & (kind < 3), combine(plot.key, 55), ground.key)
    return objects, relief.astype(np.float32)


def dig(ground: Ground, sky: Sky) -> Texture:
    """An open pit: level benches that follow its outline, with steep faces between."""
    depth = ground.border / uniform(ground.key, 60, 5.5, 8.0) + 0.3 * sky.noise(ground, 13, 61)
    bench = np.clip(np.floor(depth), 0, 3)  # the last one is the pit's floor
    face = (depth - bench < 0.4) & (depth > 0)
    level = 1.05 + 0.12 * uniform(combine(ground.key, bench), 62, -1, 1) + 0.07 * sky.noise(ground, 4, 63)
    relief = np.where(face, 0.84 - 0.46 * ground.slope, level)
    return ground.key, relief.astype(np.float32)


def desert(ground: Ground, sky: Sky) -> Texture:
    """Dunes: long waves with a gentle bright side, a sharp crest and a dark lee side."""
    u, v = rotate(ground.x, ground.y, uniform(sky.key, 70, 0, 2 * np.pi))  # one wind for the whole tile
    bend = 6 * sky.noise(ground, 38, 71) + 2.5 * sky.noise(ground, 15, 72)
    phase = (u + bend + 0.1 * v) / uniform(ground.key, 73, 10, 15)
    phase = phase - np.floor(phase)
    relief = np.where(phase < 0.7, 0.9 + 0.3 * phase / 0.7, 1.2 - 0.5 * np.sin((phase - 0.7) / 0.3 * np.pi))
    return ground.key, relief.astype(np.float32)


def water(ground: Ground, sky: Sky) -> Texture:
    """Smooth, a little darker where it is deep."""
    relief = 1.06 - 0.1 * np.clip(ground.border / 14, 0, 1) + 0.025 * sky.noise(ground, 11, 80)
    return ground.key, relief.astype(np.float32)


COVERS: dict[int, Callable[[Ground, Sky], Texture]] = {
    BACKGROUND: wood,
    FIELD: field,
    GRASS: grass,
    CONSTRUCTION: construction,
    DIG: dig,
    DESERT: desert,
    WATER: water,
}
