#include "mih_batch.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "mih_cost.h"
#include "mih_walk.h"
#include "stop.h"
#include "threads.h"

namespace coophash {

Indexes useful(const Indexes& indexes) {
  Indexes list;
  for (const MultiIndex* index : indexes) {
    if (!index->plain()) list.push_back(index);
  }
  return list;
}

Database uncovered(const Database& database, const Indexes& indexes) {
  Database rest{{}, database.width, database.increasing};
  int64_t place = 0;
  for (const Span& span : database.spans) {
    int64_t row = 0;  // of this span
    const auto add = [&](int64_t end) {
      if (row >= end) return;
      if (row % 64 || (end % 64 && end != span.rows)) {
        throw std::invalid_argument("an index must begin and end at a word of the row filter");
      }
      rest.spans.push_back({span.codes + row * database.width, span.ids ? span.ids + row : nullptr,
                            span.allow ? span.allow + row / 64 : nullptr, end - row,
                            span.first_id + row});
    };
    for (const MultiIndex* index : indexes) {
      if (index->last <= place + row || index->first >= place + span.rows) continue;
      add(index->first - place);
      row = std::min(span.rows, index->last - place);
    }
    add(span.rows);
    place += span.rows;
  }
  return rest;
}

std::vector<uint8_t> codes_of(const Queries& queries, const std::vector<int64_t>& chosen,
                              int width) {
  const size_t bytes = static_cast<size_t>(width);
  std::vector<uint8_t> codes(chosen.size() * bytes);
  for (size_t i = 0; i < chosen.size(); ++i) {
    std::memcpy(codes.data() + i * bytes, queries.codes + chosen[i] * width, bytes);
  }
  return codes;
}

// Where the first queries are all given up the rest is not tried: what their trials cost would be
// lost.
std::vector<int64_t> walk_all(const Batch& batch, MultiSearchCounts& counts,
                              const std::function<void(int64_t, Nearest&)>& begin,
                              const std::function<void(int64_t, Nearest&)>& accept) {
  constexpr int64_t kTried = 8;
  const int64_t count = batch.queries.count;
  const int width = batch.database.width;
  const double budget =
      std::isinf(batch.scale)
          ? batch.scale
          : batch.scale * flat_query_ns(batch.database, count, batch.threads, batch.kernels);
  const Places places(batch.database);
  const int64_t part = std::max<int64_t>(1, std::min<int64_t>(64, count / (4 * batch.threads)));
  std::vector<char> given_up(static_cast<size_t>(count), 0);
  std::atomic<int64_t> tried{0}, failed{0}, probes{0}, compared{0};
  parallel_for((count + part - 1) / part, batch.threads, [&](int64_t task) {
    Walker walker(batch.indexes, places, batch.kernels);
    StopPoints stop;
    const int64_t end = std::min(count, (task + 1) * part);
    for (int64_t q = task * part; q < end; ++q) {
      const int64_t so_far = tried;
      bool done = false;
      if (so_far < kTried || 10 * failed < 9 * so_far) {
        Nearest nearest(batch.k, batch.radius);
        begin(q, nearest);
        done = walker.walk(batch.queries.codes + q * width, batch.k, budget, nearest);
        ++tried;
        failed += !done;
        if (done) accept(q, nearest);
        stop.after(1);
      }
      given_up[static_cast<size_t>(q)] = !done;
    }
    probes += walker.probes();
    compared += walker.compared();
  });
  std::vector<int64_t> flat;
  for (int64_t q = 0; q < count; ++q) {
    if (given_up[static_cast<size_t>(q)]) flat.push_back(q);
  }
  counts = {count, static_cast<int64_t>(flat.size()), probes, compared};
  return flat;
}

}  // namespace coophash
