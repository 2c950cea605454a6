// The scheme of faiss' GpuIndexBinaryFlat, written anew for comparison where faiss-gpu is not
// installed: a warp owns a query, and a block of 8 warps goes through the whole database, 32 codes at
// a time by shared memory, 8 words of 32 bits to a pair whatever the length of a code. It is not
// faiss: selection is left out and only the least distance of each lane is kept, so that it can only
// be faster than the original.

#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kWarps = 8, kLanes = 32, kWords = 8;

__global__ void scheme(const uint32_t* codes, int64_t rows, const uint32_t* queries, int64_t count,
                       int words, int* nearest) {
  __shared__ uint32_t tile[kLanes][kLanes + 1];
  __shared__ uint32_t own[kWarps][kWords];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t query = int64_t{blockIdx.x} * kWarps + warp;
  if (lane < kWords) own[warp][lane] = lane < words && query < count ? queries[query * words + lane] : 0;
  int least = 1 << 30;
  for (int64_t base = 0; base < rows; base += kLanes) {
    if (lane < kWords) {
      for (int i = warp; i < kLanes; i += kWarps) {
        tile[i][lane] = lane < words && base + i < rows ? codes[(base + i) * words + lane] : 0;
      }
    }
    __syncthreads();
    int distance = 0;
#pragma unroll
    for (int w = 0; w < kWords; ++w) distance += __popc(own[warp][w] ^ tile[lane][w]);
    if (base + lane < rows) least = min(least, distance);
    __syncthreads();
  }
  for (int step = 16; step > 0; step /= 2) {
    least = min(least, __shfl_xor_sync(0xffffffffu, least, step));
  }
  if (lane == 0 && query < count) nearest[query] = least;
}

}  // namespace

// codes (rows, words), queries (count, words), up to 256 bits; nearest (count,).
extern "C" int faiss_scheme(const uint32_t* codes, int64_t rows, const uint32_t* queries,
                            int64_t count, int words, int* nearest, void* stream) {
  const unsigned blocks = static_cast<unsigned>((count + kWarps - 1) / kWarps);
  scheme<<<blocks, dim3(kLanes, kWarps), 0, static_cast<cudaStream_t>(stream)>>>(
      codes, rows, queries, count, words, nearest);
  return static_cast<int>(cudaGetLastError());
}
