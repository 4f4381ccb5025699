# The CUDA backend: goku_cuda.node for devices, and goku_cuda_emulated.node, the same kernels on a device emulated on the
# CPU, for tests (native/cuda/emulated_device.h). scripts/build_cuda.sh builds either.
# Options: -DGOKU_CUDA=ON, -DGOKU_CUDA_ARCHITECTURES="90a-real", -DGOKU_NVIDIA_ROOT=/where/pip/put/nvidia
set(GOKU_CUDA OFF CACHE STRING "ON: goku_cuda.node; kernels: only its kernels, without headers of libraries; OFF")
set(GOKU_CUDA_ARCHITECTURES "80-real;90a-real;100a-real" CACHE STRING "devices that goku_cuda.node has code for")
set(GOKU_NVIDIA_ROOT "$ENV{GOKU_NVIDIA_ROOT}" CACHE PATH "folder `nvidia` of NVIDIA's Python wheels")

# The shared sources, with another place for tensors to lie in.
set(GOKU_CUDA_SHARED_SOURCES ${GOKU_SHARED_SOURCES})
list(REMOVE_ITEM GOKU_CUDA_SHARED_SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/native/tensor_memory.cc
     ${CMAKE_CURRENT_SOURCE_DIR}/native/devices.cc
     ${CMAKE_CURRENT_SOURCE_DIR}/native/collectives/device_lines.cc
     ${CMAKE_CURRENT_SOURCE_DIR}/native/collectives/staging.cc)
list(APPEND GOKU_CUDA_SHARED_SOURCES native/cuda/device.cc native/cuda/devices.cc native/cuda/library.cc native/cuda/nccl_api.cc
     native/cuda/nccl_comm.cc native/cuda/nccl_lines.cc native/cuda/staging.cc native/cuda/streams.cc native/cuda/tensor_memory.cc)

function(goku_backend target)
  set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX ".node" CXX_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON
                                             LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/Release)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(${target} SYSTEM PRIVATE ${CMAKE_JS_INC})
  target_link_libraries(${target} PRIVATE ${CMAKE_JS_LIB} OpenMP::OpenMP_CXX Threads::Threads ${CMAKE_DL_LIBS})
  target_compile_definitions(${target} PRIVATE NAPI_VERSION=9 GOKU_CUDA)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -ffp-contract=off
                                           -fno-math-errno -fno-trapping-math -march=${GOKU_MARCH}>)
endfunction()

# --- the emulated device ------------------------------------------------------------------------------------------------
# A kernel's source is C++ as well, with another device.h; CMake wants it under a name that says so.
set(emulated_sources ${GOKU_CUDA_SHARED_SOURCES} native/cuda/emulated_device.cc native/cuda/emulated_cublaslt.cc
    native/cuda/emulated_memory.cc native/cuda/emulated_probe.cc native/cuda/emulated_streams.cc)
foreach(kernel ${GOKU_CUDA_KERNELS})
  get_filename_component(name ${kernel} NAME_WE)
  set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cc)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"@kernel@\"\n" @ONLY)
  list(APPEND emulated_sources ${wrapper})
endforeach()
add_library(goku_cuda_emulated SHARED EXCLUDE_FROM_ALL ${emulated_sources} ${CMAKE_JS_SRC})
goku_backend(goku_cuda_emulated)
target_compile_definitions(goku_cuda_emulated PRIVATE GOKU_EMULATED_DEVICE)
# Half the time of a build at -O2; the kernels' fibers and tiles are fast enough. `unroll` is nvcc's.
target_compile_options(goku_cuda_emulated PRIVATE -O1 -Wno-unknown-pragmas)

# --- devices ------------------------------------------------------------------------------------------------------------
if(NOT GOKU_CUDA)
  set(GOKU_CUDA_FOUND "CUDA backend not asked for (make cuda)")
  return()
endif()
find_program(GOKU_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda ${GOKU_NVIDIA_ROOT}/cu13
                                  ${GOKU_NVIDIA_ROOT}/cuda_nvcc PATH_SUFFIXES bin)
if(NOT GOKU_NVCC)
  message(FATAL_ERROR "Cannot configure goku_cuda: no nvcc on PATH, in CUDA_HOME nor /usr/local/cuda, want CUDA 12.8 or newer")
endif()
set(CMAKE_CUDA_COMPILER ${GOKU_NVCC})
set(CMAKE_CUDA_ARCHITECTURES ${GOKU_CUDA_ARCHITECTURES})
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "Cannot configure goku_cuda: ${GOKU_NVCC} is CUDA ${CMAKE_CUDA_COMPILER_VERSION}, want 12.8 or newer")
endif()
find_package(CUDAToolkit 12.8 REQUIRED)
# CMake before 3.31 knows no CUDA 20 standard: not required of it, it says nothing to nvcc, and we do. No contraction: as on the CPU, kernels ask for fma.
add_library(goku_cuda_kernels OBJECT EXCLUDE_FROM_ALL ${GOKU_CUDA_KERNELS})
target_include_directories(goku_cuda_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(goku_cuda_kernels PRIVATE GOKU_CUDA)
target_compile_options(goku_cuda_kernels PRIVATE -std=c++20 -fmad=false -lineinfo)
set_target_properties(goku_cuda_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden
                                                   CUDA_STANDARD_REQUIRED OFF)
string(REPLACE ";" " " architectures "${GOKU_CUDA_ARCHITECTURES}")
set(GOKU_CUDA_FOUND "CUDA ${CMAKE_CUDA_COMPILER_VERSION} (${GOKU_NVCC}) for ${architectures}")
if(GOKU_CUDA STREQUAL "kernels")
  return()
endif()

if(NOT GOKU_NVIDIA_ROOT)
  find_program(GOKU_PYTHON python3)
  if(GOKU_PYTHON)
    execute_process(COMMAND ${GOKU_PYTHON} -c "import nvidia; print(list(nvidia.__path__)[0], end='')"
                    OUTPUT_VARIABLE GOKU_NVIDIA_ROOT ERROR_QUIET)
  endif()
endif()
find_path(GOKU_CUBLASLT_INCLUDE cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${GOKU_NVIDIA_ROOT}/cu13/include
                                                 ${GOKU_NVIDIA_ROOT}/cublas/include)
if(NOT GOKU_CUBLASLT_INCLUDE)
  message(FATAL_ERROR "Cannot configure goku_cuda: cublasLt.h not found, run: pip install nvidia-cublas, and give "
                      "-DGOKU_NVIDIA_ROOT=its folder nvidia")
endif()
add_library(goku_cuda SHARED ${GOKU_CUDA_SHARED_SOURCES} native/cuda/cublaslt.cc
                             $<TARGET_OBJECTS:goku_cuda_kernels> ${CMAKE_JS_SRC})
goku_backend(goku_cuda)
set_target_properties(goku_cuda PROPERTIES LINKER_LANGUAGE CXX CUDA_STANDARD_REQUIRED OFF)
target_include_directories(goku_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${GOKU_CUBLASLT_INCLUDE})
target_compile_options(goku_cuda PRIVATE -O2)
# The runtime is linked in; libcuda is found by it when there is a device, the other libraries by native/cuda/library.h.
target_link_libraries(goku_cuda PRIVATE CUDA::cudart_static)
string(APPEND GOKU_CUDA_FOUND ", cublasLt.h in ${GOKU_CUBLASLT_INCLUDE}")
# Not needed: native/cuda/nccl_api.h declares what is used of NCCL, which is found at run time. Where there is its header, the two are compared.
find_path(GOKU_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${GOKU_NVIDIA_ROOT}/nccl/include)
if(GOKU_NCCL_INCLUDE)
  target_sources(goku_cuda PRIVATE native/cuda/nccl_header.cc)
  target_include_directories(goku_cuda SYSTEM PRIVATE ${GOKU_NCCL_INCLUDE})
  string(APPEND GOKU_CUDA_FOUND ", NCCL's declarations compared with nccl.h in ${GOKU_NCCL_INCLUDE}")
else()
  string(APPEND GOKU_CUDA_FOUND ", NCCL's declarations not compared: no nccl.h")
endif()
