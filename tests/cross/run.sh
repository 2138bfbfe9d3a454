#!/bin/sh
# run.sh FOLDER: builds the kernels of 64-bit Arm into FOLDER and runs their check under qemu; 77, skipped, where the
# compiler or the emulator is missing (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
command -v aarch64-linux-gnu-gcc >/dev/null || { echo "skipped: no aarch64-linux-gnu-gcc"; exit 77; }
command -v qemu-aarch64-static >/dev/null || command -v qemu-aarch64 >/dev/null ||
    { echo "skipped: no qemu-aarch64"; exit 77; }
cmake -S "$here" -B "$folder" -DCMAKE_TOOLCHAIN_FILE="$here/../../cmake/aarch64-linux-gnu.cmake"
cmake --build "$folder"
ctest --test-dir "$folder" --output-on-failure
