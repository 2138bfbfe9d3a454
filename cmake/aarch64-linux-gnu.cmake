# Toolchain: Debian's cross compiler for 64-bit Arm; what it builds runs here under qemu's user mode.
#   cmake -S tests/cross -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=$PWD/cmake/aarch64-linux-gnu.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
find_program(MOONLIGHT_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(MOONLIGHT_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${MOONLIGHT_QEMU} -cpu max -L /usr/aarch64-linux-gnu)
endif()
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
