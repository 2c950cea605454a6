#include "ranking.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "threads.h"

namespace coophash {
namespace {

// The k nearest rows to some queries.
class Ranking {
 public:
  Ranking(const Database& database, const Queries& queries, int64_t k, int threads,
          const Kernels& kernels, int32_t* distances, int64_t* ids)
      : database_(database),
        queries_(queries),
        k_(k),
        kernels_(kernels),
        distances_(distances),
        ids_(ids),
        grid_(database, queries.count, threads),
        bins_(8 * database.width + 1),
        places_(static_cast<size_t>(queries.count * grid_.part_count() * bins_), 0),
        results_(static_cast<size_t>(queries.count)) {}

  void run() {
    parallel_for(grid_.tasks(), grid_.threads, [&](int64_t task) {
      const int64_t first = grid_.first_query(task);
      count_distances(grid_.part(task), database_, queries_, first, grid_.query_count(task), bins_,
                      kernels_, places(task, first));
    });
    parallel_for(queries_.count, grid_.threads, [&](int64_t query) { prepare(query); });
    parallel_for(grid_.tasks(), grid_.threads, [&](int64_t task) { place_rows(task); });
    if (database_.increasing) return;
    parallel_for(queries_.count, grid_.threads, [&](int64_t query) { choose(query); });
  }

 private:
  struct Result {
    int radius;  // distance of the last row
    int64_t end;
    std::vector<int64_t> spare;  // with ids in any order, the ids of all rows within the radius
  };

  // (bins,): how many rows at each distance, then the places of the next ones.
  int64_t* places(int64_t task, int64_t query) {
    const int64_t before = grid_.first_query(task) * grid_.part_count();
    const int64_t row = task % grid_.part_count() * grid_.query_count(task);
    return places_.data() + (before + row + query % grid_.tile) * bins_;
  }

  int64_t* ids(int64_t query) {
    Result& result = results_[static_cast<size_t>(query)];
    return result.spare.empty() ? ids_ + query * k_ : result.spare.data();
  }

  // Where the rows at each distance go; writes the distances.
  void prepare(int64_t query) {
    const int64_t first_task = query / grid_.tile * grid_.part_count();
    int32_t* out = distances_ + query * k_;
    int64_t at = 0;
    int distance = 0;
    for (; distance < bins_ && at < k_; ++distance) {
      const int64_t first = at;
      for (int64_t part = 0; part < grid_.part_count(); ++part) {
        at += std::exchange(places(first_task + part, query)[distance], at);
      }
      std::fill(out + first, out + std::min(at, k_), distance);
    }
    const int64_t found = std::min(at, k_);
    std::fill(out + found, out + k_, kNoDistance);
    std::fill(ids_ + query * k_ + found, ids_ + (query + 1) * k_, kNoId);
    Result& result = results_[static_cast<size_t>(query)];
    result.radius = distance - 1;
    // Rows that come too late at the last distance have larger ids, or it has to be seen.
    result.end = database_.increasing ? k_ : at;
    if (!database_.increasing && at > k_) result.spare.resize(static_cast<size_t>(at));
  }

  void place_rows(int64_t task) {
    const int64_t first = grid_.first_query(task);
    std::vector<Target> targets;
    for (int64_t query = first; query < first + grid_.query_count(task); ++query) {
      const Result& result = results_[static_cast<size_t>(query)];
      targets.push_back({queries_.codes + query * database_.width, result.radius,
                         places(task, query), result.end, ids(query)});
    }
    place(grid_.part(task), database_.width, kernels_, targets);
  }

  // The smallest ids first among rows at one distance.
  void choose(int64_t query) {
    const int32_t* distances = distances_ + query * k_;
    const Result& result = results_[static_cast<size_t>(query)];
    if (result.spare.empty()) {
      sort_ids(distances, std::min(result.end, k_), ids_ + query * k_);
      return;
    }
    int64_t* spare = ids(query);
    const int64_t last = std::lower_bound(distances, distances + k_, result.radius) - distances;
    sort_ids(distances, last, spare);
    std::partial_sort(spare + last, spare + k_, spare + result.end);
    std::copy(spare, spare + k_, ids_ + query * k_);
  }

  const Database& database_;
  const Queries& queries_;
  int64_t k_;
  const Kernels& kernels_;
  int32_t* distances_;
  int64_t* ids_;
  Grid grid_;
  int bins_;
  std::vector<int64_t> places_;
  std::vector<Result> results_;
};

}  // namespace

void rank(const Database& database, const Queries& queries, int64_t k, int threads,
          const Kernels& kernels, int32_t* distances, int64_t* ids) {
  constexpr int64_t kBytes = 64 << 20;  // beside the result
  int64_t rows = 0;
  for (const Span& span : database.spans) rows += span.rows;
  // Counts of each part; and where ids are in any order, at most an id a row.
  const int64_t per_query =
      8 * (8 * database.width + 1) * (4 * threads + 1) + (database.increasing ? 0 : 8 * rows);
  const int64_t group = std::max<int64_t>(1, kBytes / per_query);
  for (int64_t first = 0; first < queries.count; first += group) {
    const Queries some = {queries.codes + first * database.width,
                          std::min(group, queries.count - first)};
    Ranking(database, some, k, threads, kernels, distances + first * k, ids + first * k).run();
  }
}

}  // namespace coophash
