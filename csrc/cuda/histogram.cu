// Histograms of distances, for callers.

#include "histogram.cuh"

#include "feeder.h"
#include "group.h"

namespace coophash::gpu {
namespace {

constexpr int64_t kGroup = 16384;                // queries at a time
constexpr int kSharedBytes = 24 << 10;           // of a block, for counts
constexpr int kTile = 8;                         // most queries of a block
constexpr int64_t kMostRows = int64_t{1} << 31;  // at a time: a block's counts have 32 bits

int64_t bytes_of(int64_t queries, int width, bool streamed) {
  return Arena::rounded(16 * lanes_of(width) * std::max<int64_t>(1, queries)) +
         (streamed ? feeder_bytes(width) : 0);
}

}  // namespace

void scan_histogram(const Rows& rows, const Asked& asked, Histogram sink, int multiprocessors,
                    cudaStream_t stream) {
  const int bytes = static_cast<int>(sizeof(unsigned)) * sink.bins * sink.grades;
  sink.in_shared = bytes <= kSharedBytes;
  const int most =
      std::min(asked.count, sink.in_shared ? std::min(kTile, kSharedBytes / bytes) : kTile);
  const size_t shared = sink.in_shared ? static_cast<size_t>(most) * static_cast<size_t>(bytes) : 0;
  Rows part = rows;
  for (part.begin = rows.begin; part.begin < rows.end; part.begin = part.end) {
    part.end = std::min(rows.end, part.begin + kMostRows);
    launch_scan(part, asked, sink, multiprocessors, stream, most, shared);
  }
}

Workspace histogram_workspace(int64_t queries, int width, bool streamed) {
  return {bytes_of(std::min(queries, kGroup), width, streamed), bytes_of(1, width, streamed)};
}

void histogram(const Database& database, const uint8_t* queries, int64_t count,
               const Labels* labels, int bins, const Call& call, int64_t* total,
               int64_t* relevant) {
  if (count == 0) return;
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const Finished finished(stream);
  const int width = database.width;
  const int grades = labels ? labels->grades : 1;
  const int64_t cells = int64_t{bins} * (grades - 1);
  const auto clear = [&](int64_t* to, int64_t items) {
    check(cudaMemsetAsync(to, 0, sizeof(int64_t) * static_cast<size_t>(items), stream), "clearing");
  };
  clear(total, count * bins);
  if (labels) clear(relevant, count * cells);
  int64_t size = std::min(count, kGroup);
  while (size > 1 && bytes_of(size, width, is_streamed(database)) > call.workspace_bytes) {
    size = (size + 1) / 2;
  }
  const int multiprocessors = current_machine().multiprocessors;
  for (int64_t first = 0; first < count; first += size) {
    Arena arena(call.workspace, call.workspace_bytes);
    const int here = static_cast<int>(std::min(size, count - first));
    uint4* vectors = arena.take<uint4>(int64_t{here} * lanes_of(width));
    prepare_queries(queries + first * width, here, width, vectors, stream);
    Histogram sink =
        plain_histogram(reinterpret_cast<unsigned long long*>(total + first * bins), bins);
    if (labels) {
      sink.relevant = reinterpret_cast<unsigned long long*>(relevant + first * cells);
      sink.labels = *labels;
      sink.grades = grades;
      if (labels->query_classes) sink.labels.query_classes += first;
      if (labels->query_labels) sink.labels.query_labels += first * labels->words;
    }
    for_each_unit(
        database, call, arena, [&](const Unit& unit, const std::function<void()>& meanwhile) {
          for (const Rows& rows : unit.spans) {
            scan_histogram(rows, {vectors, nullptr, here, 0}, sink, multiprocessors, stream);
          }
          meanwhile();
        });
  }
  check(cudaStreamSynchronize(stream), "searching");
}

}  // namespace coophash::gpu
