// What the kernels with tensor cores share: loading codes as fragments, and looking closer at a
// stripe of 16 rows that has a hit. The sums of a stripe only say that some query comes near some
// row; which it is, is found by counting bits, and that is rare.

#ifndef COOPHASH_CUDA_TENSOR_CUH_
#define COOPHASH_CUDA_TENSOR_CUH_

#include <cstdint>

#include "encode.h"
#include "layout.h"
#include "portable.h"
#include "queries.h"
#include "sinks.h"

namespace coophash::gpu {

inline constexpr int kStripe = 16;          // rows of a product, for a warp
inline constexpr int kTensorThreads = 256;  // of a block
inline constexpr int kTensorWarps = kTensorThreads / kLanes;

// Shared memory of a block: the queries' words and slots.
template <int WORDS, int QUERIES>
struct TensorShared {
  uint32_t words[QUERIES * WORDS];
  Slot slots[QUERIES];
};

// Fills it for the queries first_entry .. of a block. Those that are not there take nothing.
template <int WORDS, int QUERIES>
__device__ inline void load_queries(TensorShared<WORDS, QUERIES>& shared, const Asked& asked,
                                    const Collect& sink, int first_entry) {
  constexpr int kLanesOf = WORDS <= 4 ? 1 : WORDS / 4;
  for (int i = threadIdx.x; i < QUERIES * WORDS; i += kTensorThreads) {
    const int entry = first_entry + i / WORDS;
    uint32_t word = 0;
    if (entry < asked.count) {
      const uint32_t* query = reinterpret_cast<const uint32_t*>(
          asked.vectors + int64_t{query_number(asked, entry)} * kLanesOf);
      word = query[i % WORDS];
    }
    shared.words[i] = word;
  }
  for (int i = threadIdx.x; i < QUERIES; i += kTensorThreads) {
    const int entry = first_entry + i;
    shared.slots[i] = entry < asked.count ? sink.slot(entry, query_number(asked, entry), 32 * WORDS)
                                          : Slot{0, -1, 0};
  }
  __syncthreads();
}

// The words of one row that a lane holds: encoded_steps(WORDS) of them, together in memory.
template <int WORDS>
struct RowWords {
  static constexpr int kSteps = encoded_steps(WORDS);
  uint32_t word[kSteps];

  __device__ void load(const Rows& rows, int64_t row, int t) {
    const int64_t last = rows.end - 1;
    const uint8_t* at = rows.codes + (row < last ? row : last) * (4 * WORDS);
    if constexpr (kSteps == 4) {
      const uint4 four = *reinterpret_cast<const uint4*>(at + 16 * t);
      word[0] = four.x;
      word[1] = four.y;
      word[2] = four.z;
      word[3] = four.w;
    } else if constexpr (kSteps == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(at + 8 * t);
      word[0] = two.x;
      word[1] = two.y;
    } else {
      const int which = half_word(WORDS, 0, t);
      word[0] = reinterpret_cast<const uint32_t*>(at)[which < 0 ? 0 : which];
    }
  }
};

// Step s of the fragment of two rows of a stripe, g and g + 8.
template <int WORDS>
struct Fragment {
  uint32_t a[4];
  __device__ Fragment(const RowWords<WORDS>& upper, const RowWords<WORDS>& lower, int s, int t) {
    a[0] = first_half(WORDS, t, upper.word[s]);
    a[1] = first_half(WORDS, t, lower.word[s]);
    a[2] = second_half_of_code(WORDS, a[0]);
    a[3] = second_half_of_code(WORDS, a[1]);
  }
};

// Compares the rows `first` to `first + 15` with all queries of the block. Called by a whole warp:
// half of it takes the queries with even numbers.
template <int WORDS, int QUERIES>
__device__ inline void look_closer(const Rows& rows, int64_t first,
                                   const TensorShared<WORDS, QUERIES>& shared,
                                   const Collect& sink) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int half = lane / kStripe;
  const int64_t row = first + lane % kStripe;
  const bool there = row < rows.end && is_allowed(rows.allow, row);
  const uint32_t* code =
      reinterpret_cast<const uint32_t*>(rows.codes + (there ? row : first) * (4 * WORDS));
  uint32_t words[WORDS];
#pragma unroll
  for (int w = 0; w < WORDS; ++w) words[w] = code[w];
#pragma unroll 1
  for (int q = half; q < QUERIES; q += 2) {
    int distance = 0;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) distance += __popc(words[w] ^ shared.words[q * WORDS + w]);
    const Slot slot = shared.slots[q];
    sink.take(slot, there && distance <= slot.limit, distance, rows.first_place + row,
              0xffffu << (kStripe * half));
  }
}

// Whether any lane's merged sums have the bit of a hit.
template <int WORDS>
__device__ inline bool any_hit(uint32_t merged) {
  return __any_sync(kAllLanes, (merged >> hit_bit(WORDS)) & 1);
}

// Whether the filter leaves any row of a stretch of up to 64 rows that begins at a multiple of 16.
__device__ inline bool stripes_allowed(const Rows& rows, int64_t first, int count) {
  if (!rows.allow) return true;
  const int64_t last = (first + count < rows.end ? first + count : rows.end) - 1;
  return rows.allow[first / 64] != 0 || rows.allow[last / 64] != 0;
}

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_TENSOR_CUH_
