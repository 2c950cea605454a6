// Walking over the database in blocks that stay in the nearest cache while queries pass over them.

#ifndef COOPHASH_CPU_BLOCKS_H_
#define COOPHASH_CPU_BLOCKS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../hamming.h"
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
// Where most rows are filtered out, those left are gathered, so that a selective filter makes the
// scan faster; where most are left, the visitor looks at the filter for each of its few hits.
class BlockReader {
 public:
  static constexpr double kAlwaysGather = 2;  // for visitors that do not look at the filter

  // gather_below: the share of a piece's rows below which they are gathered.
  explicit BlockReader(int width, double gather_below = 0.5)
      : width_(width), gather_below_(gather_below) {}

  template <class Visit>
  void read(const Piece& piece, int64_t largest, const Visit& visit) {
    const Span& span = *piece.span;
    const double rows_here = static_cast<double>(piece.end - piece.begin);
    if (span.allow && static_cast<double>(allowed_rows(piece)) < gather_below_ * rows_here) {
      gather(piece, largest, visit);
      return;
    }
    for (int64_t row = piece.begin; row < piece.end; row += largest) {
      const int64_t rows = std::min(largest, piece.end - row);
      visit(Block{span.codes + row * width_, rows, span.ids ? span.ids + row : nullptr,
                  span.first_id + row, span.allow, row, piece.end - row - rows});
      stop_.after(rows * width_);
    }
  }

 private:
  static int64_t allowed_rows(const Piece& piece);

  template <class Visit>
  void gather(const Piece& piece, int64_t largest, const Visit& visit) {
    const Span& span = *piece.span;
    codes_.resize(static_cast<size_t>(largest * width_));
    ids_.resize(static_cast<size_t>(largest));
    int64_t rows = 0;
    const auto flush = [&] {
      if (rows) visit(Block{codes_.data(), rows, ids_.data(), 0, nullptr, 0, 0});
      stop_.after(rows * width_);
      rows = 0;
    };
    for (int64_t word = piece.begin / 64; 64 * word < piece.end; ++word) {
      uint64_t bits = span.allow[word];
      for (; bits; bits &= bits - 1) {
        const int64_t row = 64 * word + __builtin_ctzll(bits);
        if (row < piece.begin || row >= piece.end) continue;
        std::memcpy(codes_.data() + rows * width_, span.codes + row * width_,
                    static_cast<size_t>(width_));
        ids_[static_cast<size_t>(rows)] = span.ids ? span.ids[row] : span.first_id + row;
        if (++rows == largest) flush();
      }
    }
    flush();
  }

  int width_;
  double gather_below_;
  StopPoints stop_;
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
