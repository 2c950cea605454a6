// What is asked of codes with no selection: all distances, and whether spare bits are 0.

#include <algorithm>

#include "block.cuh"
#include "feeder.h"
#include "group.h"
#include "scan.cuh"

namespace coophash::gpu {
namespace {

constexpr int64_t kGroup = 16384;  // queries at a time

// A sink: every distance to its place in a table.
struct Table {
  static constexpr bool kEvery = true;
  static constexpr int kBlocks = 2;
  static constexpr int kKernels = 1;
  int32_t* out;  // (queries, rows)
  int64_t rows;

  __device__ Slot slot(int, int query, int) const { return {0, 0, query}; }
  __device__ void begin(void*, int) const {}
  __device__ void count(const Slot& slot, void*, int, int distance, int64_t place) const {
    out[slot.query * rows + place] = distance;
  }
  __device__ void end(const Slot*, const void*, int) const {}
};

// The least number of a row whose last byte has one of the bits of `spare`, in *first.
__global__ void __launch_bounds__(kBlockThreads)
    spare_kernel(const uint8_t* codes, int64_t rows, int width, int spare,
                 unsigned long long* first) {
  const int64_t stride = int64_t{gridDim.x} * kBlockThreads;
  for (int64_t row = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; row < rows; row += stride) {
    if (codes[row * width + width - 1] & spare) {
      atomicMin(first, static_cast<unsigned long long>(row));
      return;  // rows of this thread that come later are greater
    }
  }
}

}  // namespace

Workspace distances_workspace(int64_t queries, int width, bool streamed) {
  const auto bytes = [&](int64_t size) {
    return Arena::rounded(16 * lanes_of(width) * std::max<int64_t>(1, size)) +
           (streamed ? feeder_bytes(width) : 0);
  };
  return {bytes(std::min(queries, kGroup)), bytes(1)};
}

void distances(const Database& database, const uint8_t* queries, int64_t count, const Call& call,
               int32_t* out) {
  const int width = database.width;
  int64_t rows = 0;
  for (const Span& span : database.spans) rows += span.rows;
  if (count == 0 || rows == 0) return;
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const Finished finished(stream);
  int64_t size = std::min(count, kGroup);
  while (size > 1 &&
         distances_workspace(size, width, is_streamed(database)).wanted > call.workspace_bytes) {
    size = (size + 1) / 2;
  }
  const int multiprocessors = current_machine().multiprocessors;
  for (int64_t first = 0; first < count; first += size) {
    Arena arena(call.workspace, call.workspace_bytes);
    const int here = static_cast<int>(std::min(size, count - first));
    uint4* vectors = arena.take<uint4>(int64_t{here} * lanes_of(width));
    prepare_queries(queries + first * width, here, width, vectors, stream);
    const Table sink = {out + first * rows, rows};
    for_each_unit(database, call, arena,
                  [&](const Unit& unit, const std::function<void()>& meanwhile) {
                    for (Rows part : unit.spans) {
                      part.allow = nullptr;
                      launch_scan(part, {vectors, nullptr, here, 0}, sink, multiprocessors, stream);
                    }
                    meanwhile();
                  });
  }
  check(cudaStreamSynchronize(stream), "comparing codes");
}

int64_t first_spare(const uint8_t* codes, int64_t rows, int width, int bits, int device,
                    void* stream_of_codes, int64_t* room) {
  if (rows == 0 || bits % 8 == 0) return -1;
  const DeviceGuard guard(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_of_codes);
  const int spare = 0xff & ~((1 << bits % 8) - 1);
  int64_t found = -1;
  const Finished finished(stream);
  // -1 is the greatest number without a sign
  check(cudaMemsetAsync(room, 0xff, sizeof(int64_t), stream), "clearing a number");
  const int64_t blocks = std::min<int64_t>(rows / kBlockThreads + 1, 4096);
  launch(spare_kernel, dim3(static_cast<unsigned>(blocks)), kBlockThreads, 0, stream, codes, rows,
         width, spare, reinterpret_cast<unsigned long long*>(room));
  check(cudaMemcpyAsync(&found, room, sizeof(found), cudaMemcpyDeviceToHost, stream),
        "reading a number");
  check(cudaStreamSynchronize(stream), "checking codes");
  return found;
}

}  // namespace coophash::gpu
