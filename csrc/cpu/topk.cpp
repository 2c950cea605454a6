#include <atomic>
#include <memory>

#include "../hamming.h"
#include "blocks.h"
#include "costs.h"
#include "kernels.h"
#include "ranking.h"
#include "selector.h"
#include "sliced.h"
#include "threads.h"

namespace coophash {
namespace {

// Candidates of a tile of queries over some pieces of the database, for one thread.
class Scan {
 public:
  Scan(const Database& database, const Queries& queries, int64_t first, int64_t count, int64_t k,
       const Kernels& kernels, Path path)
      : width_(database.width),
        codes_(queries.codes + first * database.width),
        kernels_(kernels.for_width(database.width)),
        reader_(database.width, gather_below(kernels, database.width, count)),
        hits_(static_cast<size_t>(block_rows(database.width) + kHitSlack)) {
    selectors_.reserve(static_cast<size_t>(count));
    for (int64_t q = 0; q < count; ++q) selectors_.emplace_back(k, width_, database.increasing);
    if (slices_pay(kernels, width_, count, path)) {
      sliced_ = std::make_unique<SlicedBatch>(kernels.sliced(width_), width_, codes_, count);
    }
  }

  // No row that comes later can enter the result of any query.
  bool finished() const { return slicing_ && sliced_->active() == 0; }

  void over(const Piece& piece) {
    // Small blocks first: until k rows are known every row is kept.
    Piece rest = piece;
    for (; ramp_ < block_rows(width_) && rest.begin < rest.end; ramp_ *= 2) {
      const int64_t end = std::min(rest.end, rest.begin + ramp_);
      read({rest.span, rest.begin, end});
      rest.begin = end;
    }
    if (rest.begin < rest.end) read(rest);
  }

  // The result for one query of the tile.
  std::vector<Entry> finish(int64_t query) {
    return selectors_[static_cast<size_t>(query)].finish();
  }

  // The candidates for one query of the tile, handed over.
  std::vector<Entry> take(int64_t query) { return selectors_[static_cast<size_t>(query)].take(); }

 private:
  void read(const Piece& piece) {
    reader_.read(piece, block_rows(width_), [this](const Block& block) { visit(block); });
  }

  void visit(const Block& block) {
    int64_t row = 0;
    if (slicing_ || (sliced_ && start_slicing())) {
      for (; row + sliced_->rows() <= block.rows && sliced_->active(); row += sliced_->rows()) {
        sliced_->scan(block.codes + row * width_,
                      (block.ahead + block.rows - row - sliced_->rows()) * width_,
                      [&](int64_t query, const Hit* hits, int64_t count) {
                        Selector& selector = selectors_[static_cast<size_t>(query)];
                        push(selector, block, row, hits, count);
                        return selector.limit();
                      });
      }
      if (finished()) return;
    }
    if (row == block.rows) return;
    const uint8_t* query = codes_;
    for (Selector& selector : selectors_) {
      const int limit = selector.limit();
      if (limit > 0) {
        const int64_t count = kernels_.scan(block.codes + row * width_, block.rows - row, width_,
                                            query, limit, hits_.data());
        push(selector, block, row, hits_.data(), count);
        if (slicing_) sliced_->lower(&selector - selectors_.data(), selector.limit());
      }
      query += width_;
    }
  }

  void push(Selector& selector, const Block& block, int64_t first_row, const Hit* hits,
            int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = first_row + hits[i].row;
      if (block.allows(row)) {
        selector.push(static_cast<int32_t>(hits[i].distance), block.id(row));
      }
    }
    if (count) selector.settle();
  }

  // Slices need a limit that excludes something, so not before k rows are known for each query.
  bool start_slicing() {
    const int most = 8 * width_;
    for (const Selector& selector : selectors_) {
      if (selector.limit() > most) return false;
    }
    sliced_->start(
        [this](int64_t query) { return selectors_[static_cast<size_t>(query)].limit(); });
    slicing_ = true;
    return true;
  }

  int width_;
  const uint8_t* codes_;
  WidthKernels kernels_;
  BlockReader reader_;
  int64_t ramp_ = 256;
  std::vector<Hit> hits_;
  std::vector<Selector> selectors_;
  std::unique_ptr<SlicedBatch> sliced_;
  bool slicing_ = false;
};

void write(const std::vector<Entry>& sorted, int64_t k, int32_t* distances, int64_t* ids) {
  int64_t i = 0;
  for (const Entry& entry : sorted) {
    distances[i] = entry.distance;
    ids[i++] = entry.id;
  }
  std::fill(distances + i, distances + k, kNoDistance);
  std::fill(ids + i, ids + k, kNoId);
}

}  // namespace

void topk(const Database& database, const Queries& queries, int64_t k, int threads,
          const Kernels& isa, int32_t* distances, int64_t* ids, Path path) {
  if (k == 0 || queries.count == 0) return;
  int64_t rows = 0;
  for (const Span& span : database.spans) rows += span.rows;
  if (path == Path::kRank ||
      (path == Path::kAuto && ranking_pays(isa, database.width, queries.count, rows, k))) {
    rank(database, queries, k, threads, isa, distances, ids);
    return;
  }
  const int64_t most = std::max<int64_t>(1, std::min(k, rows));  // entries that can be found
  const int64_t bytes =
      static_cast<int64_t>(sizeof(Entry)) * (3 * most + 1024) + 64 * database.width;
  const Plan plan = make_plan(database, queries.count, bytes, threads);
  const std::vector<Piece> pieces = cut(database, plan.piece_rows);

  if (!plan.split_database) {
    const int64_t tiles = (queries.count + plan.tile - 1) / plan.tile;
    parallel_for(tiles, plan.threads, [&](int64_t tile) {
      const int64_t first = tile * plan.tile;
      const int64_t count = std::min(plan.tile, queries.count - first);
      Scan scan(database, queries, first, count, most, isa, path);
      for (const Piece& piece : pieces) {
        scan.over(piece);
        if (scan.finished()) break;
      }
      for (int64_t q = 0; q < count; ++q) {
        write(scan.finish(q), k, distances + (first + q) * k, ids + (first + q) * k);
      }
    });
    return;
  }

  // The rows that one thread sees come in increasing order, so the tie rule holds for each thread's
  // candidates, and the smallest k of all candidates are the result.
  for (int64_t first = 0; first < queries.count; first += plan.tile) {
    const int64_t count = std::min(plan.tile, queries.count - first);
    std::vector<std::unique_ptr<Scan>> scans(static_cast<size_t>(plan.threads));
    std::atomic<size_t> next{0};
    parallel_for(plan.threads, plan.threads, [&](int64_t thread) {
      auto scan = std::make_unique<Scan>(database, queries, first, count, most, isa, path);
      for (size_t i; !scan->finished() && (i = next.fetch_add(1)) < pieces.size();) {
        scan->over(pieces[i]);
      }
      scans[static_cast<size_t>(thread)] = std::move(scan);
    });
    parallel_for(count, plan.threads, [&](int64_t q) {
      std::vector<Entry> all;
      for (const auto& scan : scans) {
        const std::vector<Entry> some = scan->take(q);
        all.insert(all.end(), some.begin(), some.end());
      }
      Selector::sort_smallest(all, k);
      write(all, k, distances + (first + q) * k, ids + (first + q) * k);
    });
  }
}

}  // namespace coophash
