// What multi-index hashing keeps in memory.
//
// Equal codes form a group: codes that were learned collapse, and a group costs no more than a code
// until its rows are asked for. Groups are numbered by rank; a code has the rank of its group.
//
// A table cuts one substring of some 10 to 24 bits out of the code and holds the groups bucket by
// bucket, a bucket for each value of the substring.
//   Narrow codes, up to 64 bits: an entry is the rest of the code, the bits outside the substring,
//   in whole bytes. Codes are read in one run for each bucket, and nothing is looked up. Ranks are
//   in the order of table 0, so the rank of a code is found by bisecting a bucket of it.
//   Wide codes: an entry is a rank, and the codes stand in a table of their own.

#ifndef COOPHASH_CPU_MIH_LAYOUT_H_
#define COOPHASH_CPU_MIH_LAYOUT_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../hamming.h"
#include "memory.h"

namespace coophash {

inline constexpr int kNarrow = 8;              // bytes of a code that is one word
inline constexpr int kMostSubstringBits = 24;  // 64 MiB of offsets
inline constexpr int kMostSubstrings = 16;
inline constexpr int kMostTableBits = 512;  // wider codes are not given tables
inline constexpr int kSlack = 64;           // bytes behind arrays that vectors may read

// Bits first .. first + bits - 1 of a code.
struct Substring {
  int first;
  int bits;

  uint32_t mask() const { return (uint32_t{1} << bits) - 1; }
  uint32_t of(uint64_t word) const { return static_cast<uint32_t>(word >> first) & mask(); }
  // The word without the substring, bits above it moved down, and the way back.
  uint64_t strip(uint64_t word) const { return low(word) | (word >> first >> bits) << first; }
  uint64_t join(uint64_t rest, uint32_t value) const {
    return low(rest) | uint64_t{value} << first | (rest >> first) << first << bits;
  }

 private:
  uint64_t low(uint64_t word) const { return word & ((uint64_t{1} << first) - 1); }
};

inline uint64_t load_word(const uint8_t* code, int width) {
  uint64_t word = 0;
  std::memcpy(&word, code, static_cast<size_t>(width));
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// The substring of a code of any width.
inline uint32_t substring_of(const uint8_t* code, int width, Substring part) {
  const int byte = part.first / 8;
  const uint64_t word = load_word(code + byte, width - byte < 8 ? width - byte : 8);
  return Substring{part.first % 8, part.bits}.of(word);
}

// All values of `bits` bits, by number of bits set and then by value.
struct Masks {
  std::vector<uint32_t> values;
  std::vector<uint32_t> begin;  // those with r bits set: begin[r] .. begin[r + 1] - 1
  int radius() const { return static_cast<int>(begin.size()) - 2; }  // the largest there is
};
const Masks& masks_of(int bits);  // made once; up to about 2^18 values, so not always all radii

struct Table {
  Substring part;
  int entry_bytes;
  const Masks* masks;
  Buffer<uint32_t> offsets;  // (2^bits + 1,): bucket v is entries offsets[v] .. offsets[v + 1] - 1
  Buffer<uint8_t> entries;   // (groups * entry_bytes + kSlack,)
};

// Which searches were given up lately, so that not every one of a hopeless kind begins with a
// trial: after eight in a row one of eight is tried, until one succeeds. Results do not depend on
// it.
class History {
 public:
  // kinds: what searches have in common, by k or radius and by the size of the batch.
  static constexpr size_t kKinds = 128;

  bool hopeless(size_t kind) {
    std::atomic<uint32_t>& failures = failures_[kind];
    const uint32_t now = failures.load(std::memory_order_relaxed);
    if (now < kEnough || now % kEnough == 0) return false;
    failures.store(now + 1, std::memory_order_relaxed);  // one lost to another thread is no harm
    return true;
  }
  void note(size_t kind, bool succeeded) {
    std::atomic<uint32_t>& failures = failures_[kind];
    const uint32_t now = failures.load(std::memory_order_relaxed);
    failures.store(succeeded ? 0 : now < 1 << 30 ? now + 1 : kEnough, std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kEnough = 8;

  std::array<std::atomic<uint32_t>, kKinds> failures_{};
};

class MultiIndex {
 public:
  int bits;
  int width;
  int64_t first;  // places of the database that it covers: first .. last - 1
  int64_t last;
  int64_t groups = 0;
  std::vector<Table> tables;  // none: few groups, or tables do not pay; then `codes` is scanned
  Buffer<uint8_t> codes;      // (groups, width) by rank, and slack; empty for narrow with tables
  Buffer<uint32_t> starts;    // (groups + 1,) into rows; empty: each group is one row
  Buffer<uint32_t> rows;      // places - first, by rank and then by id
  mutable History history;    // of searches in which this is the first index

  bool narrow() const { return width <= kNarrow; }
  // It holds nothing: a flat search of its rows is as good.
  bool plain() const { return rows.empty(); }
  int64_t group_begin(int64_t rank) const { return starts.empty() ? rank : starts[rank]; }
  int64_t group_end(int64_t rank) const { return starts.empty() ? rank + 1 : starts[rank + 1]; }
  int64_t bytes() const;
  // Rank of a narrow code that is known to be here.
  int64_t rank_of(uint64_t word) const;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_LAYOUT_H_
