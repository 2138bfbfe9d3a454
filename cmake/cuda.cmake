# The CUDA backend (src/*/cuda), a part of libmoonlight where it is built.
#   MOONLIGHT_CUDA   AUTO      where nvcc and the toolkit are
#                    ON        or an error
#                    OFF
#                    EMULATED  for tests: compiled by the C++ compiler against tests/emulate, run on the processor
#   MOONLIGHT_CUDA_ARCHITECTURES   what kernels are compiled for; the program asks for 8.0 or newer
set(MOONLIGHT_CUDA AUTO CACHE STRING "CUDA backend: AUTO, ON, OFF or EMULATED")
set(MOONLIGHT_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING "As CMAKE_CUDA_ARCHITECTURES")

set(MOONLIGHT_CUDA_BUILT OFF)
if(MOONLIGHT_CUDA STREQUAL "EMULATED")
  enable_language(CXX)
  set(CMAKE_CXX_STANDARD 17)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
  set(MOONLIGHT_CUDA_BUILT ON)
elseif(MOONLIGHT_FUZZ AND NOT MOONLIGHT_CUDA STREQUAL "ON")
  # Everything is instrumented there, which nvcc cannot.
elseif(NOT MOONLIGHT_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${MOONLIGHT_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    find_package(CUDAToolkit 12.0 QUIET)
  endif()
  if(CUDAToolkit_FOUND)
    set(MOONLIGHT_CUDA_BUILT ON)
  elseif(MOONLIGHT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MOONLIGHT_CUDA=ON: found no nvcc with its toolkit (12.0 or newer): install it, put nvcc into "
      "PATH, or configure with -DMOONLIGHT_CUDA=OFF")
  endif()
endif()
message(STATUS "CUDA backend: ${MOONLIGHT_CUDA_BUILT} (MOONLIGHT_CUDA=${MOONLIGHT_CUDA})")

# Put the backend into a library.
function(moonlight_add_cuda library)
  if(NOT MOONLIGHT_CUDA_BUILT)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS src/*/cuda/*.cu)
  target_sources(${library} PRIVATE ${sources})
  target_compile_definitions(${library} PUBLIC MOONLIGHT_CUDA)
  if(MOONLIGHT_CUDA STREQUAL "EMULATED")
    set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-fno-exceptions;-Wno-unknown-pragmas")
    target_sources(${library} PRIVATE tests/emulate/emulate.cpp tests/emulate/hopper.cpp)
    # What is tested are the kernels: the device itself is fast, and not instrumented.
    set_source_files_properties(tests/emulate/emulate.cpp tests/emulate/hopper.cpp PROPERTIES
      COMPILE_OPTIONS "-O3;-fno-sanitize=undefined")
    target_compile_definitions(${library} PUBLIC MOONLIGHT_CUDA_EMULATED)
    target_include_directories(${library} BEFORE PUBLIC tests/emulate)
  else()
    target_compile_options(${library} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Wno-unused-function,-Werror,-fno-exceptions,-fno-threadsafe-statics>")
    target_link_libraries(${library} PUBLIC CUDA::cudart_static)
    # What the installed library asks of its users (cmake/install.cmake).
    set(MOONLIGHT_CUDA_LIBS "${CUDA_cudart_static_LIBRARY}" dl rt PARENT_SCOPE)
  endif()
endfunction()
