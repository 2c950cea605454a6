// What the threads of one block do together with keys: select the k least, sort.

#ifndef COOPHASH_CUDA_BLOCK_CUH_
#define COOPHASH_CUDA_BLOCK_CUH_

#include <cstdint>

#include "keys.h"
#include "portable.h"

namespace coophash::gpu {

inline constexpr int kBlockThreads = 256;
inline constexpr int kDigits = 256;  // of 8 bits

// Shared memory of select_least().
struct SelectSpace {
  unsigned digits[kDigits];
  int64_t rank;
  Key prefix;
  unsigned kept;
};

// Which digit holds the item at `rank`, 0-based, if digit i has digits[i] of them; called by one
// warp. `before` gets how many lie in lower digits.
__device__ inline int find_digit(const unsigned* digits, int64_t rank, int64_t* before) {
  constexpr int kEach = kDigits / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  int64_t sum = 0;
  for (int i = 0; i < kEach; ++i) sum += digits[lane * kEach + i];
  int64_t upto = sum;
  for (int step = 1; step < kLanes; step *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, upto, step);
    if (lane >= step) upto += other;
  }
  const unsigned reached = __ballot_sync(kAllLanes, upto > rank);
  const int owner = reached ? __ffs(reached) - 1 : kLanes - 1;
  int64_t below = upto - sum;
  int digit = lane * kEach;
  if (lane == owner) {
    while (digit + 1 < (lane + 1) * kEach && below + digits[digit] <= rank) {
      below += digits[digit];
      ++digit;
    }
  }
  *before = __shfl_sync(kAllLanes, below, owner);
  return __shfl_sync(kAllLanes, digit, owner);
}

// The key at `rank`, 0-based, in ascending order; 0 <= rank < count, keys differ. Radix select from
// the highest digit down.
__device__ inline Key select_rank(const Key* keys, int64_t count, int64_t rank,
                                  SelectSpace& space) {
  if (threadIdx.x == 0) {
    space.rank = rank;
    space.prefix = 0;
  }
  Key mask = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kDigits; i += kBlockThreads) space.digits[i] = 0;
    __syncthreads();
    const Key prefix = space.prefix;
    for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) {
      const Key key = keys[i];
      if ((key & mask) == prefix) atomicAdd(&space.digits[key >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    if (threadIdx.x < kLanes) {
      int64_t before;
      const int digit = find_digit(space.digits, space.rank, &before);
      __syncwarp();  // all lanes have read the rank
      if (threadIdx.x == 0) {
        space.rank -= before;
        space.prefix = prefix | static_cast<Key>(digit) << shift;
      }
    }
    mask |= static_cast<Key>(kDigits - 1) << shift;
    __syncthreads();
  }
  return space.prefix;
}

// Moves the keys for which keep(key) to the front, in any order, and returns how many they are.
// `kept` is shared memory.
template <class Keep>
__device__ inline int64_t keep_keys(Key* keys, int64_t count, unsigned& kept, const Keep& keep) {
  if (threadIdx.x == 0) kept = 0;
  __syncthreads();
  for (int64_t begin = 0; begin < count; begin += kBlockThreads) {
    const int64_t i = begin + threadIdx.x;
    const Key key = i < count ? keys[i] : kNoBound;
    const bool stays = i < count && keep(key);
    __syncthreads();  // what is written next lies where all have read
    if (stays) keys[atomicAdd(&kept, 1u)] = key;
  }
  __syncthreads();
  return kept;
}

// Those <= pivot.
__device__ inline int64_t keep_upto(Key* keys, int64_t count, Key pivot, SelectSpace& space) {
  return keep_keys(keys, count, space.kept, [pivot](Key key) { return key <= pivot; });
}

// Pair i of a step of a bitonic merge that compares places 2^bit apart, or, in the first step of a
// merge, places that mirror one another in a stretch of 2^(bit + 1).
COOPHASH_HD int64_t lower_of_pair(int64_t i, int bit) {
  return (i >> bit << (bit + 1)) | (i & ((int64_t{1} << bit) - 1));
}
COOPHASH_HD int64_t higher_of_pair(int64_t low, int bit, bool mirrored) {
  return mirrored ? low ^ ((int64_t{2} << bit) - 1) : low | int64_t{1} << bit;
}

__device__ inline void order_pair(Key* keys, int64_t low, int64_t high, int64_t count) {
  if (high >= count) return;
  const Key a = keys[low], b = keys[high];
  if (b < a) {
    keys[low] = b;
    keys[high] = a;
  }
}

// Ascending bitonic sort of any number of keys, in shared or global memory: in each merge the first
// step compares mirrored places, so that all exchanges go the same way and the places behind the
// end may be taken for infinite.
__device__ inline void sort_keys(Key* keys, int64_t count) {
  for (int merge = 0; int64_t{1} << merge < count; ++merge) {
    for (int bit = merge; bit >= 0; --bit) {
      __syncthreads();
      for (int64_t i = threadIdx.x;; i += kBlockThreads) {
        const int64_t low = lower_of_pair(i, bit);
        if (low >= count) break;
        order_pair(keys, low, higher_of_pair(low, bit, bit == merge), count);
      }
    }
  }
  __syncthreads();
}

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_BLOCK_CUH_
