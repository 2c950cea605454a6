// What becomes of the rows that a scan looks at.
//
// slot(entry, query, bits) is what the scan keeps of a query: entry counts those that are asked,
// query is its number in the group. take() is called by all lanes of a warp at once, for rows of
// which one at least is near. A sink with kEvery is given every row instead (histogram.cuh).
// kBlocks is how many blocks are to find room on a multiprocessor: it bounds the registers of a
// thread.

#ifndef COOPHASH_CUDA_SINKS_H_
#define COOPHASH_CUDA_SINKS_H_

#include <cstdint>

#include "keys.h"
#include "portable.h"

namespace coophash::gpu {

// A query of a tile, in shared memory.
struct Slot {
  Key bound;      // keys below it are taken
  int32_t limit;  // rows at a greater distance are not looked at; -1: none is
  int32_t query;
};

// Candidates of a group of queries. More than `capacity` are counted and not kept.
struct Collect {
  static constexpr bool kEvery = false;
  static constexpr int kBlocks = 3;
  static constexpr int kKernels = 3;
  Key* buffer;                 // (queries, capacity)
  unsigned long long* counts;  // (queries,)
  const Key* bounds;           // (queries,)
  int64_t capacity;
  const int64_t*
      offsets;  // null, or (queries + 1,): where a query's candidates begin and end instead

#if COOPHASH_KERNELS
  __device__ Slot slot(int, int query, int bits) const {
    const Key bound = bounds[query];
    return {bound, limit_of(bound, bits), query};
  }

  // Called by all lanes of a warp at once. `among` are the lanes whose rows are for the same query
  // as this lane's. One addition for all of them, and each takes a place behind those before it.
  __device__ void take(const Slot& slot, bool near, int distance, int64_t place,
                       unsigned among = kAllLanes) const {
    const Key key = make_key(distance, place);
    const bool pass = near && key < slot.bound;
    const unsigned passing = __ballot_sync(kAllLanes, pass);
    if (!passing) return;
    const unsigned mine = passing & among;
    const int lane = threadIdx.x % kLanes;
    const int leader = mine ? __ffs(mine) - 1 : lane;
    unsigned long long begin = 0;
    if (pass && lane == leader) begin = atomicAdd(&counts[slot.query], __popc(mine));
    begin = __shfl_sync(kAllLanes, begin, leader);
    if (!pass) return;
    const int64_t at = static_cast<int64_t>(begin) + __popc(mine & ((1u << lane) - 1));
    if (offsets) {
      const int64_t to = offsets[slot.query] + at;
      if (to < offsets[slot.query + 1]) buffer[to] = key;
    } else if (at < capacity) {
      buffer[slot.query * capacity + at] = key;
    }
  }
#endif
};

// How many rows lie at one distance from each query, by bins of places.
struct CountTies {
  static constexpr bool kEvery = false;
  static constexpr int kBlocks = 3;
  static constexpr int kKernels = 1;
  unsigned* bins;       // (subset, kTieBins)
  const int32_t* ties;  // (subset,) the distance, -1 for none
  int64_t first_place;  // of the rows that the bins are for
  int shift;            // as tie_shift() says

#if COOPHASH_KERNELS
  __device__ Slot slot(int entry, int, int) const { return {kNoBound, ties[entry], entry}; }
  __device__ void take(const Slot& slot, bool near, int distance, int64_t place,
                       unsigned = kAllLanes) const {
    const bool tie = near && distance == slot.limit;
    const int bin = tie ? static_cast<int>((place - first_place) >> shift) : -1;
    const unsigned same = __match_any_sync(kAllLanes, bin);
    const bool leads = static_cast<int>(threadIdx.x % kLanes) == __ffs(same) - 1;
    if (tie && leads) atomicAdd(&bins[slot.query * kTieBins + bin], __popc(same));
  }
#endif
};

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_SINKS_H_
