// Results in order without sorting: a stable counting sort by distance.
//
// How many rows lie at each distance is counted first; that says where in the result each distance
// begins, for each part of the database. Then the rows of a part, met in order, are written to
// their places. Parts are independent of one another, so threads share nothing, and the result
// needs no memory beside itself.

#ifndef COOPHASH_CPU_PLACING_H_
#define COOPHASH_CPU_PLACING_H_

#include <cstdint>
#include <vector>

#include "../hamming.h"
#include "blocks.h"
#include "kernels.h"
#include "stop.h"

namespace coophash {

// A stretch of the database over all spans, in order of row.
using Part = std::vector<Piece>;

// The database as at most `count` parts of about the same number of rows.
std::vector<Part> cut_parts(const Database& database, int64_t count);

// Work as a grid: tiles of queries by parts of the database. Task i is part i % parts.size() of
// tile i / parts.size().
struct Grid {
  Grid(const Database& database, int64_t queries, int threads);

  int threads;
  int64_t queries;
  int64_t tile;  // queries of a tile
  std::vector<Part> parts;

  int64_t tiles() const { return (queries + tile - 1) / tile; }
  int64_t tasks() const { return tiles() * part_count(); }
  int64_t part_count() const { return static_cast<int64_t>(parts.size()); }
  int64_t first_query(int64_t task) const { return task / part_count() * tile; }
  int64_t query_count(int64_t task) const { return std::min(tile, queries - first_query(task)); }
  const Part& part(int64_t task) const { return parts[static_cast<size_t>(task % part_count())]; }
};

// Rows that a query passes over before the next one does. They stay in the second-level cache, and
// are enough for what a query keeps in the first-level cache to pay.
inline int64_t rows_in_cache(int width) {
  return std::max<int64_t>(block_rows(width), 131072 / width);
}

// Rows of one query that go to the places of its result.
struct Target {
  const uint8_t* query;
  int radius;       // rows at distance <= radius count
  int64_t* places;  // (radius + 1,): the place of the next row at each distance
  int64_t end;      // places from here on are not written
  int64_t* ids;     // (end,)
};

// Finds the rows of blocks that are within a distance, by whichever kernel is faster for so many.
class HitFinder {
 public:
  HitFinder(int width, const WidthKernels& kernels)
      : width_(width),
        step_(block_rows(width)),
        kernels_(kernels),
        values_(static_cast<size_t>(step_)),
        hits_(static_cast<size_t>(step_ + kHitSlack)) {}

  // Calls visit(row, hits, count) for stretches of the block, with rows of hits counted from `row`.
  // Hits that the block's filter drops are among them.
  template <class Visit>
  void find(const Block& block, const uint8_t* query, int radius, const Visit& visit) {
    bool many = false;
    for (int64_t row = 0; row < block.rows; row += step_) {
      const int64_t rows = std::min(step_, block.rows - row);
      const uint8_t* codes = block.codes + row * width_;
      const int64_t count =
          many ? compare_all(codes, rows, query, radius)
               : kernels_.scan(codes, rows, width_, query, radius + 1, hits_.data());
      // The scan is made for rare hits.
      many = 16 * count > rows;
      visit(row, hits_.data(), count);
      stop_.after(rows * width_);
    }
  }

 private:
  int64_t compare_all(const uint8_t* codes, int64_t rows, const uint8_t* query, int radius) {
    kernels_.distances(codes, rows, width_, query, values_.data());
    Hit* end = hits_.data();
    for (int64_t i = 0; i < rows; ++i) {
      const uint32_t distance = values_[static_cast<size_t>(i)];
      *end = {static_cast<uint32_t>(i), distance};
      end += static_cast<int>(distance) <= radius;
    }
    return end - hits_.data();
  }

  int width_;
  int64_t step_;
  StopPoints stop_;
  WidthKernels kernels_;
  std::vector<uint16_t> values_;
  std::vector<Hit> hits_;
};

// Writes the rows of a part to the places of some queries.
void place(const Part& part, int width, const Kernels& kernels, const std::vector<Target>& targets);

// Where ids do not grow with the rows: sorts those of each distance.
//   distances (count,), ascending; ids (count,)
void sort_ids(const int32_t* distances, int64_t count, int64_t* ids);

}  // namespace coophash

#endif  // COOPHASH_CPU_PLACING_H_
