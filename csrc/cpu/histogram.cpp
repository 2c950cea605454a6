// Histograms of distances, whole and of the relevant rows, in one pass over the database.
//
// Batches are counted by bit slices, where the instruction set has them (counting_impl.h); what is
// left, row by row. Relevance is looked up while a block is in cache, and no matrix of it is made.
// Row by row, a distance d becomes 2 d, or 2 d + 1 if the row is relevant, and these are counted;
// with G grades of relevance it becomes G d + grade.

#include <algorithm>
#include <atomic>
#include <optional>

#include "../hamming.h"
#include "blocks.h"
#include "costs.h"
#include "counter.h"
#include "kernels.h"
#include "placing.h"
#include "ranking.h"
#include "relevance.h"
#include "sliced.h"
#include "threads.h"

namespace coophash {
namespace {

// Adds rows of the database to the histograms of a tile of queries.
class Histograms {
 public:
  Histograms(const Database& database, const Queries& queries, int64_t first, int64_t count,
             const Relevance* relevance, int bins, const Kernels& kernels)
      : width_(database.width),
        queries_(queries.codes + first * database.width),
        count_(count),
        bins_(bins),
        kernels_(kernels.for_width(database.width)),
        reader_(database.width, BlockReader::kAlwaysGather),
        step_(block_rows(database.width)),
        values_(static_cast<size_t>(step_)),
        grades_(relevance ? relevance->grades : 1),
        counter_(grades_ * bins) {
    if (relevance) relevance_.emplace(*relevance, first, count);
    if (grades_ <= 2 && counting_by_slices_pays(kernels, width_, count)) {
      slices_.emplace(kernels.sliced(width_), queries_, count, width_);
    }
  }

  // Adds the rows of a piece to total (queries of the tile, bins) and relevant (queries of the
  // tile, bins, grades - 1).
  void add(const Piece& piece, int64_t* total, int64_t* relevant) {
    reader_.read(piece, rows_in_cache(width_), [&](const Block& block) {
      if (relevance_) relevance_->look_at(block);
      int64_t row = 0;
      if (slices_) {
        const int64_t rows = slices_->kernels.rows;
        const int64_t all = block.rows / rows;
        const int64_t turns = (all + slices_->groups - 1) / slices_->groups;
        for (int64_t turn = 0; turn < turns; ++turn) {
          const int64_t groups = all * (turn + 1) / turns - all * turn / turns;
          add_groups(block, row, static_cast<int>(groups), total, relevant);
          row += groups * rows;
        }
      }
      if (row < block.rows) add_rows(block, row, total, relevant);
    });
  }

 private:
  // Bit slices: tables of some groups of rows, and the queries in the form that goes with them.
  struct Slices {
    Slices(const SlicedKernels& kernels_, const uint8_t* queries, int64_t count, int width)
        : kernels(kernels_),
          groups(static_cast<int>(std::clamp<int64_t>(kTableBytes / kernels.table_bytes, 1,
                                                      kernels.counting.most_groups))),
          tables(groups * kernels.table_bytes),
          records(count * kernels.record_bytes),
          workspace(kernels.counting.workspace_bytes),
          relevant(groups * kernels.rows / 8) {
      for (int64_t q = 0; q < count; ++q) {
        kernels.prepare(queries + q * width, width, records.data() + q * kernels.record_bytes);
      }
      std::fill_n(workspace.data(), kernels.counting.workspace_bytes, uint8_t{0});
    }

    static constexpr int64_t kTableBytes = 256 << 10;  // they stay in the second-level cache

    SlicedKernels kernels;
    int groups;
    AlignedBytes tables, records, workspace, relevant;
  };

  void add_groups(const Block& block, int64_t row, int groups, int64_t* total, int64_t* relevant) {
    const SlicedKernels& kernels = slices_->kernels;
    for (int group = 0; group < groups; ++group) {
      const int64_t first = row + group * kernels.rows;
      kernels.build(block.codes + first * width_, width_, 0,
                    slices_->tables.data() + group * kernels.table_bytes);
    }
    uint64_t* const bits =
        relevance_ ? reinterpret_cast<uint64_t*>(slices_->relevant.data()) : nullptr;
    for (int64_t q = 0; q < count_; ++q) {
      if (bits) relevance_->mark_bits(q, row, groups * kernels.rows, kernels.counting, bits);
      kernels.counting.count(slices_->tables.data(), groups,
                             slices_->records.data() + q * kernels.record_bytes, width_, bins_,
                             bits, slices_->workspace.data(), total + q * bins_,
                             bits ? relevant + q * bins_ : nullptr);
      stop_.after(groups * kernels.rows * width_);
    }
  }

  void add_rows(const Block& block, int64_t first, int64_t* total, int64_t* relevant) {
    for (int64_t q = 0; q < count_; ++q) {
      for (int64_t row = first; row < block.rows; row += step_) {
        const int64_t rows = std::min(step_, block.rows - row);
        kernels_.distances(block.codes + row * width_, rows, width_, queries_ + q * width_,
                           values_.data());
        if (relevance_) relevance_->mark(q, row, rows, values_.data());
        counter_.add(values_.data(), rows);
      }
      take(total + q * bins_, relevance_ ? relevant + q * bins_ * (grades_ - 1) : nullptr);
      stop_.after(block.rows * width_);  // a block is large, and queries may be many
    }
  }

  // Moves what was counted for one query to its histograms.
  void take(int64_t* total, int64_t* relevant) {
    for (int d = 0; d < bins_; ++d) {
      total[d] += counter_.take(grades_ * d);
      for (int grade = 1; grade < grades_; ++grade) {
        const int64_t hits = counter_.take(grades_ * d + grade);
        *relevant++ += hits;
        total[d] += hits;
      }
    }
  }

  int width_;
  const uint8_t* queries_;
  int64_t count_;
  int bins_;
  WidthKernels kernels_;
  std::optional<TileRelevance> relevance_;
  std::optional<Slices> slices_;
  BlockReader reader_;
  StopPoints stop_;
  int64_t step_;
  std::vector<uint16_t> values_;
  int grades_;  // 1 without relevance
  Counter counter_;
};

}  // namespace

void histogram(const Database& database, const Queries& queries, const Relevance* relevance,
               int bins, int threads, const Kernels& isa, int64_t* total, int64_t* relevant) {
  const int64_t cells = queries.count * bins;
  std::fill(total, total + cells, 0);
  const int64_t graded = relevance ? bins * (relevance->grades - 1) : 0;  // cells of a query
  if (relevance) std::fill(relevant, relevant + queries.count * graded, 0);
  Plan plan =
      make_plan(database, queries.count, 8 * (bins + std::max<int64_t>(bins, graded)), threads);
  plan.tile = std::min(plan.tile, TileRelevance::kMostQueries);
  const std::vector<Piece> pieces = cut(database, plan.piece_rows);

  if (!plan.split_database) {
    const int64_t tiles = (queries.count + plan.tile - 1) / plan.tile;
    parallel_for(tiles, plan.threads, [&](int64_t tile) {
      const int64_t first = tile * plan.tile;
      const int64_t count = std::min(plan.tile, queries.count - first);
      Histograms histograms(database, queries, first, count, relevance, bins, isa);
      for (const Piece& piece : pieces) {
        histograms.add(piece, total + first * bins,
                       relevance ? relevant + first * graded : nullptr);
      }
    });
    return;
  }
  const size_t parts = static_cast<size_t>(plan.threads);
  std::vector<std::vector<int64_t>> totals(parts), relevants(parts);
  std::atomic<size_t> next{0};
  parallel_for(plan.threads, plan.threads, [&](int64_t thread) {
    std::vector<int64_t> mine(static_cast<size_t>(cells), 0);
    std::vector<int64_t> hits(static_cast<size_t>(queries.count * graded), 0);
    Histograms histograms(database, queries, 0, queries.count, relevance, bins, isa);
    for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
      histograms.add(pieces[i], mine.data(), hits.data());
    }
    totals[static_cast<size_t>(thread)] = std::move(mine);
    relevants[static_cast<size_t>(thread)] = std::move(hits);
  });
  const auto add = [](const std::vector<int64_t>& part, int64_t* sums) {
    for (size_t i = 0; i < part.size(); ++i) sums[i] += part[i];
  };
  for (const std::vector<int64_t>& part : totals) add(part, total);
  for (const std::vector<int64_t>& part : relevants) add(part, relevant);
}

void count_distances(const Part& part, const Database& database, const Queries& queries,
                     int64_t first, int64_t count, int bins, const Kernels& isa, int64_t* counts) {
  Histograms histograms(database, queries, first, count, nullptr, bins, isa);
  for (const Piece& piece : part) histograms.add(piece, counts, nullptr);
}

void distances(const uint8_t* codes, int64_t rows, const Queries& queries, int width, int threads,
               const Kernels& isa, int32_t* out) {
  const WidthKernels kernels = isa.for_width(width);
  const int64_t block = block_rows(width);
  // A thread per row of the result; a piece of the rows at a time, so that they stay in cache.
  parallel_for(queries.count, rows * width < (64 << 10) ? 1 : threads, [&](int64_t q) {
    std::vector<uint16_t> scratch(static_cast<size_t>(block));
    StopPoints stop;
    for (int64_t row = 0; row < rows; row += block) {
      const int64_t count = std::min(block, rows - row);
      kernels.distances(codes + row * width, count, width, queries.codes + q * width,
                        scratch.data());
      std::copy(scratch.begin(), scratch.begin() + count, out + q * rows + row);
      stop.after(count * width);
    }
  });
}

}  // namespace coophash
