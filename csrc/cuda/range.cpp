// All rows within a radius: what the first scan finds is kept for each query where it fits; the
// others are scanned once more, as soon as the caller has memory for them.

#include <algorithm>

#include "../hamming.h"
#include "feeder.h"
#include "group.h"
#include "tensor.h"

namespace coophash::gpu {
namespace {

constexpr int64_t kCapacity = 1024;  // candidates of a query that are kept
constexpr int64_t kGroup = 8192;

int64_t bytes_of(int64_t size, int width, bool streamed) {
  return group_bytes(size, kCapacity, width) + Arena::rounded(8 * (size + 1)) +
         Arena::rounded(4 * size) + (streamed ? feeder_bytes(width) : 0);
}

// The size of groups that a workspace has room for.
int64_t group_size(int64_t queries, int width, bool streamed, int64_t bytes) {
  int64_t size = std::min(queries, kGroup);
  while (size > 1 && bytes_of(size, width, streamed) > bytes) size = (size + 1) / 2;
  return size;
}

struct Sweep {
  const Database& database;
  const Call& call;
  Arena arena;  // for streaming
  cudaStream_t stream;
  Machine machine;

  // Scans for all of a group, or for some of its queries.
  void run(const Group& group, const int32_t* subset, int count) {
    const Asked asked = {group.vectors, subset, count, 0};
    for_each_unit(database, call, arena,
                  [&](const Unit& unit, const std::function<void()>& meanwhile) {
                    for (const Rows& rows : unit.spans) {
                      scan(rows, asked, group, machine,
                           choose_path(call.path, call.device, rows, count), stream);
                    }
                    meanwhile();
                  });
  }
};

}  // namespace

Workspace range_workspace(int64_t queries, int width, bool streamed) {
  return {bytes_of(std::max<int64_t>(1, std::min(queries, kGroup)), width, streamed),
          bytes_of(1, width, streamed)};
}

void range_count(const Database& database, const uint8_t* queries, int64_t count, int radius,
                 const Call& call, int64_t* counts) {
  if (count == 0) return;
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const Finished finished(stream);
  const int width = database.width;
  const int64_t size = group_size(count, width, is_streamed(database), call.workspace_bytes);
  for (int64_t first = 0; first < count; first += size) {
    Arena arena(call.workspace, call.workspace_bytes);
    const int here = static_cast<int>(std::min(size, count - first));
    const Group group = take_group(arena, here, kCapacity, width);
    arena.take<int64_t>(here + 1);
    arena.take<int32_t>(here);
    prepare_queries(queries + first * width, here, width, group.vectors, stream);
    begin_group(group, bound_below(radius + 1), stream);
    Sweep{database, call, arena, stream, current_machine()}.run(group, nullptr, here);
    check(cudaMemcpyAsync(counts + first, group.counts, sizeof(int64_t) * static_cast<size_t>(here),
                          cudaMemcpyDeviceToHost, stream),
          "reading counts");
    check(cudaStreamSynchronize(stream), "searching");
  }
}

void range_fill(const Database& database, const uint8_t* queries, int64_t count, int radius,
                const Call& call, const int64_t* limits, uint64_t* keys_memory, int32_t* distances,
                int64_t* places) {
  if (count == 0 || limits[count] == 0) return;
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const Finished finished(stream);
  const int width = database.width;
  Key* keys = reinterpret_cast<Key*>(keys_memory);
  const int64_t size = group_size(count, width, is_streamed(database), call.workspace_bytes);
  for (int64_t first = 0; first < count; first += size) {
    Arena arena(call.workspace, call.workspace_bytes);
    const int here = static_cast<int>(std::min(size, count - first));
    Group group = take_group(arena, here, kCapacity, width);
    int64_t* on_device = arena.take<int64_t>(here + 1);
    int32_t* subset = arena.take<int32_t>(here);
    const int64_t* own = limits + first;
    std::vector<int64_t> found(static_cast<size_t>(here));
    std::vector<int32_t> large;
    const Finished finished_group(stream);
    const auto ask_counts = [&] {
      check(cudaMemcpyAsync(found.data(), group.counts, sizeof(int64_t) * found.size(),
                            cudaMemcpyDeviceToHost, stream),
            "reading counts");
      check(cudaStreamSynchronize(stream), "searching");
    };
    const auto compare = [&](int q) {
      if (found[static_cast<size_t>(q)] == own[q + 1] - own[q]) return;
      throw std::runtime_error("CUDA: codes were changed while they were searched: there were " +
                               std::to_string(own[q + 1] - own[q]) +
                               " within the radius of a query, and then " +
                               std::to_string(found[static_cast<size_t>(q)]));
    };
    Sweep sweep{database, call, arena, stream, current_machine()};
    if (count > size) {  // the workspace has the last group's candidates
      prepare_queries(queries + first * width, here, width, group.vectors, stream);
      begin_group(group, bound_below(radius + 1), stream);
      const bool any_fits = std::adjacent_find(own, own + here + 1, [](int64_t a, int64_t b) {
                              return b > a && b - a <= kCapacity;
                            }) != own + here + 1;
      if (any_fits) sweep.run(group, nullptr, here);
    }
    check(cudaMemcpyAsync(on_device, own, sizeof(int64_t) * static_cast<size_t>(here + 1),
                          cudaMemcpyHostToDevice, stream),
          "copying limits");
    gather(group, on_device, keys, stream);
    ask_counts();
    for (int q = 0; q < here; ++q) {
      if (own[q + 1] - own[q] > kCapacity) {
        large.push_back(q);
      } else {
        compare(q);
      }
    }
    // queries with more than was kept: straight to their places
    if (!large.empty()) {
      check(cudaMemcpyAsync(subset, large.data(), sizeof(int32_t) * large.size(),
                            cudaMemcpyHostToDevice, stream),
            "copying numbers of queries");
      begin_group(group, bound_below(radius + 1), stream);
      group.buffer = keys;
      group.offsets = on_device;
      sweep.run(group, subset, static_cast<int>(large.size()));
      ask_counts();
      for (const int32_t q : large) compare(q);
    }
    sort_segments(keys, own, here, Arena(on_device, Arena::rounded(8 * (here + 1))), stream);
  }
  const int64_t total = limits[count];
  split(keys, total, distances, places, stream);
  check(cudaStreamSynchronize(stream), "searching");
}

}  // namespace coophash::gpu
