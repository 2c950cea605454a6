// Histograms of distances, whole and of the relevant rows, in one pass over the database.
//
// Relevance is looked up while a block is in cache: a row's distance d becomes 2 d, or 2 d + 1 if
// the row is relevant, and these numbers are counted. So the split costs a few vector instructions
// for eight rows, no second count and no memory. With G grades of relevance it is G d + grade.

#include <atomic>

#include "../hamming.h"
#include "blocks.h"
#include "counter.h"
#include "kernels.h"
#include "placing.h"
#include "ranking.h"
#include "threads.h"

namespace coophash {
namespace {

// Labels of the rows of one block.
struct BlockLabels {
  const int32_t* classes = nullptr;  // (rows,)
  const uint16_t* words = nullptr;   // word w of row r is words[w * stride + r]
  int64_t stride = 0;
};

// Turns distances of `rows` rows from a query into 2 * distance + relevant.
void mark_class(const int32_t* classes, int32_t wanted, int64_t rows, uint16_t* values) {
  for (int64_t i = 0; i < rows; ++i) {
    values[i] = static_cast<uint16_t>(2 * values[i] + (classes[i] == wanted));
  }
}

void mark_labels(const BlockLabels& labels, int64_t first, const uint16_t* wanted, int words,
                 int64_t rows, uint16_t* values, uint16_t* shared) {
  int last = -1;  // a query has few labels: most of its words are 0
  for (int word = 0; word < words; ++word) {
    if (!wanted[word]) continue;
    const uint16_t* theirs = labels.words + word * labels.stride + first;
    const uint16_t ours = wanted[word];
    if (last < 0) {
      for (int64_t i = 0; i < rows; ++i) shared[i] = theirs[i] & ours;
    } else {
      for (int64_t i = 0; i < rows; ++i) shared[i] |= theirs[i] & ours;
    }
    last = word;
  }
  if (last < 0) {
    for (int64_t i = 0; i < rows; ++i) values[i] = static_cast<uint16_t>(2 * values[i]);
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    values[i] = static_cast<uint16_t>(2 * values[i] + (shared[i] != 0));
  }
}

// How many bits are set in each of some words, added to `counts`: in 16-bit lanes, whatever the
// instruction set.
void count_shared(const uint16_t* theirs, uint16_t ours, int64_t rows, uint16_t* counts) {
  for (int64_t i = 0; i < rows; ++i) {
    unsigned x = theirs[i] & ours;
    x -= (x >> 1) & 0x5555u;
    x = (x & 0x3333u) + ((x >> 2) & 0x3333u);
    x = (x + (x >> 4)) & 0x0f0fu;
    counts[i] = static_cast<uint16_t>(counts[i] + ((x + (x >> 8)) & 0x1fu));
  }
}

// Turns distances into grades * distance + grade.
void mark_grades(const BlockLabels& labels, int64_t first, const uint16_t* wanted, int words,
                 int grades, int64_t rows, uint16_t* values, uint16_t* shared) {
  std::fill(shared, shared + rows, uint16_t{0});
  for (int word = 0; word < words; ++word) {
    if (!wanted[word]) continue;
    count_shared(labels.words + word * labels.stride + first, wanted[word], rows, shared);
  }
  const uint16_t highest = static_cast<uint16_t>(grades - 1);
  const uint16_t step = static_cast<uint16_t>(grades);
  for (int64_t i = 0; i < rows; ++i) {
    values[i] = static_cast<uint16_t>(step * values[i] + std::min(shared[i], highest));
  }
}

// Adds rows of the database to the histograms of some queries.
class Histograms {
 public:
  Histograms(const Database& database, const Queries& queries, const Relevance* relevance, int bins,
             const WidthKernels& kernels)
      : database_(database),
        queries_(queries),
        relevance_(relevance),
        bins_(bins),
        kernels_(kernels),
        reader_(database.width, BlockReader::kAlwaysGather),
        step_(block_rows(database.width)),
        values_(static_cast<size_t>(step_)),
        shared_(static_cast<size_t>(step_)),
        counter_(relevance ? relevance->grades * bins : bins) {}

  // Adds the rows of a piece to total (count, bins) and relevant (count, bins, grades - 1) of
  // queries first .. first + count - 1.
  void add(const Piece& piece, int64_t first, int64_t count, int64_t* total, int64_t* relevant) {
    const int64_t largest = rows_in_cache(database_.width);
    reader_.read(piece, largest, [&](const Block& block) {
      const BlockLabels labels = relevance_ ? labels_of(block) : BlockLabels{};
      for (int64_t q = 0; q < count; ++q) {
        count_block(block, labels, first + q);
        if (relevance_) {
          take(total + q * bins_, relevant + q * bins_ * (relevance_->grades - 1));
        } else {
          for (int d = 0; d < bins_; ++d) total[q * bins_ + d] += counter_.take(d);
        }
        stop_.after(block.rows * database_.width);  // a block is large, and queries may be many
      }
    });
  }

 private:
  // Moves what was counted for one query to its histograms.
  void take(int64_t* total, int64_t* relevant) {
    const int grades = relevance_->grades;
    for (int d = 0; d < bins_; ++d) {
      int64_t rows = counter_.take(grades * d);
      for (int grade = 1; grade < grades; ++grade) {
        const int64_t hits = counter_.take(grades * d + grade);
        *relevant++ += hits;
        rows += hits;
      }
      total[d] += rows;
    }
  }

  void count_block(const Block& block, const BlockLabels& labels, int64_t query) {
    const int width = database_.width;
    for (int64_t row = 0; row < block.rows; row += step_) {
      const int64_t rows = std::min(step_, block.rows - row);
      kernels_.distances(block.codes + row * width, rows, width, queries_.codes + query * width,
                         values_.data());
      if (labels.classes) {
        mark_class(labels.classes + row, relevance_->query_classes[query], rows, values_.data());
      } else if (labels.words && relevance_->grades > 2) {
        mark_grades(labels, row, relevance_->query_labels + query * relevance_->words,
                    relevance_->words, relevance_->grades, rows, values_.data(), shared_.data());
      } else if (labels.words) {
        mark_labels(labels, row, relevance_->query_labels + query * relevance_->words,
                    relevance_->words, rows, values_.data(), shared_.data());
      }
      counter_.add(values_.data(), rows);
    }
  }

  // The labels of a block: where they lie, or gathered as its codes were.
  BlockLabels labels_of(const Block& block) {
    const Relevance& all = *relevance_;
    if (!block.ids) {
      if (all.row_classes) return {all.row_classes + block.first_id, nullptr, 0};
      return {nullptr, all.row_labels + block.first_id, all.rows};
    }
    const size_t rows = static_cast<size_t>(block.rows);
    if (all.row_classes) {
      classes_.resize(rows);
      for (size_t i = 0; i < rows; ++i) classes_[i] = all.row_classes[block.ids[i]];
      return {classes_.data(), nullptr, 0};
    }
    words_.resize(rows * static_cast<size_t>(all.words));
    for (size_t word = 0; word < static_cast<size_t>(all.words); ++word) {
      const uint16_t* from = all.row_labels + static_cast<int64_t>(word) * all.rows;
      for (size_t i = 0; i < rows; ++i) words_[word * rows + i] = from[block.ids[i]];
    }
    return {nullptr, words_.data(), block.rows};
  }

  const Database& database_;
  const Queries& queries_;
  const Relevance* relevance_;
  int bins_;
  WidthKernels kernels_;
  BlockReader reader_;
  StopPoints stop_;
  int64_t step_;
  std::vector<uint16_t> values_, shared_;
  std::vector<int32_t> classes_;  // of a gathered block
  std::vector<uint16_t> words_;
  Counter counter_;
};

}  // namespace

void histogram(const Database& database, const Queries& queries, const Relevance* relevance,
               int bins, int threads, const Kernels& isa, int64_t* total, int64_t* relevant) {
  const int64_t cells = queries.count * bins;
  std::fill(total, total + cells, 0);
  const int64_t graded = relevance ? bins * (relevance->grades - 1) : 0;  // cells of a query
  if (relevance) std::fill(relevant, relevant + queries.count * graded, 0);
  const WidthKernels kernels = isa.for_width(database.width);
  const Plan plan =
      make_plan(database, queries.count, 8 * (bins + std::max<int64_t>(bins, graded)), threads);
  const std::vector<Piece> pieces = cut(database, plan.piece_rows);

  if (!plan.split_database) {
    const int64_t tiles = (queries.count + plan.tile - 1) / plan.tile;
    parallel_for(tiles, plan.threads, [&](int64_t tile) {
      const int64_t first = tile * plan.tile;
      const int64_t count = std::min(plan.tile, queries.count - first);
      Histograms histograms(database, queries, relevance, bins, kernels);
      for (const Piece& piece : pieces) {
        histograms.add(piece, first, count, total + first * bins,
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
    Histograms histograms(database, queries, relevance, bins, kernels);
    for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
      histograms.add(pieces[i], 0, queries.count, mine.data(), hits.data());
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
  Histograms histograms(database, queries, nullptr, bins, isa.for_width(database.width));
  for (const Piece& piece : part) histograms.add(piece, first, count, counts, nullptr);
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
