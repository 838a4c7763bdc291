"""Many label maps as one: a VRT, the small text file by which GDAL and every GIS on it draw files side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import tifffile

from landseg.contracts.dataset import GeoKeys
from landseg.ensemble.maps.geotiff import MapStyle
from landseg.raw.georeference.crs import crs_of
from landseg.raw.georeference.tags import Transform, read_georeference


class Mosaic(NamedTuple):
    """A mosaic that was written, and how many maps it leaves out because they are turned or lie nowhere."""

    paths: list[str]
    num_left_out: int


class _Part(NamedTuple):
    """A map: its path, its size in pixels, and where it lies."""

    path: str
    height: int
    width: int
    transform: Transform


def write_mosaics(folder: Path, paths: Sequence[str], style: MapStyle) -> Mosaic:
    """Write a mosaic of the label maps of each CRS: `mosaic.vrt`, and `mosaic-2.vrt`, … where there are several.

    Where maps overlap, the last that has data is drawn. Pixels are as large as the smallest of them.

    Args:
        folder: where the maps lie, and the mosaics go.
        paths: of the GeoTIFFs, below the folder.
        style: what their values mean.
    """
    by_crs: dict[GeoKeys | None, list[_Part]] = defaultdict(list)
    num_left_out = 0
    for path in sorted(paths):
        with tifffile.TiffFile(folder / path) as file:
            page = file.pages.first
            transform, crs = read_georeference(page)
            if transform is None or transform[1] or transform[3] or transform[0] <= 0 or transform[4] >= 0:
                num_left_out += 1
            else:
                by_crs[crs].append(_Part(path, page.imagelength, page.imagewidth, transform))
    written = []
    for number, (crs, parts) in enumerate(sorted(by_crs.items(), key=lambda item: -len(item[1])), start=1):
        written.append("mosaic.vrt" if number == 1 else f"mosaic-{number}.vrt")
        (folder / written[-1]).write_bytes(_encode(parts, crs, style))
    return Mosaic(written, num_left_out)


def _encode(parts: Sequence[_Part], crs: GeoKeys | None, style: MapStyle) -> bytes:
    across, down = min(part.transform[0] for part in parts), min(-part.transform[4] for part in parts)
    west, north = min(part.transform[2] for part in parts), max(part.transform[5] for part in parts)
    east = max(part.transform[2] + part.width * part.transform[0] for part in parts)
    south = min(part.transform[5] + part.height * part.transform[4] for part in parts)
    width, height = round((east - west) / across), round((north - south) / down)
    known = crs and crs_of(crs)
    lines = [f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">']
    if known:
        lines.append(f'  <SRS dataAxisToSRSAxisMapping="{_axes(known.is_geographic)}">{escape(known.to_wkt())}</SRS>')
    lines.append(f"  <GeoTransform>{west!r}, {across!r}, 0.0, {north!r}, 0.0, {-down!r}</GeoTransform>")
    lines += ['  <VRTRasterBand dataType="Byte" band="1">', f"    <NoDataValue>{style.nodata}</NoDataValue>"]
    lines += ["    <ColorInterp>Palette</ColorInterp>", "    <ColorTable>"]
    colours = (*style.colours, *[(0, 0, 0)] * (256 - len(style.colours)))
    for value, (red, green, blue) in enumerate(colours):
        alpha = 0 if value == style.nodata else 255
        lines.append(f'      <Entry c1="{red}" c2="{green}" c3="{blue}" c4="{alpha}"/>')
    lines += ["    </ColorTable>", "    <CategoryNames>"]
    lines += [f"      <Category>{escape(style.names.get(n, ''))}</Category>" for n in range(max(style.names) + 1)]
    lines.append("    </CategoryNames>")
    for part in parts:
        a, _, x, _, e, y = part.transform
        offset = f'xOff="{(x - west) / across:.10g}" yOff="{(north - y) / down:.10g}"'
        rectangle = f'{offset} xSize="{part.width * a / across:.10g}" ySize="{part.height * -e / down:.10g}"'
        lines += [
            "    <ComplexSource>",
            f'      <SourceFilename relativeToVRT="1">{escape(part.path)}</SourceFilename>',
            "      <SourceBand>1</SourceBand>",
            f'      <SourceProperties RasterXSize="{part.width}" RasterYSize="{part.height}" DataType="Byte"/>',
            f'      <SrcRect xOff="0" yOff="0" xSize="{part.width}" ySize="{part.height}"/>',
            f"      <DstRect {rectangle}/>",
            f"      <NODATA>{style.nodata}</NODATA>",
            "    </ComplexSource>",
        ]
    lines += ["  </VRTRasterBand>", "</VRTDataset>", ""]
    return "\n".join(lines).encode()


def _axes(is_geographic: bool) -> str:
    """In which order x and y are: those of degrees have latitude first by definition."""
    return "2,1" if is_geographic else "1,2"
