// Exact range search by multi-index hashing.

#include <algorithm>
#include <limits>

#include "../hamming.h"
#include "mih_batch.h"
#include "threads.h"

namespace coophash {
namespace {

// A flat search for some of the queries, over the whole database or a part of it.
struct Part {
  std::vector<int64_t> chosen;
  std::vector<uint8_t> codes;
  Database database;
  Queries queries;
  std::unique_ptr<RangeSearch> search;
  std::vector<int32_t> distances;
  std::vector<int64_t> ids;

  void begin(const Database& where, const Queries& all, std::vector<int64_t> which, int radius,
             int threads, const Kernels& kernels) {
    if (which.empty() || where.spans.empty()) return;
    chosen = std::move(which);
    codes = codes_of(all, chosen, where.width);
    database = where;
    queries = {codes.data(), static_cast<int64_t>(chosen.size())};
    search = std::make_unique<RangeSearch>(database, queries, radius, threads, kernels);
  }
  int64_t count(size_t i) const { return search->limits()[i + 1] - search->limits()[i]; }
  void fill() {
    if (!search) return;
    distances.resize(static_cast<size_t>(search->limits().back()));
    ids.resize(distances.size());
    search->fill(distances.data(), ids.data());
  }
};

}  // namespace

struct MultiRangeSearch::State {
  const Database& database;
  int threads;
  Indexes indexes;
  Places places;
  std::vector<std::vector<Found>> found;  // for each query, by distance
  Part flat;                              // queries that were given up, over all rows
  Part rest;                              // the others, over rows that are in no table
  std::vector<int64_t> limits;
};

MultiRangeSearch::MultiRangeSearch(const Database& database, const Indexes& all,
                                   const Queries& queries, int radius, int threads,
                                   const Kernels& kernels, double scale, MultiSearchCounts& counts)
    : state_(new State{database, threads, useful(all), Places(database), {}, {}, {}, {}}) {
  State& s = *state_;
  counts = {queries.count, queries.count, 0, 0};
  radius = std::min(radius, 8 * database.width);
  s.found.resize(static_cast<size_t>(queries.count));
  s.limits.assign(static_cast<size_t>(queries.count) + 1, 0);
  std::vector<int64_t> given_up, walked;
  if (s.indexes.empty()) {
    for (int64_t q = 0; q < queries.count; ++q) given_up.push_back(q);
  } else {
    const Batch batch = {database, s.indexes, queries, std::numeric_limits<int64_t>::max(),
                         radius,   threads,   kernels, scale};
    given_up = walk_all(
        batch, counts, [](int64_t, Nearest&) {},
        [&](int64_t q, Nearest& nearest) {
          std::vector<Found>& found = s.found[static_cast<size_t>(q)];
          found = nearest.take();
          s.limits[static_cast<size_t>(q) + 1] = count_rows(s.indexes, s.places, found);
        });
  }
  size_t next = 0;
  for (int64_t q = 0; q < queries.count; ++q) {
    if (next < given_up.size() && given_up[next] == q) {
      ++next;
    } else {
      walked.push_back(q);
    }
  }
  s.flat.begin(database, queries, std::move(given_up), radius, threads, kernels);
  s.rest.begin(uncovered(database, s.indexes), queries, std::move(walked), radius, threads,
               kernels);
  for (const Part* part : {&s.flat, &s.rest}) {
    for (size_t i = 0; i < part->chosen.size(); ++i) {
      s.limits[static_cast<size_t>(part->chosen[i]) + 1] += part->count(i);
    }
  }
  for (size_t q = 1; q < s.limits.size(); ++q) s.limits[q] += s.limits[q - 1];
}

MultiRangeSearch::~MultiRangeSearch() = default;

const std::vector<int64_t>& MultiRangeSearch::limits() const { return state_->limits; }

void MultiRangeSearch::fill(int32_t* distances, int64_t* ids) {
  State& s = *state_;
  if (s.found.empty()) return;                        // no queries
  if (s.flat.chosen.size() + 1 == s.limits.size()) {  // all queries: no need to copy
    s.flat.search->fill(distances, ids);
    return;
  }
  s.flat.fill();
  s.rest.fill();
  for (size_t i = 0; i < s.flat.chosen.size(); ++i) {
    const int64_t from = s.flat.search->limits()[i];
    const int64_t to = s.limits[static_cast<size_t>(s.flat.chosen[i])];
    std::copy_n(s.flat.distances.data() + from, s.flat.count(i), distances + to);
    std::copy_n(s.flat.ids.data() + from, s.flat.count(i), ids + to);
  }
  std::vector<int64_t> place_in_rest(s.found.size(), -1);
  for (size_t i = 0; i < s.rest.chosen.size(); ++i) {
    place_in_rest[static_cast<size_t>(s.rest.chosen[i])] = static_cast<int64_t>(i);
  }
  parallel_for(static_cast<int64_t>(s.found.size()), s.threads, [&](int64_t query) {
    const size_t q = static_cast<size_t>(query);
    std::vector<Entry> rows;
    std::vector<Found> found = std::move(s.found[q]);
    if (place_in_rest[q] >= 0) {
      const size_t i = static_cast<size_t>(place_in_rest[q]);
      const size_t tables = found.size();
      for (int64_t r = s.rest.search->limits()[i]; r < s.rest.search->limits()[i + 1]; ++r) {
        const size_t at = static_cast<size_t>(r);
        found.push_back({s.rest.distances[at], -1, true, static_cast<uint64_t>(s.rest.ids[at])});
      }
      std::inplace_merge(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(tables),
                         found.end(),
                         [](const Found& a, const Found& b) { return a.distance < b.distance; });
    }
    list_rows(s.indexes, s.places, found, std::numeric_limits<int64_t>::max(), rows);
    int64_t at = s.limits[q];
    for (const Entry& row : rows) {
      distances[at] = row.distance;
      ids[at++] = row.id;
    }
  });
}

}  // namespace coophash
