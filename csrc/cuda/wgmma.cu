// The scan by wgmma on single bits, AND and count: compute capability 9.0, code for sm_90a alone,
// which is why it has a file of its own.
//
// A block holds a tile of queries as matrices in shared memory. Each of its warpgroups goes through
// rows of its own, 64 at a time, as fragments in registers, and multiplies them with all of these.
// Sums are merged by OR, and one bit of them is looked at.

#include <algorithm>

#include "tensor.cuh"
#include "tensor.h"

#if defined(COOPHASH_CUDA_EMULATOR) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define COOPHASH_WGMMA 1
#else
#define COOPHASH_WGMMA 0
#endif

namespace coophash::gpu {
namespace {

constexpr int kGroupThreads = 128;                       // of a warpgroup
constexpr int kGroups = kTensorThreads / kGroupThreads;  // of a block
constexpr int kGroupRows = 64;
constexpr int kQueries = 128;        // columns of a product
constexpr int kSums = kQueries / 2;  // that a thread holds of 64 rows

}  // namespace

#ifdef COOPHASH_CUDA_EMULATOR
uint32_t shared_address(const void* pointer);
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int STEPS>
inline void wgmma_wait(int (&)[kSums], uint32_t (&)[STEPS][4]) {}
inline void shared_fence() {}
void wgmma_and_popc(int (&d)[kSums], const uint32_t (&a)[4], uint64_t b, bool add);
#elif COOPHASH_WGMMA
__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// The sums pass through it, so that nothing looks at them before; and so do the fragments, so that
// no register of theirs is written while the product still reads it.
template <int STEPS>
__device__ inline void wgmma_wait(int (&d)[kSums], uint32_t (&a)[STEPS][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+r"(d[i])::"memory");
#pragma unroll
  for (int i = 0; i < 4 * STEPS; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}
// What was stored to shared memory can be read by the tensor cores.
__device__ inline void shared_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// d = a * b, plus d if `add`.
__device__ inline void wgmma_and_popc(int (&d)[kSums], const uint32_t (&a)[4], uint64_t b,
                                      bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, add;\n}\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]),
        "+r"(d[7]), "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]),
        "+r"(d[14]), "+r"(d[15]), "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]),
        "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]),
        "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]), "+r"(d[32]), "+r"(d[33]), "+r"(d[34]),
        "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]), "+r"(d[40]), "+r"(d[41]),
        "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]), "+r"(d[48]),
        "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]),
        "+r"(d[56]), "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]),
        "+r"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
#endif

namespace {

#if COOPHASH_WGMMA

template <int STEPS>
struct alignas(128) Matrices {
  uint32_t words[kQueries * STEPS * 8];
};

// The queries as matrices: each lane of the fragments' scheme writes its 4 bytes.
template <int WORDS>
__device__ void write_matrices(const TensorShared<WORDS, kQueries>& shared, uint32_t* matrices) {
  constexpr int kSteps = encoded_steps(WORDS);
  for (int i = threadIdx.x; i < kQueries * 4 * kSteps; i += kTensorThreads) {
    const int query = i / (4 * kSteps), s = i / 4 % kSteps, t = i % 4;
    const int which = half_word(WORDS, s, t);
    const uint32_t word = shared.words[query * WORDS + (which < 0 ? 0 : which)];
    const uint32_t half0 = first_half(WORDS, t, word);
    const uint32_t half1 = second_half_of_query(WORDS, t, half0, shared.slots[query].limit);
    matrices[shared_offset(kQueries, s, 0, query) / 4 + t] = half0;
    matrices[shared_offset(kQueries, s, 1, query) / 4 + t] = half1;
  }
  shared_fence();
  __syncthreads();
}

template <int WORDS>
__device__ void scan_groups(const Rows& rows, const Asked& asked, const Collect& sink,
                            int64_t stretches) {
  constexpr int kSteps = encoded_steps(WORDS);
  __shared__ TensorShared<WORDS, kQueries> shared;
  __shared__ Matrices<kSteps> matrices;
  load_queries(shared, asked, sink, static_cast<int>(blockIdx.y) * kQueries);
  write_matrices<WORDS>(shared, matrices.words);
  const uint32_t address = shared_address(matrices.words);

  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int g = lane / 4, t = lane % 4;
  const int stripe = static_cast<int>(threadIdx.x) % kGroupThreads / kLanes * kStripe;
  const int64_t groups = int64_t{gridDim.x} * kGroups;
  int64_t stretch = int64_t{blockIdx.x} * kGroups + threadIdx.x / kGroupThreads;
  RowWords<WORDS> upper, lower;
  const auto load = [&](int64_t which) {
    const int64_t first = rows.begin + which * kGroupRows + stripe;
    upper.load(rows, first + g, t);
    lower.load(rows, first + g + 8, t);
  };
  if (stretch < stretches) load(stretch);
  for (; stretch < stretches; stretch += groups) {
    const int64_t first = rows.begin + stretch * kGroupRows + stripe;
    int sums[kSums];
    if constexpr (!has_spare_bits(WORDS)) {
      // sums 4 j + i are of columns 8 j + 2 t + i % 2
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        sums[i] = initial_sum(WORDS, shared.slots[i / 4 * 8 + 2 * t + i % 2].limit);
      }
    }
    uint32_t a[kSteps][4];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const Fragment<WORDS> codes(upper, lower, s, t);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[s][i] = codes.a[i];
    }
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint64_t b =
          shared_descriptor(address + static_cast<uint32_t>(shared_offset(kQueries, s, 0, 0)));
      wgmma_and_popc(sums, a[s], b, s > 0 || !has_spare_bits(WORDS));
    }
    wgmma_commit();
    if (stretch + groups < stretches) load(stretch + groups);  // while the product is at work
    wgmma_wait(sums, a);
    uint32_t merged = 0;
#pragma unroll
    for (int i = 0; i < kSums; ++i) merged |= static_cast<uint32_t>(sums[i]);
    if (!any_hit<WORDS>(merged)) continue;
    if (first < rows.end && stripes_allowed(rows, first, kStripe)) {
      look_closer(rows, first, shared, sink);
    }
  }
}

#endif

template <int WORDS>
__global__ void __launch_bounds__(kTensorThreads, 2)
    wgmma_kernel(Rows rows, Asked asked, Collect sink, int64_t stretches) {
#if COOPHASH_WGMMA
  scan_groups<WORDS>(rows, asked, sink, stretches);
#endif
}

template <int WORDS>
void launch_wgmma(const Rows& rows, const Asked& asked, const Collect& sink, int multiprocessors,
                  cudaStream_t stream) {
  const int64_t stretches = (rows.end - rows.begin + kGroupRows - 1) / kGroupRows;
  const int64_t tiles = (asked.count + kQueries - 1) / kQueries;
  const int64_t most = (stretches + kGroups - 1) / kGroups;
  const int64_t fill = std::max<int64_t>(1, (int64_t{4} * multiprocessors + tiles - 1) / tiles);
  launch(wgmma_kernel<WORDS>,
         dim3(static_cast<unsigned>(std::min(most, fill)), static_cast<unsigned>(tiles)),
         kTensorThreads, 0, stream, rows, asked, sink, stretches);
}

}  // namespace

const char* wgmma_missing(int capability) {
#if defined(COOPHASH_CUDA_EMULATOR) || defined(COOPHASH_WGMMA_BUILT)
  return capability == 90 ? "" : "only compute capability 9.0 has wgmma";
#else
  return "this build has no code for it: compile for architecture 90";
#endif
}

void scan_wgmma(const Rows& rows, const Asked& asked, const Collect& sink, int multiprocessors,
                cudaStream_t stream) {
  if (rows.end <= rows.begin || asked.count == 0) return;
  switch (rows.width) {
    case 4:
      return launch_wgmma<1>(rows, asked, sink, multiprocessors, stream);
    case 8:
      return launch_wgmma<2>(rows, asked, sink, multiprocessors, stream);
    case 16:
      return launch_wgmma<4>(rows, asked, sink, multiprocessors, stream);
    case 32:
      return launch_wgmma<8>(rows, asked, sink, multiprocessors, stream);
    default:
      return launch_wgmma<16>(rows, asked, sink, multiprocessors, stream);
  }
}

}  // namespace coophash::gpu
