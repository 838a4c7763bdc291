"""Images of damaged bytes end in one line of landseg's own, and nothing of GDAL's is printed."""

from __future__ import annotations

import random

import pytest
from gdal_files import FORMATS, vrt, write_gdal
from raw_tiles import random_image

from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import parse_config
from landseg.raw.expected import Expected
from landseg.raw.images.transcoding import decode_image_files
from landseg.raw.images.values import Kind
from landseg.raw.images.vrt import referenced_files
from landseg.raw.sources.files import ImageFiles


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rounds", [pytest.param(40, id="some"), pytest.param(3000, id="many", marks=pytest.mark.slow)])
def test_damaged_images(rounds, tmp_path, capfd):
    config = parse_config(b"version: 1\nname: a\nclasses: [a, b]\n", "dataset.yaml")
    expected = Expected(config, Kind(3, "uint8"))
    seeds = {}
    for name, options in FORMATS.items():
        write_gdal(tmp_path / name, random_image(1) // 2, **options)
        seeds[name] = (tmp_path / name).read_bytes()
    path, referenced = "train/images/a.vrt", {"bands/0.tif": seeds["a.tif"]}

    def read(name: str) -> bytes:
        if name not in referenced:
            raise DataError("here", f"refers to {name}, which is not in the dataset")
        return referenced[name]

    seeds["v.vrt"] = vrt(["../../bands/0.tif"] * 3).encode()
    chance = random.Random(1)
    for name, whole in seeds.items():
        for _ in range(rounds):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                # Headers are damaged more often: they decide what is allocated.
                data[chance.randrange(min(len(data), chance.choice([40, 400, len(data)])))] = chance.randrange(256)
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)) :]
            try:
                found = referenced_files(bytes(data), path, "here", read) if "vrt" in name else {}
                files = ImageFiles(bytes(data), path=path, referenced=found)
                decode_image_files(files, "here", expected, max_px=4096)
            except DataError as err:
                assert "\n" not in str(err)
                assert "vsimem" not in str(err)
    assert capfd.readouterr().err == ""


def test_threads_of_openjpeg_print_nothing(tmp_path, capfd):
    config = parse_config(b"version: 1\nname: a\nclasses: [a, b]\n", "dataset.yaml")
    write_gdal(tmp_path / "d.jp2", random_image(1) // 2, **FORMATS["d.jp2"])
    data = bytearray((tmp_path / "d.jp2").read_bytes())
    style = data.index(b"\xff\x52") + 12  # of code-blocks, in the default coding style
    data[style] = 78  # high throughput, which these are not
    with pytest.raises(DataError, match="truncated or damaged"):
        decode_image_files(
            ImageFiles(bytes(data), path="a.jp2"), "here", Expected(config, Kind(3, "uint8")), max_px=4096
        )
    assert capfd.readouterr().err == ""
