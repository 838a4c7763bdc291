"""Removes from an image's environment what no stage reads: `python slim.py PREFIX`.

Wheels carry tests, headers, static libraries, symbols (most of numcodecs and rasterio), codecs that no TIFF or PNG is
stored with and, in botocore, the descriptions of some 400 services of which we use one. torch requires a compiler,
triton, which only `torch.compile` uses, and CUDA libraries that none of its own link to. Needs `strip` and `readelf`
(binutils).
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

SERVICES = {"s3", "sts", "sso", "sso-oidc"}  # the last three: ways of getting credentials
FOLDERS = ("tests", "testing/tests", "include", "_pyinstaller", "f2py")
PACKAGES = ("triton", "tests", "yapftests")  # `tests` are mmcls'
FILES = ("*.a", "*.pyi", "*.pxd", "*.c", "*.h", "*.hpp", "*.cu", "*.cuh", "*.cpp", "*.bc")
CODECS = (
    "shared",
    "shared_cython",
    "imcd",
    "tiff",
    "png",
    "jpeg8",
    "lzma",
    "zstd",
    "zlib",
    "zlibng",
    "deflate",
    "lerc",
    "webp",
)
"""Modules of imagecodecs that tifffile and landseg read and write with."""
STRIPPED = ("numcodecs", "imagecodecs", "rasterio", "rasterio.libs", "pyogrio", "pyogrio.libs")
LIBRARIES = ("libcusolverMg.so*", "libnvrtc*.alt.so*", "libnvblas.so*", "libcufftw.so*")


def main(prefix: Path) -> None:
    """Remove the folders and files; print what was saved."""
    before = size(prefix)
    packages = next((prefix / "lib").glob("python3.*/site-packages"))
    for service in (packages / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for package in (
        "numpy",
        "numcodecs",
        "zarr",
        "torch",
        "torchvision",
        "tensorboard",
        "matplotlib",
        "PIL",
        "mmcv",
        "pyogrio",
    ):
        for name in FOLDERS:
            for folder in sorted((packages / package).rglob(name)):
                if folder.is_dir():
                    shutil.rmtree(folder)
    for name in PACKAGES:
        for folder in [packages / name, *packages.glob(f"{name}-*.dist-info")]:
            if folder.is_dir():
                shutil.rmtree(folder)
    for pattern in (*FILES, *LIBRARIES):
        for file in packages.rglob(pattern):
            file.unlink()
    for module in (packages / "imagecodecs").glob("_*.abi3.so"):
        if module.name.partition(".")[0].removeprefix("_") not in CODECS:
            module.unlink()
    for module in (packages / "PIL").glob("_avif*.so"):
        module.unlink()
    for package, libraries in (("imagecodecs", "imagecodecs.libs"), ("PIL", "pillow.libs")):
        remove_unneeded(packages / libraries, packages / package)
    for name in STRIPPED:
        files = sorted(path for path in (packages / name).rglob("*.so*") if path.is_file())
        if files:
            subprocess.run(["strip", "--strip-unneeded", *files], check=True)
    print(f"slim: {before >> 20} MiB, now {size(prefix) >> 20} MiB")


def remove_unneeded(libraries: Path, package: Path) -> None:
    """Remove the shared libraries of a wheel that none of its modules needs, directly or through another."""
    waiting, needed = sorted(package.rglob("*.so")), set()
    while waiting:
        done = subprocess.run(["readelf", "--dynamic", waiting.pop()], check=True, capture_output=True, text=True)
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", done.stdout):
            if name not in needed and (libraries / name).exists():
                needed.add(name)
                waiting.append(libraries / name)
    for library in libraries.iterdir():
        if library.name not in needed:
            library.unlink()


def size(folder: Path) -> int:
    """Bytes in a folder's files, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
