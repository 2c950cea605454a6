// Exact top-k by multi-index hashing.

#include <algorithm>

#include "../hamming.h"
#include "mih_batch.h"

namespace coophash {

void topk(const Database& database, const Indexes& all, const Queries& queries, int64_t k,
          int threads, const Kernels& kernels, double scale, int32_t* distances, int64_t* ids,
          MultiSearchCounts& counts) {
  counts = {queries.count, queries.count, 0, 0};
  const Indexes indexes = useful(all);
  if (k == 0 || queries.count == 0 || indexes.empty()) {
    topk(database, queries, k, threads, kernels, distances, ids);
    return;
  }
  // Rows that are in no table first: what is found there lowers the cut for the tables.
  const Database rest = uncovered(database, indexes);
  if (rest.spans.empty()) {
    std::fill(ids, ids + queries.count * k, kNoId);
  } else {
    topk(rest, queries, k, threads, kernels, distances, ids);
  }
  const Places places(database);
  const auto begin = [&](int64_t q, Nearest& nearest) {
    for (int64_t i = q * k; i < (q + 1) * k && ids[i] != kNoId; ++i) {
      nearest.push({distances[i], -1, true, static_cast<uint64_t>(ids[i])}, 1);
    }
  };
  const auto accept = [&](int64_t q, Nearest& nearest) {
    std::vector<Entry> rows;
    list_rows(indexes, places, nearest.take(), k, rows);
    int64_t at = q * k;
    for (const Entry& row : rows) {
      distances[at] = row.distance;
      ids[at++] = row.id;
    }
    std::fill(distances + at, distances + (q + 1) * k, kNoDistance);
    std::fill(ids + at, ids + (q + 1) * k, kNoId);
  };
  const Batch batch = {database, indexes, queries, k, 8 * database.width, threads, kernels, scale};
  const std::vector<int64_t> flat = walk_all(batch, counts, begin, accept);
  if (flat.empty()) return;

  const int64_t count = static_cast<int64_t>(flat.size());
  if (count == queries.count) {
    topk(database, queries, k, threads, kernels, distances, ids);
    return;
  }
  const std::vector<uint8_t> codes = codes_of(queries, flat, database.width);
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

}  // namespace coophash
