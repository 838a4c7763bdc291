"""Hectares are given only where a pixel's ground area is known."""

import pytest

from landseg.contracts.tile import Geo, GeoKeys
from landseg.report.ensemble.ground import pixel_area_m2


def keys(**values):
    numbers = {"model": 1024, "crs": 3072, "method": 3075, "units": 3076}
    entries = [entry for name, value in values.items() for entry in (numbers[name], 0, 1, value)]
    return GeoKeys(directory=(1, 1, 0, len(values), *entries))


def geo(size=10.0, rotated=False, crs=0):
    a, b, d, e = (0.6 * size, 0.8 * size, 0.8 * size, -0.6 * size) if rotated else (size, 0.0, 0.0, -size)
    return Geo(crs=crs, transform=(a, b, 500_000.0, d, e, 5_000_000.0))


@pytest.mark.parametrize(
    ("crs", "area"),
    [
        (keys(model=1, crs=32633, units=9001), 100.0),
        (keys(model=1, crs=32633), 100.0),  # UTM says metre by its code
        (keys(model=1, crs=2263, units=9003), 100 * (1200 / 3937) ** 2),  # US survey feet
        (keys(model=1, crs=2263), None),  # no unit given
        (keys(model=1, crs=3857, units=9001), None),  # Web Mercator
        (keys(model=1, crs=32767, method=7, units=9001), None),  # a Mercator of one's own
        (keys(model=1, crs=32633, units=9036), None),  # kilometres are not written in practice
        (keys(model=2, crs=4326), None),  # degrees
    ],
)
def test_the_unit_and_the_projection_decide(crs, area):
    assert pixel_area_m2([geo(), geo()], [crs]) == (None if area is None else pytest.approx(area))


def test_rotated_pixels_have_their_area_too():
    assert pixel_area_m2([geo(rotated=True)], [keys(model=1, crs=32633)]) == pytest.approx(100)


def test_all_tiles_must_agree():
    utm = [keys(model=1, crs=32633)]
    assert pixel_area_m2([geo(10.0), geo(10.004)], utm) == pytest.approx(100.04, rel=1e-4)
    assert pixel_area_m2([geo(10.0), geo(20.0)], utm) is None
    assert pixel_area_m2([geo(), None], utm) is None
    assert pixel_area_m2([geo(crs=None)], utm) is None
    assert pixel_area_m2([], utm) is None
    assert pixel_area_m2([geo(0.0)], utm) is None
