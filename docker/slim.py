"""Removes from an image's environment what no stage reads: `python slim.py PREFIX`.

Wheels carry tests, headers, static libraries, debug symbols (most of numcodecs and imagecodecs) and, in botocore, the
descriptions of some 400 services of which we use one. torch requires a compiler, triton, which only `torch.compile`
uses, and CUDA libraries that none of its own link to. Needs `strip` (binutils).
"""

import shutil
import subprocess
import sys
from pathlib import Path

SERVICES = {"s3", "sts", "sso", "sso-oidc"}  # the last three: ways of getting credentials
FOLDERS = ("tests", "testing/tests", "include", "_pyinstaller", "f2py")
PACKAGES = ("triton", "tests", "yapftests")  # `tests` are mmcls'
FILES = ("*.a", "*.pyi", "*.pxd", "*.c", "*.h", "*.hpp", "*.cu", "*.cuh", "*.cpp", "*.bc")
LIBRARIES = ("libcusolverMg.so*", "libnvrtc*.alt.so*", "libnvblas.so*", "libcufftw.so*")


def main(prefix: Path) -> None:
    """Remove the folders and files; print what was saved."""
    before = size(prefix)
    packages = next((prefix / "lib").glob("python3.*/site-packages"))
    for service in (packages / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for package in ("numpy", "numcodecs", "zarr", "torch", "torchvision", "tensorboard", "matplotlib", "PIL", "mmcv"):
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
    for package in ("numcodecs", "imagecodecs"):
        subprocess.run(["strip", "--strip-debug", *sorted((packages / package).rglob("*.so"))], check=True)
    print(f"slim: {before >> 20} MiB, now {size(prefix) >> 20} MiB")


def size(folder: Path) -> int:
    """Bytes in a folder's files, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
