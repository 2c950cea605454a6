// What a search does where more rows came into question than there was room for: codes in an order
// that brings the near ones last, or so many copies that no distance tells them apart.
//
// What a query had kept of this unit is dropped; what earlier units left stays. A histogram of that
// and of all rows of the unit gives its last distance T and how many rows at T are wanted. Where
// these stand is found by bins of places: all ties in bins before one are wanted, and of that bin
// the first few. So one scan collects distances below T and ties before the bin, less than k rows;
// and a block goes through the bin in order. Three scans, whatever the codes are.

#include <algorithm>

#include "block.cuh"
#include "group.h"
#include "histogram.cuh"
#include "scan.cuh"

namespace coophash::gpu {
namespace {

constexpr int kBatch = 32;  // queries at a time

// Of a query: its last distance and the ties that are still wanted; then where these begin to be in
// doubt, and how many from there on.
struct Wanted {
  int64_t ties;
  int64_t doubt;  // place
};

struct Batch {
  const int32_t* queries;         // (count,) numbers in the group
  unsigned long long* distances;  // (count, bins)
  unsigned* tie_bins;             // (count, kTieBins)
  int32_t* last;                  // (count,) the last distance; -1: no ties are wanted
  Wanted* wanted;                 // (count,)
  int bins;
  int count;
};

// One block a query.
__global__ void __launch_bounds__(kBlockThreads)
    last_distance_kernel(Group group, Batch batch, int64_t k, int64_t first_place) {
  __shared__ unsigned earlier;
  const int entry = static_cast<int>(blockIdx.x);
  const int q = batch.queries[entry];
  unsigned long long* bins = batch.distances + int64_t{entry} * batch.bins;
  unsigned* tie_bins = batch.tie_bins + int64_t{entry} * kTieBins;
  Key* keys = group.buffer + q * group.capacity;
  // what was kept of this unit itself is in the histogram, and is found again
  const int kept = static_cast<int>(keep_keys(keys, group.kept[q], earlier, [first_place](Key key) {
    return place_of(key) < first_place;
  }));
  for (int i = threadIdx.x; i < kTieBins; i += kBlockThreads) tie_bins[i] = 0;
  for (int i = threadIdx.x; i < kept; i += kBlockThreads) {
    atomicAdd(&bins[distance_of(keys[i])], 1ull);
  }
  __syncthreads();
  if (threadIdx.x) return;
  group.counts[q] = static_cast<unsigned long long>(kept);
  group.kept[q] = kept;
  int64_t below = 0;
  int last = 0;
  while (last + 1 < batch.bins && below + static_cast<int64_t>(bins[last]) < k) {
    below += static_cast<int64_t>(bins[last++]);
  }
  int64_t ties = k - below;
  for (int i = 0; i < kept; ++i) ties -= distance_of(keys[i]) == last;  // these come first
  batch.wanted[entry] = {ties > 0 ? ties : 0, 0};
  batch.last[entry] = ties > 0 ? last : -1;
  // for a query that wants no ties this is all; see doubt_kernel for the others
  group.bounds[q] = bound_below(last);
}

// One warp a query: from which place on ties are in doubt.
__global__ void __launch_bounds__(kLanes)
    doubt_kernel(Group group, Batch batch, int64_t first_place, int shift) {
  const int entry = static_cast<int>(blockIdx.x);
  if (batch.last[entry] < 0) return;
  const unsigned* bins = batch.tie_bins + int64_t{entry} * kTieBins;
  constexpr int kEach = kTieBins / kDigits;
  __shared__ unsigned coarse[kDigits];
  for (int i = threadIdx.x; i < kDigits; i += kLanes) {
    unsigned sum = 0;
    for (int j = 0; j < kEach; ++j) sum += bins[i * kEach + j];
    coarse[i] = sum;
  }
  __syncwarp();
  const int64_t ties = batch.wanted[entry].ties;
  int64_t before;
  int bin = find_digit(coarse, ties - 1, &before) * kEach;
  if (threadIdx.x) return;
  for (int j = 1; j < kEach && before + bins[bin] < ties; ++j) before += bins[bin++];
  const int64_t doubt = first_place + (static_cast<int64_t>(bin) << shift);
  batch.wanted[entry] = {ties - before, doubt};
  group.bounds[batch.queries[entry]] = make_key(batch.last[entry], doubt);
}

// The first wanted[entry].ties rows of the bin that are at the last distance, row by row. One block
// a query; rows are part of one span.
__global__ void __launch_bounds__(kBlockThreads)
    first_ties_kernel(Group group, Batch batch, Rows rows, int lanes, int64_t bin_rows) {
  __shared__ int found[kBlockThreads / kLanes];
  __shared__ int64_t left;
  const int entry = static_cast<int>(blockIdx.x);
  const int last = batch.last[entry];
  if (last < 0) return;
  const int q = batch.queries[entry];
  const uint4* query = group.vectors + int64_t{q} * lanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = threadIdx.x % kLanes;
  if (threadIdx.x == 0) left = batch.wanted[entry].ties;
  const int64_t doubt = batch.wanted[entry].doubt - rows.first_place;  // a row of this span
  const int64_t begin = max(doubt, int64_t{0});
  const int64_t end = min(doubt + bin_rows, rows.end);
  Key* keys = group.buffer + q * group.capacity;
  __syncthreads();
  for (int64_t chunk = begin; chunk < end; chunk += kBlockThreads) {
    const int64_t row = chunk + threadIdx.x;
    bool tie = row < end && is_allowed(rows.allow, row);
    if (tie) {
      int distance = 0;
      for (int part = 0; part < lanes && part * kVectorBytes < rows.width; ++part) {
        const int at = part * kVectorBytes;
        const uint4 code =
            load_bytes(rows.codes + row * rows.width + at, min(kVectorBytes, rows.width - at),
                       rows.codes, rows.codes + rows.count * rows.width);
        distance += differing<1>(code, query[part], 0);
      }
      tie = distance == last;
    }
    const unsigned votes = __ballot_sync(kAllLanes, tie);
    if (lane == 0) found[warp] = __popc(votes);
    __syncthreads();
    const int64_t room = left;
    int64_t place = __popc(votes & ((1u << lane) - 1)), total = 0;
    for (int i = 0; i < kBlockThreads / kLanes; ++i) {
      if (i < warp) place += found[i];
      total += found[i];
    }
    if (tie && place < room) {
      const int64_t at =
          static_cast<int64_t>(atomicAdd(&group.counts[q], 1ull));  // order does not matter
      keys[at] = make_key(last, rows.first_place + row);
    }
    __syncthreads();
    if (threadIdx.x == 0) left = room - min(total, room);
    __syncthreads();
    if (room <= total) break;
  }
  __syncthreads();
  if (threadIdx.x == 0) batch.wanted[entry].ties = left;
}

}  // namespace

int64_t overflow_bytes(int width) {
  return Arena::rounded(4 * kBatch) * 2 + Arena::rounded(8 * kBatch * (8 * int64_t{width} + 1)) +
         Arena::rounded(4 * kBatch * kTieBins) + Arena::rounded(sizeof(Wanted) * kBatch);
}

void resolve_overflow(const Unit& unit, const Group& group, const std::vector<int32_t>& queries,
                      int64_t k, int width, const Machine& machine, Arena arena,
                      cudaStream_t stream) {
  const Finished finished(stream);  // `queries` is read until then
  const int bins = 8 * width + 1;
  Batch batch;
  int32_t* numbers = arena.take<int32_t>(kBatch);
  batch.queries = numbers;
  batch.last = arena.take<int32_t>(kBatch);
  batch.distances = arena.take<unsigned long long>(kBatch * bins);
  batch.tie_bins = arena.take<unsigned>(kBatch * kTieBins);
  batch.wanted = arena.take<Wanted>(kBatch);
  batch.bins = bins;
  const int shift = tie_shift(unit.rows);
  for (size_t first = 0; first < queries.size(); first += kBatch) {
    batch.count = static_cast<int>(std::min<size_t>(kBatch, queries.size() - first));
    check(cudaMemcpyAsync(numbers, queries.data() + first, sizeof(int32_t) * batch.count,
                          cudaMemcpyHostToDevice, stream),
          "copying numbers of queries");
    check(cudaMemsetAsync(batch.distances, 0, sizeof(unsigned long long) * batch.count * bins,
                          stream),
          "clearing a histogram");
    const Asked asked = {group.vectors, batch.queries, batch.count, 0};
    const dim3 blocks(static_cast<unsigned>(batch.count));
    for (const Rows& rows : unit.spans) {
      scan_histogram(rows, asked, plain_histogram(batch.distances, bins), machine.multiprocessors,
                     stream);
    }
    launch(last_distance_kernel, blocks, kBlockThreads, 0, stream, group, batch, k,
           unit.first_place);
    const CountTies ties = {batch.tie_bins, batch.last, unit.first_place, shift};
    for (const Rows& rows : unit.spans) {
      launch_scan(rows, asked, ties, machine.multiprocessors, stream);
    }
    launch(doubt_kernel, blocks, kLanes, 0, stream, group, batch, unit.first_place, shift);
    for (const Rows& rows : unit.spans) scan(rows, asked, group, machine, Path::kPopc, stream);
    for (const Rows& rows : unit.spans) {
      launch(first_ties_kernel, blocks, kBlockThreads, 0, stream, group, batch, rows,
             lanes_of(width), int64_t{1} << shift);
    }
    settle(group, batch.queries, batch.count, k, stream);
  }
  check(cudaStreamSynchronize(stream), "searching");
}

}  // namespace coophash::gpu
