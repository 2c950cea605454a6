// CUDA as the files of this folder use it: from nvcc, or, for checks on a machine without a GPU,
// from an emulator that runs the same kernels on the host (tests/csrc/emulator).

#ifndef COOPHASH_CUDA_PORTABLE_H_
#define COOPHASH_CUDA_PORTABLE_H_

#ifdef COOPHASH_CUDA_EMULATOR
#include "../../tests/csrc/emulator/emulator.h"

#include "errors.h"
#else

#include <cuda_runtime.h>

#include <cstddef>

#include "errors.h"

#ifdef __CUDACC__

namespace coophash::gpu {

// Queues a kernel: `grid` blocks of `threads` threads, `shared` bytes of dynamic shared memory. Not
// by
// <<< >>>, whose error is to be asked for, and may then be one that another library left behind.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
            cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "starting a kernel");
}

// The dynamic shared memory of a block, aligned to 16 bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char coophash_shared[];
  return coophash_shared;
}

}  // namespace coophash::gpu

#endif
#endif

// Whether device code is being compiled: elsewhere files with host code alone see the declarations.
#if defined(__CUDACC__) || defined(COOPHASH_CUDA_EMULATOR)
#define COOPHASH_KERNELS 1
#else
#define COOPHASH_KERNELS 0
#endif

#ifdef __CUDACC__
#define COOPHASH_HD __host__ __device__ inline
#else
#define COOPHASH_HD inline
#endif

namespace coophash::gpu {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kLanes = 32;

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_PORTABLE_H_
