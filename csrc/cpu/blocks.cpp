#include "blocks.h"

namespace coophash {

std::vector<Piece> cut(const Database& database, int64_t rows) {
  std::vector<Piece> pieces;
  for (const Span& span : database.spans) {
    for (int64_t begin = 0; begin < span.rows; begin += rows) {
      pieces.push_back({&span, begin, std::min(span.rows, begin + rows)});
    }
  }
  return pieces;
}

Plan make_plan(const Database& database, int64_t queries, int64_t bytes_per_query, int threads) {
  constexpr int64_t kBytesPerThread = 64 << 10;  // below this a thread costs more than it saves
  constexpr int64_t kPieceBytes = 1 << 20;       // many pieces a thread, so that all end together
  // Measured at 10^6 codes of 64 bits, 2 threads: split / not, 16 queries 24 / 20 Gp/s, 64: 36 / 38
  constexpr int64_t kSplitBelow = 16;
  constexpr int64_t kTileBytes = 64 << 20;  // results in the making, for each thread

  int64_t rows = 0;
  for (const Span& span : database.spans) rows += span.rows;
  const int64_t bytes = rows * database.width;
  const double work = static_cast<double>(bytes) * static_cast<double>(queries);
  const double useful = std::max(1.0, work / static_cast<double>(kBytesPerThread));

  Plan plan;
  plan.threads = static_cast<int>(std::min<double>(std::max(1, threads), useful));
  plan.split_database = plan.threads > 1 && queries < kSplitBelow * plan.threads;
  // Each thread keeps candidates of its own for every query, and the fewer queries there are the
  // less that costs; with many queries a thread each is as well balanced and merges nothing, while
  // the tables of bit slices are built once a thread.
  const int64_t share = bytes / (4 * plan.threads) + 1;
  plan.piece_rows = std::max<int64_t>(
      64, plan.split_database ? std::min(kPieceBytes, share) / database.width : rows);
  const int64_t unit = plan.piece_rows < 4096 ? 64 : 512;  // words of a filter, groups of slices
  plan.piece_rows = (plan.piece_rows + unit - 1) / unit * unit;
  const int64_t fit = std::max<int64_t>(1, kTileBytes / std::max<int64_t>(1, bytes_per_query));
  const int64_t even = (queries + plan.threads - 1) / plan.threads;
  plan.tile = std::max<int64_t>(1, std::min(fit, plan.split_database ? queries : even));
  return plan;
}

}  // namespace coophash
