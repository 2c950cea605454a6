// Selection: queries prepared, candidates reduced to the k first, results in order.

#include <algorithm>

#include "block.cuh"
#include "group.h"

#include "../hamming.h"

namespace coophash::gpu {
namespace {

constexpr int kSortedBits = 12;
constexpr int kSortedInShared = 1 << kSortedBits;  // keys: 32 KiB

__global__ void __launch_bounds__(kBlockThreads)
    prepare_kernel(const uint8_t* codes, int64_t count, int width, int lane_bits, uint4* vectors) {
  const int64_t stride = int64_t{gridDim.x} * kBlockThreads;
  for (int64_t i = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; i < count << lane_bits;
       i += stride) {
    const int part = static_cast<int>(i & ((1 << lane_bits) - 1)) * kVectorBytes;
    uint4 vector = make_uint4(0, 0, 0, 0);
    if (part < width) {
      vector = load_bytes(codes + (i >> lane_bits) * width + part, min(kVectorBytes, width - part),
                          codes, codes + count * width);
    }
    vectors[i] = vector;
  }
}

__global__ void __launch_bounds__(kBlockThreads) begin_kernel(Group group, Key bound) {
  const int q = static_cast<int>(blockIdx.x) * kBlockThreads + static_cast<int>(threadIdx.x);
  if (q > group.size) return;
  group.overflowed[q] = 0;
  if (q == group.size) return;
  group.counts[q] = 0;
  group.kept[q] = 0;
  group.bounds[q] = bound;
}

__global__ void __launch_bounds__(kBlockThreads)
    settle_kernel(Group group, const int32_t* subset, int64_t k) {
  __shared__ SelectSpace space;
  const int q = subset ? subset[blockIdx.x] : static_cast<int>(blockIdx.x);
  const int64_t kept = group.kept[q];
  int64_t count = static_cast<int64_t>(group.counts[q]);
  __syncthreads();  // all have read before one writes
  if (count > group.capacity) {
    if (threadIdx.x == 0) {
      group.overflowed[q] = 1;
      atomicAdd(&group.overflowed[group.size], 1);
      group.counts[q] = static_cast<unsigned long long>(kept);
      group.bounds[q] = 0;
    }
    return;
  }
  if (count == kept) return;
  Key* keys = group.buffer + q * group.capacity;
  if (count >= k) {
    const Key last = select_rank(keys, count, k - 1, space);
    if (count > k) count = keep_upto(keys, count, last, space);
    if (threadIdx.x == 0) group.bounds[q] = bound_below(distance_of(last));
  }
  if (threadIdx.x == 0) {
    group.counts[q] = static_cast<unsigned long long>(count);
    group.kept[q] = static_cast<int32_t>(count);
  }
}

__global__ void __launch_bounds__(kBlockThreads)
    finish_kernel(Group group, int64_t k, int32_t* distances, int64_t* places) {
  const int64_t q = blockIdx.x;
  const int64_t count = group.kept[q];
  Key* keys = group.buffer + q * group.capacity;
  if (count <= kSortedInShared) {
    Key* shared = reinterpret_cast<Key*>(dynamic_shared());
    for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) shared[i] = keys[i];
    keys = shared;
  }
  sort_keys(keys, count);
  for (int64_t i = threadIdx.x; i < k; i += kBlockThreads) {
    distances[q * k + i] = i < count ? distance_of(keys[i]) : kNoDistance;
    places[q * k + i] = i < count ? place_of(keys[i]) : kNoId;
  }
}

__global__ void __launch_bounds__(kBlockThreads)
    gather_kernel(Group group, const int64_t* limits, Key* keys) {
  const int64_t begin = limits[blockIdx.x], count = limits[blockIdx.x + 1] - begin;
  if (count > group.capacity) return;
  const Key* from = group.buffer + blockIdx.x * group.capacity;
  for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) keys[begin + i] = from[i];
}

__global__ void __launch_bounds__(kBlockThreads)
    split_kernel(const Key* keys, int64_t count, int32_t* distances, int64_t* places) {
  const int64_t stride = int64_t{gridDim.x} * kBlockThreads;
  for (int64_t i = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; i < count; i += stride) {
    distances[i] = distance_of(keys[i]);
    places[i] = place_of(keys[i]);
  }
}

// One block a segment of at most kSortedInShared keys; longer ones are left.
__global__ void __launch_bounds__(kBlockThreads)
    sort_short_kernel(Key* keys, const int64_t* limits) {
  Key* shared = reinterpret_cast<Key*>(dynamic_shared());
  const int64_t begin = limits[blockIdx.x], count = limits[blockIdx.x + 1] - begin;
  if (count < 2 || count > kSortedInShared) return;
  for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) shared[i] = keys[begin + i];
  sort_keys(shared, count);
  for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) keys[begin + i] = shared[i];
}

// One step of sort_keys() on a long segment, by many blocks.
__global__ void __launch_bounds__(kBlockThreads)
    sort_step_kernel(Key* keys, int64_t count, int bit, bool mirrored) {
  const int64_t low = lower_of_pair(int64_t{blockIdx.x} * kBlockThreads + threadIdx.x, bit);
  if (low < count) order_pair(keys, low, higher_of_pair(low, bit, mirrored), count);
}

// All steps over stretches of kSortedInShared keys, each by a block: of the merges up to that size
// (`whole`), or the last steps of a larger one.
__global__ void __launch_bounds__(kBlockThreads)
    sort_stretch_kernel(Key* keys, int64_t count, bool whole) {
  Key* shared = reinterpret_cast<Key*>(dynamic_shared());
  const int64_t begin = int64_t{blockIdx.x} * kSortedInShared;
  const int64_t here = min(int64_t{kSortedInShared}, count - begin);
  for (int64_t i = threadIdx.x; i < here; i += kBlockThreads) shared[i] = keys[begin + i];
  if (whole) sort_keys(shared, here);
  for (int bit = whole ? -1 : kSortedBits - 1; bit >= 0; --bit) {
    __syncthreads();
    for (int i = threadIdx.x; i < kSortedInShared / 2; i += kBlockThreads) {
      const int64_t low = lower_of_pair(i, bit);
      if (low < here) order_pair(shared, low, higher_of_pair(low, bit, false), here);
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < here; i += kBlockThreads) keys[begin + i] = shared[i];
}

void sort_long(Key* keys, int64_t count, cudaStream_t stream) {
  const size_t shared = sizeof(Key) * kSortedInShared;
  const dim3 stretches(static_cast<unsigned>((count + kSortedInShared - 1) / kSortedInShared));
  launch(sort_stretch_kernel, stretches, kBlockThreads, shared, stream, keys, count, true);
  for (int merge = kSortedBits; int64_t{1} << merge < count; ++merge) {
    for (int bit = merge; bit >= kSortedBits; --bit) {
      const int64_t pairs = (count + (int64_t{2} << bit)) / 2;
      launch(sort_step_kernel, dim3(static_cast<unsigned>(pairs / kBlockThreads + 1)),
             kBlockThreads, 0, stream, keys, count, bit, bit == merge);
    }
    launch(sort_stretch_kernel, stretches, kBlockThreads, shared, stream, keys, count, false);
  }
}

}  // namespace

void prepare_queries(const uint8_t* codes, int64_t count, int width, uint4* vectors,
                     cudaStream_t stream) {
  int lane_bits = 0;
  while (1 << lane_bits < lanes_of(width)) ++lane_bits;
  const int64_t blocks = ((count << lane_bits) + kBlockThreads - 1) / kBlockThreads;
  launch(prepare_kernel, dim3(static_cast<unsigned>(std::min<int64_t>(blocks, 4096))),
         kBlockThreads, 0, stream, codes, count, width, lane_bits, vectors);
}

void begin_group(const Group& group, Key bound, cudaStream_t stream) {
  launch(begin_kernel, dim3(static_cast<unsigned>(group.size / kBlockThreads + 1)), kBlockThreads,
         0, stream, group, bound);
}

void settle(const Group& group, const int32_t* subset, int count, int64_t k, cudaStream_t stream) {
  launch(settle_kernel, dim3(static_cast<unsigned>(count)), kBlockThreads, 0, stream, group, subset,
         k);
}

void finish(const Group& group, int64_t k, int32_t* distances, int64_t* places,
            cudaStream_t stream) {
  const size_t shared = sizeof(Key) * static_cast<size_t>(std::min<int64_t>(k, kSortedInShared));
  launch(finish_kernel, dim3(static_cast<unsigned>(group.size)), kBlockThreads, shared, stream,
         group, k, distances, places);
}

void gather(const Group& group, const int64_t* limits, Key* keys, cudaStream_t stream) {
  launch(gather_kernel, dim3(static_cast<unsigned>(group.size)), kBlockThreads, 0, stream, group,
         limits, keys);
}

void split(const Key* keys, int64_t count, int32_t* distances, int64_t* places,
           cudaStream_t stream) {
  const int64_t blocks = std::min<int64_t>(count / kBlockThreads + 1, 8192);
  launch(split_kernel, dim3(static_cast<unsigned>(blocks)), kBlockThreads, 0, stream, keys, count,
         distances, places);
}

void sort_segments(Key* keys, const int64_t* limits, int64_t segments, Arena arena,
                   cudaStream_t stream) {
  int64_t* on_device = arena.take<int64_t>(segments + 1);
  check(cudaMemcpyAsync(on_device, limits, sizeof(int64_t) * static_cast<size_t>(segments + 1),
                        cudaMemcpyHostToDevice, stream),
        "copying limits");
  launch(sort_short_kernel, dim3(static_cast<unsigned>(segments)), kBlockThreads,
         sizeof(Key) * kSortedInShared, stream, keys, on_device);
  for (int64_t i = 0; i < segments; ++i) {
    const int64_t count = limits[i + 1] - limits[i];
    if (count > kSortedInShared) sort_long(keys + limits[i], count, stream);
  }
}

}  // namespace coophash::gpu
