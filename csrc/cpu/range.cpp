// Range search: count, then fill (placing.h).
//
// Counting keeps what it finds in a log of bounded size. Where the hits of a task fit into its log
// they go from there to their places; otherwise the log is dropped and the task compares its rows
// again. So few results cost one pass over the database, and many cost no memory but their own.

#include <algorithm>
#include <memory>
#include <utility>

#include "../hamming.h"
#include "blocks.h"
#include "costs.h"
#include "kernels.h"
#include "placing.h"
#include "sliced.h"
#include "threads.h"

namespace coophash {
namespace {

constexpr int64_t kLogBytes = 16 << 20;  // of all tasks

struct Found {
  int64_t id;
  uint32_t query;  // of the tile
  int32_t distance;
};

// Hits of one task: a tile of queries over a part of the database.
class Task {
 public:
  Task(const Grid& grid, int64_t task, int bins)
      : first_(grid.first_query(task)),
        queries_(grid.query_count(task)),
        bins_(bins),
        most_(kLogBytes / static_cast<int64_t>(sizeof(Found)) / grid.tasks()),
        counts_(static_cast<size_t>(queries_ * bins), 0) {}

  int64_t first_query() const { return first_; }
  int64_t queries() const { return queries_; }
  // (bins,): how many at each distance. From `prepare` on: the places of the next ones.
  int64_t* counts(int64_t query) { return counts_.data() + query * bins_; }

  void count(const Part& part, int width, const uint8_t* queries, int radius,
             const Kernels& kernels) {
    const uint8_t* codes = queries + first_ * width;
    BlockReader reader(width, gather_below(kernels, width, queries_));
    HitFinder finder(width, kernels.for_width(width));
    std::unique_ptr<SlicedBatch> slices;
    // The hits of slices are resolved one by one, so they must be rare.
    if (radius < 8 * width && slices_pay(kernels, width, queries_, Path::kAuto)) {
      slices = std::make_unique<SlicedBatch>(kernels.sliced(width), width, codes, queries_);
      slices->start([&](int64_t) { return radius + 1; });
    }
    for (const Piece& piece : part) {
      reader.read(piece, rows_in_cache(width), [&](const Block& block) {
        int64_t hits_here = 0, row = 0;
        if (slices) {
          for (; row + slices->rows() <= block.rows; row += slices->rows()) {
            slices->scan(block.codes + row * width,
                         (block.ahead + block.rows - row - slices->rows()) * width,
                         [&](int64_t query, const Hit* hits, int64_t count) {
                           hits_here += count;
                           keep(block, row, query, hits, count);
                           return radius + 1;
                         });
          }
        }
        if (row < block.rows) {
          const Block rest = block.from(row, width);
          for (int64_t query = 0; query < queries_; ++query) {
            finder.find(rest, codes + query * width, radius,
                        [&](int64_t first, const Hit* hits, int64_t count) {
                          keep(rest, first, query, hits, count);
                        });
          }
        }
        if (64 * hits_here > block.rows * queries_) slices.reset();
      });
    }
  }

  void fill(const Part& part, int width, const uint8_t* queries, int radius, const Kernels& kernels,
            int64_t* ids) {
    if (logged_) {
      for (const Found& found : log_) ids[counts(found.query)[found.distance]++] = found.id;
      std::vector<Found>().swap(log_);
      return;
    }
    std::vector<Target> targets;
    for (int64_t query = 0; query < queries_; ++query) {
      targets.push_back(
          {queries + (first_ + query) * width, radius, counts(query), INT64_MAX / 2, ids});
    }
    place(part, width, kernels, targets);
  }

 private:
  void keep(const Block& block, int64_t first, int64_t query, const Hit* hits, int64_t count) {
    int64_t* counts_here = counts(query);
    if (logged_ && static_cast<int64_t>(log_.size()) + count > most_) {
      logged_ = false;
      std::vector<Found>().swap(log_);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = first + hits[i].row;
      if (!block.allows(row)) continue;
      ++counts_here[hits[i].distance];
      if (logged_) {
        log_.push_back(
            {block.id(row), static_cast<uint32_t>(query), static_cast<int32_t>(hits[i].distance)});
      }
    }
  }

  int64_t first_, queries_;
  int bins_;
  int64_t most_;  // entries of the log
  bool logged_ = true;
  std::vector<Found> log_;
  std::vector<int64_t> counts_;
};

}  // namespace

struct RangeSearch::State {
  State(const Database& database_, const Queries& queries_, int radius_, int threads,
        const Kernels& kernels_)
      : database(database_),
        queries(queries_),
        radius(std::min(radius_, 8 * database.width)),
        kernels(kernels_),
        grid(database, queries.count, threads),
        tasks(static_cast<size_t>(grid.tasks())) {}

  int bins() const { return radius + 1; }

  // Task of a part and the tile of a query.
  Task& task(int64_t part, int64_t query) {
    return *tasks[static_cast<size_t>(query / grid.tile * grid.part_count() + part)];
  }

  // How many rows lie at each distance from a query: counts (bins,).
  void sum(int64_t query, int64_t* counts) {
    std::fill(counts, counts + bins(), 0);
    for (int64_t part = 0; part < grid.part_count(); ++part) {
      const int64_t* some = task(part, query).counts(query % grid.tile);
      for (int d = 0; d < bins(); ++d) counts[d] += some[d];
    }
  }

  const Database& database;
  const Queries& queries;
  int radius;
  const Kernels& kernels;
  Grid grid;
  std::vector<std::unique_ptr<Task>> tasks;
  std::vector<int64_t> limits;
};

RangeSearch::RangeSearch(const Database& database, const Queries& queries, int radius, int threads,
                         const Kernels& kernels)
    : state_(std::make_unique<State>(database, queries, radius, threads, kernels)) {
  State& state = *state_;
  const Grid& grid = state.grid;
  parallel_for(grid.tasks(), grid.threads, [&](int64_t i) {
    auto task = std::make_unique<Task>(grid, i, state.bins());
    task->count(grid.part(i), database.width, queries.codes, state.radius, kernels);
    state.tasks[static_cast<size_t>(i)] = std::move(task);
  });
  state.limits.assign(static_cast<size_t>(queries.count) + 1, 0);
  std::vector<int64_t> counts(static_cast<size_t>(state.bins()));
  for (int64_t query = 0; query < queries.count; ++query) {
    state.sum(query, counts.data());
    int64_t hits = 0;
    for (const int64_t count : counts) hits += count;
    state.limits[static_cast<size_t>(query) + 1] = state.limits[static_cast<size_t>(query)] + hits;
  }
}

RangeSearch::~RangeSearch() = default;

const std::vector<int64_t>& RangeSearch::limits() const { return state_->limits; }

void RangeSearch::fill(int32_t* distances, int64_t* ids) {
  State& state = *state_;
  const Grid& grid = state.grid;
  const auto begin_of = [&](int64_t query) { return state.limits[static_cast<size_t>(query)]; };
  parallel_for(state.queries.count, grid.threads, [&](int64_t query) {
    int64_t at = begin_of(query);
    for (int d = 0; d < state.bins(); ++d) {
      const int64_t first = at;
      for (int64_t part = 0; part < grid.part_count(); ++part) {
        int64_t& count = state.task(part, query).counts(query % grid.tile)[d];
        at += std::exchange(count, at);
      }
      std::fill(distances + first, distances + at, d);
    }
  });
  parallel_for(grid.tasks(), grid.threads, [&](int64_t i) {
    state.tasks[static_cast<size_t>(i)]->fill(
        grid.part(i), state.database.width, state.queries.codes, state.radius, state.kernels, ids);
  });
  if (state.database.increasing) return;
  parallel_for(state.queries.count, grid.threads, [&](int64_t query) {
    sort_ids(distances + begin_of(query), begin_of(query + 1) - begin_of(query),
             ids + begin_of(query));
  });
}

RangeResult range(const Database& database, const Queries& queries, int radius, int threads,
                  const Kernels& kernels) {
  RangeSearch search(database, queries, radius, threads, kernels);
  RangeResult result;
  result.limits = search.limits();
  result.distances.resize(static_cast<size_t>(result.limits.back()));
  result.ids.resize(result.distances.size());
  search.fill(result.distances.data(), result.ids.data());
  return result;
}

}  // namespace coophash
