// The contract of packed-bit search: exact, in Hamming space, on plain pointers.
//
// Codes are rows of `width` bytes, one after another, with no padding between rows. Bit j of a code
// is bit j % 8 of byte j / 8; spare bits of the last byte are 0 in every code. No alignment is
// asked for. A distance is the number of differing bits, so it lies in 0 .. 8 * width.
//
// The tie rule. Results are ordered by (distance, id), and where the k-th place is shared by
// several rows at one distance, those of the smallest ids are taken. So a result is one value,
// whatever the instruction set, the number of threads and the way in which the work was split.
//
// Nothing here knows of Python. Errors are C++ exceptions; std::bad_alloc is one of them. Sizes and
// pointers are trusted: bindings.cpp checks them.

#ifndef COOPHASH_HAMMING_H_
#define COOPHASH_HAMMING_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace coophash {

inline constexpr int kMaxWidth = 512;              // bytes of a code: 4096 bits
inline constexpr int32_t kNoDistance = INT32_MAX;  // where there are fewer than k rows
inline constexpr int64_t kNoId = -1;

// A run of database rows that lie together in memory.
struct Span {
  const uint8_t* codes;   // (rows, width)
  const int64_t* ids;     // (rows,), each >= 0, or null: row r has the id first_id + r
  const uint64_t* allow;  // (ceil(rows / 64),): row r counts if bit r % 64 of word r / 64 is set;
                          // null: all rows count. Bits past the last row are 0.
  int64_t rows;
  int64_t first_id;
};

struct Database {
  std::vector<Span> spans;
  int width;        // bytes of a code, 1 .. kMaxWidth
  bool increasing;  // ids grow from row to row and from span to span. Then a row met later never
                    // wins a tie, and the scan drops it on its distance alone
};

struct Queries {
  const uint8_t* codes;  // (count, width)
  int64_t count;
};

struct Kernels;  // the inner loops of one instruction set, see cpu/kernels.h

// The instruction set called `name`; "" is the fastest of this machine. Throws
// std::invalid_argument if there is none of that name, std::runtime_error with the reason if it
// cannot run here.
const Kernels& kernels(const std::string& name);

// The instruction sets that the project knows, fastest first, each with why it cannot run here, or
// with "" if it can.
struct IsaStatus {
  std::string name;
  std::string missing;
};
std::vector<IsaStatus> isas();

// How a flat search goes: row by row; by bit slices of many rows at once for a batch of queries
// (cpu/sliced_impl.h); or by counting all distances first, for large k (cpu/ranking.h). The result
// is the same. kAuto takes the cheapest.
enum class Path { kAuto, kRows, kSlices, kRank };

// The k nearest rows to each query.
//   distances (queries, k), ids (queries, k): sorted by (distance, id); where the database has
//   fewer than k rows the rest is kNoDistance, kNoId.
void topk(const Database& database, const Queries& queries, int64_t k, int threads,
          const Kernels& kernels, int32_t* distances, int64_t* ids, Path path = Path::kAuto);

// All rows at distance <= radius, for each query in compressed rows: those of query q are entries
// limits[q] .. limits[q + 1] - 1, sorted by (distance, id). In two steps, so that the caller knows
// how much there is before there is memory for it; database and queries must outlive both.
class RangeSearch {
 public:
  RangeSearch(const Database& database, const Queries& queries, int radius, int threads,
              const Kernels& kernels);
  ~RangeSearch();
  const std::vector<int64_t>& limits() const;   // (queries + 1,)
  void fill(int32_t* distances, int64_t* ids);  // (limits.back(),); to be called once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The same in one step.
struct RangeResult {
  std::vector<int64_t> limits;  // (queries + 1,)
  std::vector<int32_t> distances;
  std::vector<int64_t> ids;
};
RangeResult range(const Database& database, const Queries& queries, int radius, int threads,
                  const Kernels& kernels);

// Multi-index hashing (Norouzi, Punjani, Fleet 2014): tables by substrings of the codes, so that a
// search looks at those codes alone that agree with the query in most of some substring. The
// results are those of the flat search, bit for bit: it stops when what was not seen is proven to
// be farther, and takes the flat search where that would cost more.
//
// A MultiIndex holds tables over the rows at places first .. last - 1 of a database, where the
// place of a row is its number counted over all spans. It never changes, and holds neither ids nor
// filters nor anything of the spans that it was built from: those are given to each search, which
// must have the same codes and ids at these places. Rows that the filter of the build leaves out
// must be left out by the filter of each search too.
class MultiIndex;

// first and last: the begin or end of a span, or a multiple of 64 rows from its begin; last - first
// < 2^32. bits: length of a code. substrings: how many, -1 to choose; tables are not built, and the
// index holds nothing, where they cannot pay.
std::shared_ptr<const MultiIndex> build_multi_index(const Database& database, int64_t first,
                                                    int64_t last, int bits, int substrings,
                                                    int threads, const Kernels& kernels);

struct MultiIndexInfo {
  int64_t bytes;
  int64_t rows;                 // in its tables; 0 if it holds nothing
  int64_t groups;               // different codes
  std::vector<int> substrings;  // bits of each; none: different codes are compared one by one
};
MultiIndexInfo describe(const MultiIndex& index);

// What a search did.
struct MultiSearchCounts {
  int64_t queries;
  int64_t flat;      // queries that were answered by the flat search
  int64_t buckets;   // looked up
  int64_t compared;  // codes in them
};

// As topk and RangeSearch. indexes: for parts of the database that do not overlap, in order of
// place; what they do not cover is searched flat. `scale` is by how much a query may cost more than
// a flat search before it is given to one: 1, or infinity for never and 0 for always, for tests.
void topk(const Database& database, const std::vector<const MultiIndex*>& indexes,
          const Queries& queries, int64_t k, int threads, const Kernels& kernels, double scale,
          int32_t* distances, int64_t* ids, MultiSearchCounts& counts);

class MultiRangeSearch {
 public:
  MultiRangeSearch(const Database& database, const std::vector<const MultiIndex*>& indexes,
                   const Queries& queries, int radius, int threads, const Kernels& kernels,
                   double scale, MultiSearchCounts& counts);
  ~MultiRangeSearch();
  const std::vector<int64_t>& limits() const;
  void fill(int32_t* distances, int64_t* ids);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Labels that say which rows are relevant to which query, in one of two forms; the other is null.
// Those of a row are found by its id: ids must be 0 .. rows - 1.
struct Relevance {
  // One class each. Relevant: the same class.
  const int32_t* row_classes = nullptr;    // (rows,)
  const int32_t* query_classes = nullptr;  // (queries,)
  // Any number of labels each, as bits of 16-bit words. Relevant: a bit in common; its grade is
  // the number of bits in common, or grades - 1 if there are more.
  const uint16_t* row_labels = nullptr;    // (words, rows)
  const uint16_t* query_labels = nullptr;  // (queries, words)
  int words = 0;
  int grades = 2;  // 2 if it only matters whether a row is relevant; with classes always
  int64_t rows = 0;
};

// How many rows lie at each distance from each query, and how many of them are relevant.
//   total (queries, bins): total[q][d], d = 0 .. bins - 1; bins >= 8 * width + 1 or every distance
//   that occurs is below it.
//   relevant (queries, bins, grades - 1): entry [q][d][g - 1] counts the rows of grade g; not
//   written without a relevance. bins * grades <= 65536.
void histogram(const Database& database, const Queries& queries, const Relevance* relevance,
               int bins, int threads, const Kernels& kernels, int64_t* total, int64_t* relevant);

// All distances, (queries, rows): for small things. Row filters are not looked at.
void distances(const uint8_t* codes, int64_t rows, const Queries& queries, int width, int threads,
               const Kernels& kernels, int32_t* out);

// Reads memory as fast as it goes and returns the XOR of it: what a benchmark of a search for one
// query is compared with.
uint64_t read_memory(const uint64_t* words, int64_t count, int threads);

}  // namespace coophash

#endif  // COOPHASH_HAMMING_H_
