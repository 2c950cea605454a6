// The scan by counting bits: each warp reads a tile of rows into registers and compares it with the
// queries of its block, one after another. To be included where a sink is given its kernels.
//
// A pair of 64 bits takes two POPC, which is what bounds it: a multiprocessor does 16 of them in a
// clock. Whether any row of the tile is near is one vote; what comes then is rare, and not fast.

#ifndef COOPHASH_CUDA_SCAN_CUH_
#define COOPHASH_CUDA_SCAN_CUH_

#include <algorithm>
#include <cstdint>

#include "layout.h"
#include "portable.h"
#include "queries.h"
#include "sinks.h"

namespace coophash::gpu {

inline constexpr int kScanThreads = 256;
inline constexpr int kScanWarps = kScanThreads / kLanes;
inline constexpr int kScanTile = 32;   // most queries of a block
inline constexpr int kScanBlocks = 8;  // blocks for each multiprocessor

// The query's vector against which a lane holds its own.
template <int PER_VECTOR>
__device__ inline uint4 repeated(uint4 query) {
  if (PER_VECTOR == 4) return make_uint4(query.x, query.x, query.x, query.x);
  if (PER_VECTOR == 2) return make_uint4(query.x, query.y, query.x, query.y);
  return query;
}

// Differing bits of code r of a vector; of the part of a code that the vector holds, if it is
// spread over lanes.
template <int PER_VECTOR>
__device__ inline int differing(uint4 code, uint4 query, int r) {
  if (PER_VECTOR == 4) {
    const uint32_t words[4] = {code.x ^ query.x, code.y ^ query.y, code.z ^ query.z,
                               code.w ^ query.w};
    return __popc(words[r]);
  }
  if (PER_VECTOR == 2) {
    return r == 0 ? __popc(code.x ^ query.x) + __popc(code.y ^ query.y)
                  : __popc(code.z ^ query.z) + __popc(code.w ^ query.w);
  }
  return __popc(code.x ^ query.x) + __popc(code.y ^ query.y) + __popc(code.z ^ query.z) +
         __popc(code.w ^ query.w);
}

// The sum over the lanes that share a code; all of them get it.
__device__ inline int added_up(int value, int lanes) {
  for (int step = 1; step < lanes; step *= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Vector j of a lane. Rows from rows.end on are not read, and are zeros.
template <int PER_VECTOR, bool ALIGNED>
__device__ inline uint4 load_vector(const Rows& rows, int64_t first, int j, int lane, int lanes,
                                    bool whole) {
  const int64_t row = first + row_in_tile(j, lane, lanes, PER_VECTOR);
  const int part = kVectorBytes * (lane % lanes);
  const uint8_t* at = rows.codes + row * rows.width + part;
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  if (ALIGNED) {
    if (whole || row + PER_VECTOR <= rows.end) {
      return PER_VECTOR > 1 || part < rows.width ? *reinterpret_cast<const uint4*>(at) : zeros;
    }
    if (PER_VECTOR == 1 || row >= rows.end) return zeros;
    const int bytes = static_cast<int>(rows.end - row) * rows.width;
    return load_bytes(at, bytes, at, at + bytes);
  }
  if (row >= rows.end || part >= rows.width) return zeros;
  const int left = rows.width - part;
  return load_bytes(at, left < kVectorBytes ? left : kVectorBytes, rows.codes,
                    rows.codes + rows.count * rows.width);
}

// Whether the filter leaves any of the rows first .. first + count - 1, or of their neighbours
// within 64. All lanes of a warp get the answer.
__device__ inline bool any_allowed(const Rows& rows, int64_t first, int64_t count, int lane) {
  const int64_t last = (first + count < rows.end ? first + count : rows.end) - 1;
  const int64_t word = first / 64 + lane;
  return __any_sync(kAllLanes, word <= last / 64 && rows.allow[word] != 0);
}

// LANES: that share a code, 0 if that is known at run time alone.
template <int PER_VECTOR, int LANES, bool ALIGNED, class Sink>
__global__ void __launch_bounds__(kScanThreads, Sink::kBlocks)
    scan_kernel(Rows rows, Asked asked, Sink sink, int64_t tiles) {
  const int lanes = LANES ? LANES : lanes_of(rows.width);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int part = lane % lanes;
  const int first_entry = static_cast<int>(blockIdx.y) * asked.tile;
  const int queries = min(asked.tile, asked.count - first_entry);

  uint4* query_vectors = reinterpret_cast<uint4*>(dynamic_shared());
  Slot* slots = reinterpret_cast<Slot*>(query_vectors + asked.tile * lanes);
  for (int i = threadIdx.x; i < queries * lanes; i += kScanThreads) {
    const int64_t query = query_number(asked, first_entry + i / lanes);
    query_vectors[i] = repeated<PER_VECTOR>(asked.vectors[query * lanes + i % lanes]);
  }
  for (int i = threadIdx.x; i < queries; i += kScanThreads) {
    const int entry = first_entry + i;
    slots[i] = sink.slot(entry, query_number(asked, entry), 8 * rows.width);
  }
  if constexpr (Sink::kEvery) sink.begin(slots + asked.tile, queries);
  __syncthreads();

  const int64_t in_tile = tile_rows(lanes, PER_VECTOR);
  const int64_t warps = int64_t{gridDim.x} * kScanWarps;
  for (int64_t tile = int64_t{blockIdx.x} * kScanWarps + threadIdx.x / kLanes; tile < tiles;
       tile += warps) {
    const int64_t first = rows.begin + tile * in_tile;
    if (rows.allow && !any_allowed(rows, first, in_tile, lane)) continue;
    const bool whole = first + in_tile <= rows.end;
    if constexpr (Sink::kEvery) {
#pragma unroll 1
      for (int j = 0; j < kVectors; ++j) {
        const uint4 code = load_vector<PER_VECTOR, ALIGNED>(rows, first, j, lane, lanes, whole);
        for (int q = 0; q < queries; ++q) {
          const uint4 query = query_vectors[q * lanes + part];
#pragma unroll
          for (int r = 0; r < PER_VECTOR; ++r) {
            const int64_t row = first + row_in_tile(j, lane, lanes, PER_VECTOR) + r;
            const int sum = added_up(differing<PER_VECTOR>(code, query, r), lanes);
            if (part == 0 && row < rows.end && is_allowed(rows.allow, row)) {
              sink.count(slots[q], slots + asked.tile, q, sum, rows.first_place + row);
            }
          }
        }
      }
    } else {
      uint4 codes[kVectors];
#pragma unroll
      for (int j = 0; j < kVectors; ++j) {
        codes[j] = load_vector<PER_VECTOR, ALIGNED>(rows, first, j, lane, lanes, whole);
      }
      for (int q = 0; q < queries; ++q) {
        const uint4 query = query_vectors[q * lanes + part];
        const int limit = slots[q].limit;
        bool near = false;
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
#pragma unroll
          for (int r = 0; r < PER_VECTOR; ++r) {
            near |= added_up(differing<PER_VECTOR>(codes[j], query, r), lanes) <= limit;
          }
        }
        if (!__any_sync(kAllLanes, near)) continue;
#pragma unroll 1
        for (int j = 0; j < kVectors; ++j) {  // read again: a register has no number
          const uint4 code = load_vector<PER_VECTOR, ALIGNED>(rows, first, j, lane, lanes, whole);
#pragma unroll
          for (int r = 0; r < PER_VECTOR; ++r) {
            const int64_t row = first + row_in_tile(j, lane, lanes, PER_VECTOR) + r;
            const int sum = added_up(differing<PER_VECTOR>(code, query, r), lanes);
            const bool hit =
                part == 0 && row < rows.end && sum <= limit && is_allowed(rows.allow, row);
            sink.take(slots[q], hit, sum, rows.first_place + row);
          }
        }
      }
    }
  }
  if constexpr (Sink::kEvery) {
    __syncthreads();
    sink.end(slots, slots + asked.tile, queries);
  }
}

// Blocks along the rows: enough to fill the device with all tiles of queries, and no more than
// there are tiles of rows.
inline unsigned row_blocks(int64_t tiles, int64_t query_tiles, int multiprocessors) {
  const int64_t most = std::max<int64_t>(1, (tiles + kScanWarps - 1) / kScanWarps);
  const int64_t fill = int64_t{kScanBlocks} * multiprocessors;
  const int64_t wanted = std::max<int64_t>((fill + query_tiles - 1) / query_tiles, 1);
  return static_cast<unsigned>(std::min(most, wanted));
}

template <int PER_VECTOR, int LANES, bool ALIGNED, class Sink>
void launch_scan_as(const Rows& rows, Asked asked, const Sink& sink, int multiprocessors,
                    size_t sink_bytes, cudaStream_t stream) {
  const int lanes = lanes_of(rows.width);
  const int64_t in_tile = tile_rows(lanes, PER_VECTOR);
  const int64_t query_tiles = (asked.count + asked.tile - 1) / asked.tile;
  const int64_t tiles = (rows.end - rows.begin + in_tile - 1) / in_tile;
  const dim3 grid(row_blocks(tiles, query_tiles, multiprocessors),
                  static_cast<unsigned>(query_tiles));
  const size_t shared = static_cast<size_t>(asked.tile) *
                            (sizeof(uint4) * static_cast<size_t>(lanes) + sizeof(Slot)) +
                        sink_bytes;
  launch(scan_kernel<PER_VECTOR, LANES, ALIGNED, Sink>, grid, kScanThreads, shared, stream, rows,
         asked, sink, tiles);
}

// Runs the scan with the kernel that fits the width and where the codes lie. `most` queries a
// block, and sink_bytes of shared memory for the sink.
template <class Sink>
void launch_scan(const Rows& rows, Asked asked, const Sink& sink, int multiprocessors,
                 cudaStream_t stream, int most = kScanTile, size_t sink_bytes = 0) {
  if (rows.end <= rows.begin || asked.count == 0) return;
  asked.tile = std::min(most, asked.count);
  const auto run = [&](auto kernel) {
    kernel(rows, asked, sink, multiprocessors, sink_bytes, stream);
  };
  if (!reads_vectors(rows.codes, rows.width)) return run(launch_scan_as<1, 0, false, Sink>);
  // kernels take long to compile: a sink has those of its own that are worth it
  if constexpr (Sink::kKernels >= 2) {
    if (rows.width == 4) return run(launch_scan_as<4, 1, true, Sink>);
    if (rows.width == 8) return run(launch_scan_as<2, 1, true, Sink>);
  }
  if constexpr (Sink::kKernels >= 3) {
    if (rows.width == 16) return run(launch_scan_as<1, 1, true, Sink>);
    if (rows.width == 32) return run(launch_scan_as<1, 2, true, Sink>);
    if (rows.width == 64) return run(launch_scan_as<1, 4, true, Sink>);
  }
  if (rows.width % kVectorBytes) return run(launch_scan_as<1, 0, false, Sink>);
  run(launch_scan_as<1, 0, true, Sink>);
}

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_SCAN_CUH_
