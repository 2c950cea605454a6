// The scan by mma.sync.m16n8k256 on single bits, AND and count: compute capability 8.0 to 9.0. XOR
// is not a machine instruction from 9.0 on, and from 10.0 on neither is.
//
// A block holds a tile of queries as fragments in registers; each of its warps goes through rows of
// its own, 16 at a time, and multiplies them with all of these. Sums are merged by OR, and one bit
// of them is looked at.

#include <algorithm>

#include "tensor.cuh"
#include "tensor.h"

#if defined(COOPHASH_CUDA_EMULATOR) || \
    (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1000)
#define COOPHASH_MMA 1
#else
#define COOPHASH_MMA 0
#endif

namespace coophash::gpu {

#ifdef COOPHASH_CUDA_EMULATOR
void mma_and_popc(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]);
#elif COOPHASH_MMA
__device__ inline void mma_and_popc(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
}
#endif

namespace {

// Columns of 8 queries that a warp holds, and stripes of rows that it reads ahead.
template <int WORDS>
struct Tile {
  static constexpr int kColumns = WORDS <= 2 ? 16 : WORDS <= 8 ? 8 : 4;
  static constexpr int kQueries = 8 * kColumns;
  static constexpr int kAhead = WORDS <= 4 ? 2 : 1;
};

#if COOPHASH_MMA

template <int WORDS>
__device__ void scan_stripes(const Rows& rows, const Asked& asked, const Collect& sink,
                             int64_t stretches) {
  constexpr int kSteps = encoded_steps(WORDS);
  constexpr int kColumns = Tile<WORDS>::kColumns;
  constexpr int kAhead = Tile<WORDS>::kAhead;
  __shared__ TensorShared<WORDS, Tile<WORDS>::kQueries> shared;
  load_queries(shared, asked, sink, static_cast<int>(blockIdx.y) * Tile<WORDS>::kQueries);

  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int g = lane / 4, t = lane % 4;
  uint32_t b[kColumns][kSteps][2];
  int start[has_spare_bits(WORDS) ? 1 : kColumns][4];
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int which = half_word(WORDS, s, t);
      const int query = 8 * n + g;
      b[n][s][0] = first_half(WORDS, t, shared.words[query * WORDS + (which < 0 ? 0 : which)]);
      b[n][s][1] = second_half_of_query(WORDS, t, b[n][s][0], shared.slots[query].limit);
    }
    if constexpr (!has_spare_bits(WORDS)) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        start[n][i] = initial_sum(WORDS, shared.slots[8 * n + 2 * t + i % 2].limit);
      }
    }
  }
  if constexpr (has_spare_bits(WORDS)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) start[0][i] = 0;
  }

  const int64_t warps = int64_t{gridDim.x} * kTensorWarps;
  int64_t stretch = int64_t{blockIdx.x} * kTensorWarps + threadIdx.x / kLanes;
  RowWords<WORDS> upper[kAhead], lower[kAhead];
  const auto load = [&](int64_t which) {
    const int64_t first = rows.begin + which * (kAhead * kStripe);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      upper[i].load(rows, first + i * kStripe + g, t);
      lower[i].load(rows, first + i * kStripe + g + 8, t);
    }
  };
  if (stretch < stretches) load(stretch);
  for (; stretch < stretches; stretch += warps) {
    const int64_t first = rows.begin + stretch * (kAhead * kStripe);
    unsigned hits = 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      uint32_t merged = 0;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        int sums[4];
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const Fragment<WORDS> codes(upper[i], lower[i], s, t);
          mma_and_popc(sums, codes.a, b[n][s], s ? sums : start[has_spare_bits(WORDS) ? 0 : n]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) merged |= static_cast<uint32_t>(sums[j]);
      }
      hits |= ((merged >> hit_bit(WORDS)) & 1) << i;
    }
    if (stretch + warps < stretches) load(stretch + warps);
    if (!__any_sync(kAllLanes, hits)) continue;
    if (!stripes_allowed(rows, first, kAhead * kStripe)) continue;
#pragma unroll 1
    for (int i = 0; i < kAhead; ++i) {
      if (__any_sync(kAllLanes, hits >> i & 1) && first + i * kStripe < rows.end) {
        look_closer(rows, first + i * kStripe, shared, sink);
      }
    }
  }
}

#endif

template <int WORDS>
__global__ void __launch_bounds__(kTensorThreads, 2)
    mma_kernel(Rows rows, Asked asked, Collect sink, int64_t stretches) {
#if COOPHASH_MMA
  scan_stripes<WORDS>(rows, asked, sink, stretches);
#endif
}

template <int WORDS>
void launch_mma(const Rows& rows, const Asked& asked, const Collect& sink, int multiprocessors,
                cudaStream_t stream) {
  constexpr int kRows = Tile<WORDS>::kAhead * kStripe;
  const int64_t stretches = (rows.end - rows.begin + kRows - 1) / kRows;
  const int64_t tiles = (asked.count + Tile<WORDS>::kQueries - 1) / Tile<WORDS>::kQueries;
  const int64_t most = (stretches + kTensorWarps - 1) / kTensorWarps;
  const int64_t fill = std::max<int64_t>(1, (int64_t{4} * multiprocessors + tiles - 1) / tiles);
  launch(mma_kernel<WORDS>,
         dim3(static_cast<unsigned>(std::min(most, fill)), static_cast<unsigned>(tiles)),
         kTensorThreads, 0, stream, rows, asked, sink, stretches);
}

}  // namespace

const char* mma_missing(int capability) {
  return capability >= 80 && capability < 100
             ? ""
             : "only compute capability 8.0 to 9.0 has tensor cores for single bits";
}

void scan_mma(const Rows& rows, const Asked& asked, const Collect& sink, int multiprocessors,
              cudaStream_t stream) {
  if (rows.end <= rows.begin || asked.count == 0) return;
  switch (rows.width) {
    case 4:
      return launch_mma<1>(rows, asked, sink, multiprocessors, stream);
    case 8:
      return launch_mma<2>(rows, asked, sink, multiprocessors, stream);
    case 16:
      return launch_mma<4>(rows, asked, sink, multiprocessors, stream);
    case 32:
      return launch_mma<8>(rows, asked, sink, multiprocessors, stream);
    default:
      return launch_mma<16>(rows, asked, sink, multiprocessors, stream);
  }
}

}  // namespace coophash::gpu
