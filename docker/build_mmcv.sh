#!/bin/sh
# Compiles mmcv-full 1.7.2 into /build/wheels, against the torch in /opt/landseg.
# FLAVOR=cuda compiles the CUDA ops for $CUDA_ARCHS with nvcc from packages; FLAVOR=cpu compiles only the CPU ops.
set -eu

site=$(/opt/landseg/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pip="pip --python /opt/landseg/bin/python"

$pip download --no-deps --no-build-isolation --require-hashes --no-binary mmcv-full -d /build/sdist -r /build/mmcv-full.txt
mkdir -p /build/mmcv /build/wheels
tar -xzf /build/sdist/mmcv-full-*.tar.gz -C /build/mmcv --strip-components 1

# torch 2.14's headers need C++20; a flag from outside would be overridden by the one that setup.py sets.
sed -i 's/-std=c++17/-std=c++20/g; s/-std=c++14/-std=c++20/g' /build/mmcv/setup.py

# ninja compiles this many files at once; mmcv's default is 4. With CUDA a job needs about 2 GB of memory.
export MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}" CFLAGS=-g0
if [ "$FLAVOR" = cuda ]; then
  $pip install --no-deps --require-hashes --only-binary :all: -r /build/nvcc.txt
  export FORCE_CUDA=1 CUDA_HOME="$site/nvidia/cu13" TORCH_CUDA_ARCH_LIST="$CUDA_ARCHS"
  export CPATH="$CUDA_HOME/include"
  # The packages hold only versioned libraries, under lib; the linker looks for libcudart.so in lib64.
  [ -e "$CUDA_HOME/lib64" ] || ln -s lib "$CUDA_HOME/lib64"
  for library in "$CUDA_HOME"/lib/*.so.*; do
    [ -e "${library%%.so.*}.so" ] || ln -s "${library##*/}" "${library%%.so.*}.so"
  done
fi
$pip wheel --no-deps --no-build-isolation -w /build/wheels /build/mmcv
