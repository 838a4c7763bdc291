"""Files of polygons come from anywhere: they are what their names say, reach nothing else, and end in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gdal_files import write_gdal
from http_server import serving_files
from rasterio.transform import from_origin

from landseg.contracts.errors import DataError
from landseg.contracts.label_source import LabelSource
from landseg.raw.config.dataset_yaml import parse_config
from landseg.raw.labels.polygons.files import read_file
from landseg.raw.labels.polygons.vector import read_polygons
from landseg.raw.labels.shared import open_shared_labels
from landseg.raw.labels.shared_files import belonging_files
from landseg.raw.sources.archives import open_source

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has nothing, and the paths that were asked for."""
    asked: list[str] = []
    (tmp_path / "www").mkdir()
    with serving_files(tmp_path / "www", asked) as address:
        yield address, asked


def collection(geometry: object, value: object = "a", **more: object) -> str:
    feature = {"type": "Feature", "properties": {"kind": value}, "geometry": geometry}
    return json.dumps({"type": "FeatureCollection", **more, "features": [feature]})


def vrt(source: object, relative: int = 0, kind: str = "") -> str:
    return (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><GeoTransform>0,1,0,8,0,-1</GeoTransform>'
        f'<VRTRasterBand dataType="Byte" band="1"{kind}><SimpleSource><SourceFilename relativeToVRT="{relative}">'
        f"{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def read(path: Path) -> tuple[str, dict[str, list[Any]], list[bytes]]:
    return read_file(path, LabelSource(), path.name)


@pytest.mark.parametrize("suffix", [".geojson", ".json", ".gpkg", ".shp", ".fgb"])
def test_a_format_that_refers_to_others_is_not_opened(
    suffix: str, tmp_path: Path, requests: tuple[str, list[str]]
) -> None:
    address, asked = requests
    (tmp_path / "secret.csv").write_text('WKT,kind\n"POLYGON((0 0,1 0,1 1,0 0))",SECRET\n')
    layer = "<OGRVRTLayer name='secret'><SrcDataSource>{}</SrcDataSource></OGRVRTLayer>"
    layer = f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"
    contents = [layer.format(where) for where in (tmp_path / "secret.csv", f"{address}/a", f"/vsicurl/{address}/a")]
    contents += [f"<OGRWFSDataSource><URL>{address}/wfs</URL></OGRWFSDataSource>", "WKT,kind\n", ""]
    for content in contents:
        (tmp_path / f"labels{suffix}").write_text(content)
        with pytest.raises(DataError, match=r"labels.*: expected a? ?(GeoJSON|GeoPackage|Shapefile|FlatGeobuf), found"):
            read(tmp_path / f"labels{suffix}")
    assert not asked


@pytest.mark.parametrize("key", ["crs", "\\u0063rs", "c\\u0072\\u0073"])
def test_a_crs_behind_an_address_is_not_fetched(key: str, tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    address, asked = requests
    link = {"type": "link", "properties": {"href": f"{address}/crs", "type": "proj4"}}
    (tmp_path / "a.geojson").write_text(collection(SQUARE, CRS=link).replace("CRS", key))
    with pytest.raises(DataError, match="expected a CRS by its name, found one that is a link"):
        read(tmp_path / "a.geojson")
    (tmp_path / "a.geojson").write_text(collection(SQUARE, crs={"type": "name", "properties": {"name": "EPSG:32633"}}))
    assert read(tmp_path / "a.geojson")[0] == "EPSG:32633"
    (tmp_path / "a.geojson").write_text("\ufeff " + collection(SQUARE, {"crs": {}, "href": address}))
    assert read(tmp_path / "a.geojson")[0] == "EPSG:4326"
    assert not asked


def test_gdal_has_no_network_where_a_format_would_use_it(tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    import pyogrio

    address, asked = requests
    (tmp_path / "a.geojson").write_text(collection(SQUARE))
    read(tmp_path / "a.geojson")  # sets GDAL up
    (tmp_path / "wfs.xml").write_text(f"<OGRWFSDataSource><URL>{address}/wfs</URL></OGRWFSDataSource>")
    with pytest.raises(Exception, match="proxy"):
        pyogrio.list_layers(tmp_path / "wfs.xml")
    assert not asked


@pytest.mark.parametrize("name", ["labels.vrt", "labels.tif"])
def test_labels_refer_to_no_file_in_disguise(name: str, tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    address, asked = requests
    raw, scratch = tmp_path / "raw", tmp_path / "scratch"
    (raw / "train/images").mkdir(parents=True)
    scratch.mkdir()
    write_gdal(tmp_path / "secret.tif", np.ones((8, 8, 1), np.uint8), transform=from_origin(0, 8, 1, 1))
    config = parse_config(f"version: 1\nname: x\nclasses: [a, b]\nlabels: {{file: {name}}}\n".encode(), "dataset.yaml")
    for source in (tmp_path / "secret.tif", f"{address}/a.tif", f"/vsicurl/{address}/a.tif"):
        (raw / "labels.tif").write_text(vrt(source))
        (raw / "labels.vrt").write_text(vrt("labels.tif", relative=1))
        with pytest.raises(DataError, match=rf"{name}: expected a raster \(GTiff, PNG, HFA, AAIGrid\), found"):
            open_shared_labels(open_source(str(raw), scratch), config, {}, scratch)
    assert not asked


def test_odd_shapes_and_values_end_in_one_line(tmp_path: Path) -> None:
    config = parse_config(
        b"version: 1\nname: x\nclasses: [a, b]\nlabels: {file: a.geojson, class_field: kind}\n", "dataset.yaml"
    )
    assert config.labels is not None
    point = {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [0, 0]}]}
    deep: dict[str, Any] = SQUARE
    for _ in range(80):
        deep = {"type": "GeometryCollection", "geometries": [deep]}
    none = "values of kind that are no classes: "
    for text, problem in (
        (collection(point), "expected polygons, found points"),
        (collection(deep), "expected polygons, found damaged ones"),
        (collection(SQUARE, "²"), f"{none}²"),
        (collection(SQUARE, "--5"), f"{none}--5"),
        (collection(SQUARE, "9" * 5000), f"{none}9{{60}}\\.\\.\\. "),
        (collection(SQUARE, "x" * 100_000), f"{none}x{{60}}\\.\\.\\. "),
        (collection(SQUARE).replace("kind", "k" * 100_000), "one of k{60}\\.\\.\\.; found kind"),
    ):
        (tmp_path / "a.geojson").write_text(text)
        with pytest.raises(DataError, match=problem) as caught:
            read_polygons([(tmp_path / "a.geojson", "a.geojson")], config.labels, config, tmp_path)
        assert len(str(caught.value)) < 1000
        assert str(caught.value).isprintable()


def test_an_infinite_number_is_no_class(tmp_path: Path) -> None:
    import pyogrio

    config = parse_config(
        b"version: 1\nname: x\nclasses: [a, b]\nlabels: {file: a.gpkg, class_field: kind}\n", "dataset.yaml"
    )
    assert config.labels is not None
    wkb = struct.pack("<BIII8d", 1, 3, 1, 4, 0, 0, 1, 0, 1, 1, 0, 0)
    for value, problem in ((np.inf, "no classes: inf"), (1e300, "no classes: 1[0-9]{59}")):
        (tmp_path / "a.gpkg").unlink(missing_ok=True)
        options: dict[str, Any] = {"driver": "GPKG", "geometry_type": "Polygon", "crs": "EPSG:4326"}
        pyogrio.raw.write(tmp_path / "a.gpkg", np.array([wkb], object), [np.array([value])], ["kind"], **options)
        with pytest.raises(DataError, match=problem):
            read_polygons([(tmp_path / "a.gpkg", "a.gpkg")], config.labels, config, tmp_path)


def test_a_pattern_takes_the_files_of_all_folders_that_it_fits(tmp_path):
    for name in ("train/geojson/a.geojson", "val/geojson/b.geojson", "val/other/c.geojson", "geojson/d.geojson"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(collection(SQUARE))
    config = parse_config(
        b"version: 1\nname: x\nclasses: [a, b]\nlabels: {file: '*/geojson/*.geojson', class_field: kind}\n", "x"
    )
    source = open_source(str(tmp_path), tmp_path)
    assert belonging_files(source, config) == {"train/geojson/a.geojson", "val/geojson/b.geojson"}


def test_the_field_that_is_proposed_may_hold_numbers_with_a_fraction(tmp_path: Path) -> None:
    config = parse_config(b"version: 1\nname: x\nclasses: [a, b]\nlabels: {file: a.geojson}\n", "dataset.yaml")
    assert config.labels is not None
    kinds: list[dict[str, object]] = [{"owner": "me", "code": 0.0}, {"owner": "you", "code": 1.0}]
    features = [{"type": "Feature", "properties": kind, "geometry": SQUARE} for kind in kinds]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(DataError, match=r"if code tells them, write labels: \{file: a.geojson, class_field: code\}"):
        read_polygons([(tmp_path / "a.geojson", "a.geojson")], config.labels, config, tmp_path)


def test_geojson_of_other_shapes_is_no_annotation(tmp_path: Path) -> None:
    raw, scratch = tmp_path / "raw", tmp_path / "scratch"
    raw.mkdir()
    scratch.mkdir()
    config = parse_config(
        b"version: 1\nname: x\nclasses: [a, b]\nlabels: {file: a.json, class_name: b}\n", "dataset.yaml"
    )
    (raw / "a.json").write_text(json.dumps({"type": "Point", "coordinates": [0, 0]}))
    with pytest.raises(DataError, match="expected polygons, found points"):
        open_shared_labels(open_source(str(raw), scratch), config, {}, scratch)
