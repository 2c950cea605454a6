#include "mih_batch.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
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

namespace {

// See History: range searches of alike radii are of a kind, and top-k searches of alike k.
size_t kind_of(const Batch& batch) {
  size_t kind = 0;
  if (batch.k == std::numeric_limits<int64_t>::max()) {
    kind = 32 + static_cast<size_t>(std::min(31, batch.radius / 4));
  } else {
    for (int64_t k = batch.k; k > 1 && kind < 31; k /= 2) ++kind;
  }
  return batch.queries.count < 8 ? kind : kind + History::kKinds / 2;
}

}  // namespace

// Where the first queries are all given up the rest is not tried: what their trials cost would be
// lost.
std::vector<int64_t> walk_all(const Batch& batch, MultiSearchCounts& counts,
                              const std::function<void(int64_t, Nearest&)>& begin,
                              const std::function<void(int64_t, Nearest&)>& accept) {
  const int64_t count = batch.queries.count;
  const int64_t enough = std::max<int64_t>(2, std::min<int64_t>(8, count / 8));
  const int width = batch.database.width;
  const double budget =
      std::isinf(batch.scale)
          ? batch.scale
          : batch.scale * flat_query_ns(batch.database, count, batch.threads, batch.kernels);
  double least = 0;
  for (const MultiIndex* index : batch.indexes) least += least_ns(*index, batch.kernels);
  constexpr double kNsPerThread = 20000;  // below this a thread costs more than it saves
  const double useful_threads = static_cast<double>(count) * least / kNsPerThread;
  const int threads =
      static_cast<int>(std::max(1.0, std::min<double>(batch.threads, useful_threads)));
  History& history = batch.indexes[0]->history;
  const size_t kind = kind_of(batch);
  const Places places(batch.database);
  const int64_t part = std::max<int64_t>(1, std::min<int64_t>(64, count / (4 * threads)));
  std::vector<char> given_up(static_cast<size_t>(count), 0);
  std::atomic<int64_t> tried{0}, failed{0}, probes{0}, compared{0};
  parallel_for((count + part - 1) / part, threads, [&](int64_t task) {
    Walker walker(batch.indexes, places, batch.kernels);
    StopPoints stop;
    const int64_t end = std::min(count, (task + 1) * part);
    for (int64_t q = task * part; q < end; ++q) {
      const int64_t so_far = tried;
      bool done = false;
      const bool pays = so_far < enough || 10 * failed < 9 * so_far;
      if (pays && (std::isinf(budget) || !history.hopeless(kind))) {
        Nearest nearest(batch.k, batch.radius);
        begin(q, nearest);
        done = walker.walk(batch.queries.codes + q * width, batch.k, budget, nearest);
        history.note(kind, done);
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
