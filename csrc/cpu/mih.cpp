// Batches: which queries are searched by multi-index hashing and which by a flat search.

#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>

#include "../hamming.h"
#include "mih_cost.h"
#include "mih_walk.h"
#include "threads.h"

namespace coophash {
namespace {

// The rows that no index covers. Indexes are in order of place.
Database uncovered(const Database& database, const std::vector<const MultiIndex*>& indexes) {
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

// Searches queries in parallel, walker by walker, and notes which of them were given up.
//
// Where the first queries of a batch are all given up, the rest is not tried: what their trials cost
// would be lost. `accept(query, nearest, walker)` takes the result of one.
template <class Accept>
std::vector<int64_t> walk_all(const Database& database,
                              const std::vector<const MultiIndex*>& indexes,
                              const Queries& queries, int64_t k, int radius, int threads,
                              const Kernels& kernels, double budget, MultiSearchCounts& counts,
                              const std::function<void(int64_t, Nearest&)>& begin,
                              const Accept& accept) {
  constexpr int64_t kLeastTried = 8;
  const Places places(database);
  const int64_t part = std::max<int64_t>(1, std::min<int64_t>(64, queries.count / (4 * threads)));
  std::vector<char> given_up(static_cast<size_t>(queries.count), 0);
  std::atomic<int64_t> tried{0}, failed{0}, probes{0}, compared{0};
  parallel_for((queries.count + part - 1) / part, threads, [&](int64_t task) {
    Walker walker(indexes, places, kernels);
    const int64_t end = std::min(queries.count, (task + 1) * part);
    for (int64_t q = task * part; q < end; ++q) {
      const int64_t so_far = tried.load();
      if (so_far >= kLeastTried && 10 * failed.load() >= 9 * so_far) {
        given_up[static_cast<size_t>(q)] = 1;
        continue;
      }
      Nearest nearest(k, radius);
      begin(q, nearest);
      const bool done = walker.walk(queries.codes + q * database.width, k, budget, nearest);
      given_up[static_cast<size_t>(q)] = !done;
      ++tried;
      failed += !done;
      if (done) accept(q, nearest, walker);
    }
    probes += walker.probes();
    compared += walker.compared();
  });
  std::vector<int64_t> flat;
  for (int64_t q = 0; q < queries.count; ++q) {
    if (given_up[static_cast<size_t>(q)]) flat.push_back(q);
  }
  counts = {queries.count, static_cast<int64_t>(flat.size()), probes, compared};
  return flat;
}

std::vector<uint8_t> gather(const Queries& queries, const std::vector<int64_t>& chosen, int width) {
  std::vector<uint8_t> codes(chosen.size() * static_cast<size_t>(width));
  for (size_t i = 0; i < chosen.size(); ++i) {
    std::memcpy(codes.data() + i * static_cast<size_t>(width), queries.codes + chosen[i] * width,
                static_cast<size_t>(width));
  }
  return codes;
}

std::vector<const MultiIndex*> useful(const std::vector<const MultiIndex*>& indexes) {
  std::vector<const MultiIndex*> list;
  for (const MultiIndex* index : indexes) {
    if (!index->plain()) list.push_back(index);
  }
  return list;
}

double budget_of(const Database& database, int64_t queries, int threads, const Kernels& kernels,
                 double scale) {
  if (std::isinf(scale)) return scale;
  return scale * flat_query_ns(database, queries, threads, kernels);
}

}  // namespace

void topk(const Database& database, const std::vector<const MultiIndex*>& all,
          const Queries& queries, int64_t k, int threads, const Kernels& kernels, double scale,
          int32_t* distances, int64_t* ids, MultiSearchCounts& counts) {
  counts = {queries.count, queries.count, 0, 0};
  const std::vector<const MultiIndex*> indexes = useful(all);
  if (k == 0 || queries.count == 0 || indexes.empty()) {
    topk(database, queries, k, threads, kernels, distances, ids);
    return;
  }
  // Rows that are in no table yet first: what is found there lowers the cut for the tables.
  const Database rest = uncovered(database, indexes);
  topk(rest, queries, k, threads, kernels, distances, ids);
  const auto begin = [&](int64_t q, Nearest& nearest) {
    for (int64_t i = q * k; i < (q + 1) * k && ids[i] != kNoId; ++i) {
      nearest.push({distances[i], -1, static_cast<uint64_t>(ids[i])}, 1);
    }
  };
  const auto accept = [&](int64_t q, Nearest& nearest, const Walker& walker) {
    std::vector<Entry> rows;
    walker.rows_of(nearest, rows);
    int64_t at = q * k;
    for (const Entry& row : rows) {
      distances[at] = row.distance;
      ids[at++] = row.id;
    }
    std::fill(distances + at, distances + (q + 1) * k, kNoDistance);
    std::fill(ids + at, ids + (q + 1) * k, kNoId);
  };
  const std::vector<int64_t> flat =
      walk_all(database, indexes, queries, k, 8 * database.width, threads, kernels,
               budget_of(database, queries.count, threads, kernels, scale), counts, begin, accept);
  if (flat.empty()) return;

  const std::vector<uint8_t> codes = gather(queries, flat, database.width);
  const int64_t count = static_cast<int64_t>(flat.size());
  if (count == queries.count) {
    topk(database, queries, k, threads, kernels, distances, ids);
    return;
  }
  std::vector<int32_t> some_distances(flat.size() * static_cast<size_t>(k));
  std::vector<int64_t> some_ids(some_distances.size());
  topk(database, {codes.data(), count}, k, threads, kernels, some_distances.data(),
       some_ids.data());
  for (size_t i = 0; i < flat.size(); ++i) {
    const int64_t from = static_cast<int64_t>(i) * k, to = flat[i] * k;
    std::copy_n(some_distances.data() + from, k, distances + to);
    std::copy_n(some_ids.data() + from, k, ids + to);
  }
}

RangeResult range(const Database& database, const std::vector<const MultiIndex*>& all,
                  const Queries& queries, int radius, int threads, const Kernels& kernels,
                  double scale, MultiSearchCounts& counts) {
  counts = {queries.count, queries.count, 0, 0};
  const std::vector<const MultiIndex*> indexes = useful(all);
  if (queries.count == 0 || indexes.empty()) {
    return range(database, queries, radius, threads, kernels);
  }
  const RangeResult rest =
      range(uncovered(database, indexes), queries, radius, threads, kernels);
  std::vector<std::vector<Entry>> found(static_cast<size_t>(queries.count));
  const auto begin = [&](int64_t q, Nearest& nearest) {
    const size_t query = static_cast<size_t>(q);
    for (int64_t i = rest.limits[query]; i < rest.limits[query + 1]; ++i) {
      const size_t at = static_cast<size_t>(i);
      nearest.push({rest.distances[at], -1, static_cast<uint64_t>(rest.ids[at])}, 1);
    }
  };
  const auto accept = [&](int64_t q, Nearest& nearest, const Walker& walker) {
    walker.rows_of(nearest, found[static_cast<size_t>(q)]);
  };
  const std::vector<int64_t> flat = walk_all(
      database, indexes, queries, std::numeric_limits<int64_t>::max(), radius, threads, kernels,
      budget_of(database, queries.count, threads, kernels, scale), counts, begin, accept);

  RangeResult scanned;
  if (!flat.empty()) {
    const std::vector<uint8_t> codes = gather(queries, flat, database.width);
    const int64_t count = static_cast<int64_t>(flat.size());
    scanned = range(database, {codes.data(), count}, radius, threads, kernels);
    if (count == queries.count) return scanned;
  }
  RangeResult result;
  result.limits.assign(static_cast<size_t>(queries.count) + 1, 0);
  for (size_t q = 0; q < found.size(); ++q) {
    result.limits[q + 1] = static_cast<int64_t>(found[q].size());
  }
  for (size_t i = 0; i < flat.size(); ++i) {
    result.limits[static_cast<size_t>(flat[i]) + 1] = scanned.limits[i + 1] - scanned.limits[i];
  }
  for (size_t q = 0; q < found.size(); ++q) result.limits[q + 1] += result.limits[q];
  result.distances.resize(static_cast<size_t>(result.limits.back()));
  result.ids.resize(result.distances.size());
  for (size_t q = 0; q < found.size(); ++q) {
    size_t at = static_cast<size_t>(result.limits[q]);
    for (const Entry& entry : found[q]) {
      result.distances[at] = entry.distance;
      result.ids[at++] = entry.id;
    }
  }
  for (size_t i = 0; i < flat.size(); ++i) {
    const int64_t from = scanned.limits[i], count = scanned.limits[i + 1] - from;
    const int64_t to = result.limits[static_cast<size_t>(flat[i])];
    std::copy_n(scanned.distances.data() + from, count, result.distances.data() + to);
    std::copy_n(scanned.ids.data() + from, count, result.ids.data() + to);
  }
  return result;
}

}  // namespace coophash
