// What each instruction set supplies: inner loops over rows of codes, for every width, and the
// same search by bit slices for batches of queries.
//
// Everything else (blocks, thresholds, threads, order) is written once, in the files that call
// these loops, and is compiled for the baseline of the ABI.

#ifndef COOPHASH_CPU_KERNELS_H_
#define COOPHASH_CPU_KERNELS_H_

#include <cstdint>

namespace coophash {

struct Hit {
  uint32_t row;
  uint32_t distance;
};

// Rows at distance < limit from the query, in increasing order of row. Returns their number.
//   codes (rows, width), query (width,); hits has room for rows + kHitSlack entries, and those past
//   the returned number are scratch. Reads no byte outside codes and query.
using ScanFn = int64_t (*)(const uint8_t* codes, int64_t rows, int width, const uint8_t* query,
                           int limit, Hit* hits);
inline constexpr int kHitSlack = 64;

// The distance of each row from the query: out (rows,).
using DistancesFn = void (*)(const uint8_t* codes, int64_t rows, int width, const uint8_t* query,
                             uint16_t* out);

struct WidthKernels {
  ScanFn scan;
  DistancesFn distances;
};

// Bit slices: many queries against a group of codes that has been turned into tables, see
// sliced_impl.h. Tables and records are opaque and aligned to 64 bytes.
struct SlicedHits {
  uint32_t* queries;  // (queries,) those with hits, ascending
  uint64_t* rows;     // (queries, rows of a group / 64): bit r % 64 of word r / 64 for row r
};
using SlicedScanFn = int64_t (*)(const uint8_t* table, const uint8_t* records, int64_t queries,
                                 int width, SlicedHits hits);

// Histograms by bit slices, see counting_impl.h.
struct SlicedCounting {
  int most_groups = 0;  // of one call
  int64_t workspace_bytes = 0;
  // Adds how many rows of some groups lie at each distance from a query: total (bins,), where
  // every distance that occurs is below bins <= 8 * width + 1.
  // With relevant (groups * rows / 64,), aligned to 64 bytes, a bit for each row: also how many of
  // those, to hits.
  //   tables: of the groups, one after another; workspace: aligned to 64 bytes; all 0, and so
  //   again.
  void (*count)(const uint8_t* tables, int groups, const uint8_t* record, int width, int bins,
                const uint64_t* relevant, uint8_t* workspace, int64_t* total,
                int64_t* hits) = nullptr;
  // The bits of the rows whose class is `wanted`. rows: a multiple of 64.
  void (*mark_classes)(const uint16_t* classes, int64_t rows, uint16_t wanted,
                       uint64_t* relevant) = nullptr;
  // The bits of the rows whose labels share a bit with wanted (words,): labels (words, rows), rows
  // of it `stride` apart.
  void (*mark_labels)(const uint16_t* labels, int64_t stride, const uint16_t* wanted, int words,
                      int64_t rows, uint64_t* relevant) = nullptr;
};

struct SlicedKernels {
  int rows;              // of a group, a multiple of 64
  int64_t table_bytes;   // of a group
  int64_t record_bytes;  // of a query
  // The table of a group of codes, exactly `rows` of them. Reads no byte outside them, and fetches
  // `ahead` bytes behind them into cache for the next group.
  void (*build)(const uint8_t* codes, int width, int64_t ahead, uint8_t* table);
  // The record of a query. A limit has to be set before it is used.
  void (*prepare)(const uint8_t* query, int width, uint8_t* record);
  void (*set_limit)(uint8_t* record, int width, int limit);  // 1 <= limit <= 8 * width
  // Finds the rows at distance < limit for each of `queries` records that lie together. Returns how
  // many queries have any.
  SlicedScanFn scan;
  // Distances of the rows that `scan` found for a query: those below `limit`, in order of row.
  // Returns their number.
  int64_t (*resolve)(const uint8_t* codes, int width, const uint8_t* query, const uint64_t* rows,
                     int limit, Hit* hits);
  SlicedCounting counting = {};  // count is null where there is none; needs no limit set
};

struct Kernels {
  const char* name;
  WidthKernels (*for_width)(int width);  // 1 <= width <= kMaxWidth
  SlicedKernels (*sliced)(int width);    // or null: this instruction set has none
};

// Null where the compiler could not build for that instruction set.
const Kernels* serial_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();
SlicedKernels avx2_sliced(int width);  // defined where avx2_kernels() is not null; likewise
SlicedKernels avx512_sliced(int width);
SlicedKernels neon_sliced(int width);

}  // namespace coophash

#endif  // COOPHASH_CPU_KERNELS_H_
