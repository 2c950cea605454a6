// Walking over the database in blocks that stay in the nearest cache while queries pass over them.

#ifndef COOPHASH_CPU_BLOCKS_H_
#define COOPHASH_CPU_BLOCKS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../hamming.h"
#include "filter.h"
#include "kernels.h"
#include "stop.h"

namespace coophash {

// A stretch of rows of one span.
struct Piece {
  const Span* span;
  int64_t begin;
  int64_t end;
};

// The database cut into pieces of at most `rows` rows, in order of row.
std::vector<Piece> cut(const Database& database, int64_t rows);

// Rows that lie together in memory.
struct Block {
  const uint8_t* codes;
  int64_t rows;
  const int64_t* ids;  // or null: row r has the id first_id + r
  int64_t first_id;
  const uint64_t* allow;  // or null: all rows count; else row r counts if bit offset + r is set
  int64_t offset;
  int64_t ahead;  // rows behind these, of the next block

  int64_t id(int64_t row) const { return ids ? ids[row] : first_id + row; }
  bool allows(int64_t row) const {
    const int64_t bit = offset + row;
    return !allow || (allow[bit / 64] >> (bit % 64) & 1);
  }
  // The rows from `row` on.
  Block from(int64_t row, int width) const {
    return {codes + row * width, rows - row, ids ? ids + row : nullptr, first_id + row, allow,
            offset + row,        ahead};
  }
};

// Block sizes: 16 KiB of codes is half of the first-level cache, and 512 rows keep the cost of a
// call small for wide codes. A multiple of 512, so that groups of bit slices fill it.
inline int64_t block_rows(int width) { return std::max(1, 32 / width) * int64_t{512}; }

// Calls visit(block) for the rows of a piece, in order. `largest` is the most rows of a block.
// After each block the search may be stopped.
//
// Where so many rows are filtered out that it pays, those left are gathered, and a selective filter
// makes the scan faster; elsewhere the visitor looks at the filter for each of its few hits.
class BlockReader {
 public:
  static constexpr double kAlwaysGather = 2;  // for visitors that do not look at the filter

  // gather_below: the share of rows below which they are gathered, see costs.h.
  BlockReader(int width, double gather_below) : width_(width), gather_below_(gather_below) {}

  template <class Visit>
  void read(const Piece& piece, int64_t largest, const Visit& visit) {
    if (!piece.span->allow) {
      read_all(piece, piece.end, largest, visit);
      return;
    }
    const auto flush = [&] {
      const int64_t rows = std::min(gathered_, largest);
      if (rows) visit(Block{codes_.data(), rows, ids_.data(), 0, nullptr, 0, 0});
      stop_.after(rows * width_);
      gathered_ -= rows;
      std::copy_n(codes_.data() + rows * width_, gathered_ * width_, codes_.data());
      std::copy_n(ids_.data() + rows, gathered_, ids_.data());
    };
    gathered_ = 0;
    for (Piece some = piece; some.begin < piece.end; some.begin = some.end) {
      some.end = std::min(piece.end, (some.begin / kStretch + 1) * kStretch);
      const int64_t allowed = count_allowed(piece.span->allow, some.begin, some.end);
      const double most = gather_below_ * static_cast<double>(some.end - some.begin);
      if (allowed == 0) continue;
      if (static_cast<double>(allowed) < most) {
        gather(some, largest, flush);
      } else {
        flush();  // rows are met in order
        read_all(some, piece.end, largest, visit);
      }
    }
    flush();
  }

 private:
  static constexpr int64_t kStretch = 32768;  // rows that are looked at together

  // Rows as they lie; those until `end` follow.
  template <class Visit>
  void read_all(const Piece& piece, int64_t end, int64_t largest, const Visit& visit) {
    const Span& span = *piece.span;
    for (int64_t row = piece.begin; row < piece.end; row += largest) {
      const int64_t rows = std::min(largest, piece.end - row);
      visit(Block{span.codes + row * width_, rows, span.ids ? span.ids + row : nullptr,
                  span.first_id + row, span.allow, row, end - row - rows});
      stop_.after(rows * width_);
    }
  }

  // Appends the allowed rows of a piece to those gathered; flushes each time there are enough.
  // There is room for a word of the filter more, so that blocks are full ones.
  template <class Flush>
  void gather(const Piece& piece, int64_t largest, const Flush& flush) {
    const Span& span = *piece.span;
    const int64_t room = largest + 64;
    codes_.resize(static_cast<size_t>(room * width_));
    ids_.resize(static_cast<size_t>(room));
    for (int64_t row = piece.begin; row < piece.end;) {
      int64_t* ids = ids_.data() + gathered_;
      const int64_t rows = list_allowed(span.allow, row, piece.end, room - gathered_, ids);
      gather_codes(span.codes, width_, ids, rows, codes_.data() + gathered_ * width_);
      for (int64_t i = 0; i < rows; ++i)
        ids[i] = span.ids ? span.ids[ids[i]] : span.first_id + ids[i];
      gathered_ += rows;
      if (gathered_ >= largest) flush();
    }
  }

  int width_;
  double gather_below_;
  StopPoints stop_;
  int64_t gathered_ = 0;
  std::vector<uint8_t> codes_;
  std::vector<int64_t> ids_;
};

// How the work is shared out. Either all queries pass over pieces of the database, which the
// threads claim one after another, or each thread takes queries of its own over the whole database.
struct Plan {
  int threads;
  bool split_database;
  int64_t piece_rows;  // rows of a piece
  int64_t tile;        // queries that pass over a block together
};
Plan make_plan(const Database& database, int64_t queries, int64_t bytes_per_query, int threads);

}  // namespace coophash

#endif  // COOPHASH_CPU_BLOCKS_H_
