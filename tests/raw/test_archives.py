"""Sources in archives: read in place, and refused where a member is not what it should be."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tiles import write_raw
from staging_cli import read_paths, tree

from landseg import storage
from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError
from landseg.raw.sources import archives, ranged
from landseg.raw.sources.archives import open_source


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw") / "fields", train=12)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def pack(raw: Path, target: Path, *, nested: bool = False) -> Path:
    kind = target.suffix[1:]
    packed = shutil.make_archive(
        str(target.with_suffix("")), kind, raw.parent if nested else raw, raw.name if nested else "."
    )
    assert packed == str(target)
    return target


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_is_staged_like_the_folder(raw, stage, tmp_path, name, nested):
    expected = stage(raw).loaded
    archive = pack(raw, tmp_path / name, nested=nested)
    run = stage(archive, "--num-workers", "2", store=tmp_path / "other")
    assert run.status == 0, run.err
    assert run.loaded.sha256 == expected.sha256


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_that_there_is_no_room_for_is_read_by_range(raw, stage, tmp_path, s3, monkeypatch, name, nested):
    storage.put_file(f"{s3.uri}/{name}", pack(raw, tmp_path / name, nested=nested))
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", "40000")
    monkeypatch.setattr(storage, "get_file", lambda *_, **__: pytest.fail("it was fetched whole"))
    monkeypatch.setattr(ranged, "_BLOCK_BYTES", 5000)
    monkeypatch.setattr(archives, "_ZIP_EXTRA_BYTES", 0 if nested else 256)
    run = stage(f"{s3.uri}/{name}", "--num-workers", "2")
    assert run.status == 0, run.err
    monkeypatch.undo()
    assert run.loaded.sha256 == stage(raw, store=tmp_path / "other").loaded.sha256


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_workers_share_an_archive_in_object_storage(raw, stage, tmp_path, s3, monkeypatch, name, is_whole):
    source = f"{s3.uri}/{name}"
    storage.put_file(source, pack(raw, tmp_path / name))
    shards = ("--shard-bytes", "10000")
    assert stage(source, *shards, store=tmp_path / "alone").status == 0
    if not is_whole:
        monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", "40000")
    runs = [stage(source, *shards, "--worker", f"{share}/2") for share in (1, 2)]
    assert [(run.status, bool(run.out)) for run in runs] == [(0, False), (0, True)]
    assert tree(stage.store) == tree(tmp_path / "alone")
    read = read_paths(monkeypatch)
    assert stage(source, *shards).loaded.sha256 == runs[1].loaded.sha256
    assert read == []


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
def test_damage_in_an_archive_that_is_read_by_range(raw, stage, tmp_path, s3, monkeypatch, name):
    data = bytearray(pack(raw, tmp_path / name).read_bytes())
    del data[len(data) // 2 : len(data) // 2 + 700]
    storage.put_bytes(f"{s3.uri}/{name}", bytes(data))
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", "40000")
    run = stage(f"{s3.uri}/{name}")
    assert run.status == 2
    assert name in run.error


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
def test_an_archive_in_object_storage(raw, stage, tmp_path, s3, name):
    storage.put_file(f"{s3.uri}/{name}", pack(raw, tmp_path / name))
    run = stage(f"{s3.uri}/{name}")
    assert run.loaded.sha256 == stage(raw, store=tmp_path / "other").loaded.sha256


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_any_format_with_long_and_foreign_names(form, tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    name = "é" * 30 if form == tarfile.USTAR_FORMAT else "é" * 30 + "x" * 140
    for folder, suffix in (("images", "tif"), ("labels", "png")):
        (raw / f"train/{folder}/t0000.{suffix}").rename(raw / f"train/{folder}/{name}.{suffix}")
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        archive.add(raw, "./")
    assert stage(tmp_path / "a.tar").loaded.sha256 == stage(raw, store=tmp_path / "other").loaded.sha256


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_of_any_compression_and_what_macos_adds(kind, raw, tmp_path, stage):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        for path in raw.rglob("*.*"):
            archive.write(path, f"fields/{path.relative_to(raw)}")
        archive.writestr("__MACOSX/fields/train/images/._t0000.tif", b"x")
    assert stage(tmp_path / "a.zip").loaded.sha256 == stage(raw, store=tmp_path / "other").loaded.sha256


@pytest.mark.parametrize("nested", [False, True])
def test_a_zip_with_backslashes_as_programs_on_windows_write_it(nested, raw, tmp_path, stage):
    folder = "fields\\" if nested else ""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in raw.rglob("*.*"):
            info = zipfile.ZipInfo("x")
            info.filename = folder + str(path.relative_to(raw)).replace("/", "\\")  # ZipInfo itself would change it
            archive.writestr(info, path.read_bytes())
        info = zipfile.ZipInfo("x")
        info.filename = f"{folder}train\\images\\"
        archive.writestr(info, b"")
    run = stage(tmp_path / "a.zip", "--num-workers", "2")
    assert run.status == 0, run.err
    assert run.loaded.sha256 == stage(raw, store=tmp_path / "other").loaded.sha256


@pytest.mark.parametrize("folder", ["fields", "deep/er/fields"])
@pytest.mark.parametrize("kind", ["folder", "zip", "s3"])
def test_the_folder_that_holds_the_dataset_is_entered(kind, folder, raw, tmp_path, stage, s3):
    shutil.copytree(raw, tmp_path / "outer" / folder)
    source: Path | str = tmp_path / "outer"
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "outer"), "zip", source)
    elif kind == "s3":
        for path in (tmp_path / "outer").rglob("*.*"):
            storage.put_file(f"{s3.uri}/{path.relative_to(tmp_path / 'outer')}", path)
        source = s3.uri
    run = stage(source)
    assert run.status == 0, run.err
    assert run.loaded.sha256 == stage(raw, store=tmp_path / "other").loaded.sha256
    assert run.checks["warnings"][-1] == f"the dataset is the folder {folder}, which holds dataset.yaml"


def test_what_lies_outside_of_the_folder_that_is_entered_is_told(raw, tmp_path, stage):
    shutil.copytree(raw, tmp_path / "outer/fields")
    shutil.copytree(raw / "train/images", tmp_path / "outer/more")
    expected = "12 .tif files outside of fields not used, the first is more/t0000.tif"
    assert expected in stage(tmp_path / "outer").checks["warnings"]
    shutil.copytree(raw, tmp_path / "outer/again")
    assert "expected one dataset, found 2: again, fields (give the folder of one)" in stage(tmp_path / "outer").error


def zip_of(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def link_in_zip() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("train/images/a.tif")
    info.external_attr = 0o120777 << 16
    return info


def broken_off(path: Path) -> Path:
    path.write_bytes(zip_of(path, ("a", b"x" * 500)).read_bytes()[:-30])
    return path


def lying_zip(path: Path) -> Path:
    """A member that unpacks to more than the directory says."""
    data = bytearray(zip_of(path, ("dataset.yaml", bytes(2000))).read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (5).to_bytes(4, "little")
    path.write_bytes(data)
    return path


UNSAFE = {
    "climbing zip": (lambda p: zip_of(p / "a.zip", ("../../etc/passwd", b"x")), "found one with '..'"),
    "absolute zip": (lambda p: zip_of(p / "a.zip", ("/etc/passwd", b"x")), "found an absolute one"),
    "climbing with backslashes": (lambda p: zip_of(p / "a.zip", ("a\\..\\..\\x", b"x")), "found one with '..'"),
    "drive letter": (lambda p: zip_of(p / "a.zip", ("C:\\Windows\\x", b"x")), "found an absolute one"),
    "drive letter with slashes": (lambda p: zip_of(p / "a.zip", ("C:/Windows/x", b"x")), "found an absolute one"),
    "path of a drive": (lambda p: zip_of(p / "a.zip", ("c:train\\x", b"x")), "found an absolute one"),
    "network share": (lambda p: zip_of(p / "a.zip", ("\\\\host\\share\\x", b"x")), "found an absolute one"),
    "odd name": (lambda p: zip_of(p / "a.zip", ("train/a\u202e.tif", b"x")), "right-to-left override (U+202E)"),
    "link in zip": (lambda p: zip_of(p / "a.zip", (link_in_zip(), b"/etc/passwd")), "a link or a device"),
    "zip bomb": (lambda p: zip_of(p / "a.zip", ("a", bytes(1 << 20)), ("b", b"x")), "a decompression bomb?"),
    "climbing tar": (lambda p: tar_of(p / "a.tar", tar_member("train/../../x")), "found one with '..'"),
    "absolute tar": (lambda p: tar_of(p / "a.tar", tar_member("/etc/passwd")), "found an absolute one"),
    "symbolic link": (lambda p: tar_of(p / "a.tar", tar_member("a", tarfile.SYMTYPE, "/etc")), "a link or a device"),
    "hard link": (lambda p: tar_of(p / "a.tar", tar_member("a", tarfile.LNKTYPE, "b")), "a link or a device"),
    "device": (lambda p: tar_of(p / "a.tar", tar_member("a", tarfile.CHRTYPE)), "a link or a device"),
    "name twice": (lambda p: tar_of(p / "a.tar", tar_member("a"), tar_member("./a")), "with the same name"),
    "empty": (lambda p: tar_of(p / "a.tar"), "the archive is empty"),
    "no archive": (lambda p: p / "a.zip", "no such archive"),
    "same name in both spellings": (lambda p: zip_of(p / "a.zip", ("a\\b", b"x"), ("a/b", b"x")), "with the same name"),
    "pointer": (lambda p: (p / "a.zip").write_bytes(POINTER) and p / "a.zip", "a Git LFS pointer in place of the file"),
    "page": (lambda p: (p / "a.tar").write_bytes(b"<!doctype html>" * 99) and p / "a.tar", "download it again"),
    "empty file": (lambda p: (p / "a.zip").write_bytes(b"") or p / "a.zip", "found an empty file"),
    "zip called tar": (lambda p: zip_of(p / "a.tar", ("a", b"x")), "found a zip archive (rename it to .zip)"),
    "broken off": (lambda p: broken_off(p / "a.zip"), "found one that is truncated or damaged"),
    "not a zip": (lambda p: (p / "a.zip").write_bytes(b"hello") and p / "a.zip", "expected a zip archive"),
    "not a tar": (lambda p: (p / "a.tar").write_bytes(b"hello" * 200) and p / "a.tar", "expected a tar archive"),
    "lying zip": (lambda p: lying_zip(p / "a.zip"), "Bad CRC-32"),
    "compressed tar": (lambda p: p / "a.tar.gz", "compressed tar"),
}


@pytest.mark.parametrize("case", UNSAFE, ids=lambda name: name.replace(" ", "-"))
def test_unsafe_archives_are_refused(case, tmp_path, stage, monkeypatch):
    monkeypatch.setattr("landseg.raw.sources.archives._ALWAYS_ALLOWED_BYTES", 1000)
    make, expected = UNSAFE[case]
    run = stage(make(tmp_path))
    assert run.status == 2
    assert expected in run.error
    assert not stage.store.exists()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("dataset.yaml", b"name: x", "found a file (give the folder that holds it)"),
        ("data.rar", b"Rar!\x1a\x07", "found a RAR archive (unpack it)"),
        ("data.7z", b"7z\xbc\xaf\x27\x1c", "found a 7z archive (unpack it)"),
        ("data.bin", b"PK\x03\x04", "found a zip archive (call it .zip)"),
        ("data.txt", b"hello", "found a file of another kind (give the folder that holds the dataset)"),
    ],
)
def test_a_file_that_is_no_archive(name, data, expected, tmp_path, stage):
    (tmp_path / name).write_bytes(data)
    assert f"{name}: expected a folder, a .zip or a .tar, {expected}" in stage(tmp_path / name).error


def test_an_encrypted_member(raw, tmp_path, stage):
    path = pack(raw, tmp_path / "data.zip")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    while data[entry + 46 : entry + 46 + 12] != b"dataset.yaml":
        entry = data.index(b"PK\x01\x02", entry + 4)
    data[entry + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in stage(path).error


def test_a_damaged_member_is_that_tile_s_problem(raw, tmp_path, stage):
    path = pack(raw, tmp_path / "data.zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train/images/t0003.tif")
    data = bytearray(path.read_bytes())
    position = info.header_offset + 30 + len(info.filename) + 40
    data[position : position + 8] = b"\xff" * 8
    path.write_bytes(data)
    run = stage(path)
    assert run.status == 2
    assert "train/images/t0003.tif: the archive is damaged" in run.error


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
def test_another_process_reads_without_the_list_of_members(raw, tmp_path, name):
    source = open_source(str(pack(raw, tmp_path / name, nested=True)), tmp_path)
    files = source.files()
    pickled = pickle.dumps(source)
    assert b"t0000" not in pickled
    copy = pickle.loads(pickled)
    assert copy == source
    assert [copy.read(file) for file in files] == [source.read(file) for file in files]


def test_a_truncated_tar(raw, tmp_path, stage):
    path = pack(raw, tmp_path / "data.tar")
    path.write_bytes(path.read_bytes()[:-20000])
    assert stage(path).status == 2


@pytest.fixture(scope="module")
def seeds(raw, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    small = write_raw(folder / "small", train=1, val=0, test=0, size=4)
    return {kind: pack(small, folder / f"s.{kind}").read_bytes() for kind in ("zip", "tar")}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    data = bytearray(whole)
    for place, replacement in draw(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=8)):
        position = int(place * len(data))
        data[position : position + len(replacement)] = replacement
    return bytes(data[: draw(st.none() | st.integers(0, 2000))])


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_indexes_are_refused_or_read_never_worse(seeds, kind, count, tmp_path):
    @settings(max_examples=count)
    @given(damaged(seeds[kind]))
    def run(data):
        path = tmp_path / f"{sha256_hex(data)}.{kind}"
        path.write_bytes(data)
        try:
            source = open_source(str(path), tmp_path)
            for file in source.files():
                assert not file.path.startswith("/")
                assert ".." not in Path(file.path).parts
                source.read(file)
        except DataError:
            pass
        path.unlink()

    run()
