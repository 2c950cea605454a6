// The k nearest rows: rounds of scans, each of a multiple of the rows before it, with a selection
// behind each. After the first rounds hardly any row is nearer than the k-th of those seen.

#include <algorithm>

#include "feeder.h"
#include "group.h"
#include "tensor.h"

namespace coophash::gpu {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{256} << 20;  // of a group, at the best

// Takes about `size` rows of the unit from where it stands.
class Cursor {
 public:
  explicit Cursor(const Unit& unit) : unit_(unit) {}
  int64_t left() const { return unit_.rows - taken_; }

  // Calls body(rows) for the parts of spans that make up the next rows. A part begins at a multiple
  // of kRoundRows of its span.
  template <class Body>
  int64_t take(int64_t size, const Body& body) {
    const int64_t before = taken_;
    while (taken_ - before < size && left()) {
      const Rows& span = unit_.spans[span_];
      const int64_t wanted = (size - (taken_ - before) + kRoundRows - 1) / kRoundRows * kRoundRows;
      Rows part = span;
      part.begin = at_;
      part.end = std::min(span.end, at_ + wanted);
      if (part.end > part.begin) body(part);
      taken_ += part.end - part.begin;
      at_ = part.end;
      if (at_ == span.end) {
        ++span_;
        at_ = 0;
      }
    }
    return taken_ - before;
  }

 private:
  const Unit& unit_;
  size_t span_ = 0;
  int64_t at_ = 0, taken_ = 0;
};

struct Search {
  const Call& call;
  cudaStream_t stream;
  Machine machine;
  int width;
  int64_t k;
  Group group;
  Rounds rounds;
  Arena spare;
  int64_t seen = 0;
  Counts done = {0, 0, 0};

  void unit(const Unit& rows, const std::function<void()>& meanwhile) {
    Cursor cursor(rows);
    const Asked asked = {group.vectors, nullptr, group.size, 0};
    while (cursor.left()) {
      const int64_t size = next_round(rounds, seen, cursor.left());
      seen += cursor.take(size, [&](const Rows& part) {
        // all rows of the first round are candidates: nothing for a filter
        const Path path =
            seen ? choose_path(call.path, call.device, part, group.size) : Path::kPopc;
        done.tensor += scan(part, asked, group, machine, path, stream);
      });
      settle(group, nullptr, group.size, k, stream);
      ++done.rounds;
    }
    meanwhile();
    std::vector<int32_t> flags(static_cast<size_t>(group.size) + 1);
    int32_t* total = &flags[static_cast<size_t>(group.size)];
    check(cudaMemcpyAsync(total, group.overflowed + group.size, sizeof(int32_t),
                          cudaMemcpyDeviceToHost, stream),
          "reading a count");
    check(cudaStreamSynchronize(stream), "searching");
    if (*total) resolve(rows, flags);
  }

  void resolve(const Unit& rows, std::vector<int32_t>& flags) {
    check(cudaMemcpyAsync(flags.data(), group.overflowed, sizeof(int32_t) * flags.size(),
                          cudaMemcpyDeviceToHost, stream),
          "reading flags");
    check(cudaStreamSynchronize(stream), "searching");
    std::vector<int32_t> queries;
    for (int q = 0; q < group.size; ++q) {
      if (flags[static_cast<size_t>(q)]) queries.push_back(q);
    }
    done.overflowed += static_cast<int64_t>(queries.size());
    check(cudaMemsetAsync(group.overflowed, 0, sizeof(int32_t) * flags.size(), stream),
          "clearing flags");
    resolve_overflow(rows, group, queries, k, width, machine, spare, stream);
  }
};

int64_t fixed_bytes(int width, bool streamed) {
  return overflow_bytes(width) + (streamed ? feeder_bytes(width) : 0);
}

}  // namespace

Workspace topk_workspace(int64_t queries, int width, int64_t k, bool streamed) {
  const int64_t capacity = capacity_for(k), fixed = fixed_bytes(width, streamed);
  const int64_t least = fixed + group_bytes(1, capacity, width);
  const int64_t size =
      std::clamp<int64_t>(kWorkspaceBytes / (8 * capacity), 1, std::min(queries, kMostQueries));
  return {std::max(least, fixed + group_bytes(size, capacity, width)), least};
}

Counts topk(const Database& database, const uint8_t* queries, int64_t count, int64_t k,
            const Call& call, int32_t* distances, int64_t* places) {
  if (k < 0 || k > kMostNeighbours) throw std::invalid_argument("k must be 0 to 16384");
  Counts done = {0, 0, 0};
  if (count == 0 || k == 0) return done;
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const Finished finished(stream);
  const int64_t capacity = capacity_for(k);
  const bool streamed = is_streamed(database);
  int64_t size = std::min(count, kMostQueries);
  while (size > 1 &&
         fixed_bytes(database.width, streamed) + group_bytes(size, capacity, database.width) >
             call.workspace_bytes) {
    size = size / 2 + size % 2 * (size > 2);
  }
  for (int64_t first = 0; first < count; first += size) {
    Arena arena(call.workspace, call.workspace_bytes);
    const int here = static_cast<int>(std::min(size, count - first));
    const Group group = take_group(arena, here, capacity, database.width);
    const int64_t own = overflow_bytes(database.width);
    Search search = {call, stream, current_machine(),       database.width,
                     k,    group,  rounds_for(k, capacity), Arena(arena.take<uint8_t>(own), own)};
    prepare_queries(queries + first * database.width, here, database.width, group.vectors, stream);
    begin_group(group, kNoBound, stream);
    for_each_unit(database, call, arena,
                  [&](const Unit& unit, const std::function<void()>& meanwhile) {
                    search.unit(unit, meanwhile);
                  });
    finish(group, k, distances + first * k, places + first * k, stream);
    done.rounds += search.done.rounds;
    done.overflowed += search.done.overflowed;
    done.tensor += search.done.tensor;
  }
  check(cudaStreamSynchronize(stream), "searching");
  return done;
}

}  // namespace coophash::gpu
