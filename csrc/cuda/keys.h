// Keys: a distance and a place in one number, ordered as results are.
//
// The place of a row is its number counted over all spans of the database. Ids grow with places on
// the device (coophash/_cuda_rows.py sees to that), so that the order by (distance, place) is that
// by (distance, id).

#ifndef COOPHASH_CUDA_KEYS_H_
#define COOPHASH_CUDA_KEYS_H_

#include <cstdint>

#include "portable.h"

namespace coophash::gpu {

using Key = unsigned long long;

inline constexpr int kPlaceBits = 48;
inline constexpr Key kPlaceMask = (Key{1} << kPlaceBits) - 1;
inline constexpr Key kNoBound = ~Key{0};  // above every key

COOPHASH_HD Key make_key(int distance, int64_t place) {
  return static_cast<Key>(distance) << kPlaceBits | static_cast<Key>(place);
}
COOPHASH_HD int distance_of(Key key) { return static_cast<int>(key >> kPlaceBits); }
COOPHASH_HD int64_t place_of(Key key) { return static_cast<int64_t>(key & kPlaceMask); }

// The greatest distance that a key below `bound` can have, at most `bits`; -1 if there is none.
COOPHASH_HD int limit_of(Key bound, int bits) {
  if (bound == 0) return -1;
  const int limit = distance_of(bound - 1);
  return limit < bits ? limit : bits;
}

// The bound that leaves out everything at `distance` and beyond: rows that come later, at the
// distance of the k-th, never win a tie.
COOPHASH_HD Key bound_below(int distance) { return make_key(distance, 0); }

// Ties are counted by bins of places: kTieBins over all rows of a search, each of 2^shift of them.
inline constexpr int kTieBins = 1024;
COOPHASH_HD int tie_shift(int64_t rows) {
  int shift = 0;
  while ((rows - 1) >> shift >= kTieBins) ++shift;
  return shift;
}

// How many rows of a database the next round takes, when `seen` were taken and `rows` are left. In
// random order at most some k * (growth - 1) rows of a round come before the k-th of those seen.
// The first round keeps all of its rows and must fit.
struct Rounds {
  int64_t first;
  int growth;
};
inline constexpr int64_t kRoundRows = 512;  // rounds end at multiples: whole tiles and filter words

COOPHASH_HD int64_t capacity_for(int64_t k) {
  int64_t capacity = 4096;
  while (capacity < 16 * k) capacity *= 2;
  return capacity;
}
COOPHASH_HD Rounds rounds_for(int64_t k, int64_t capacity) {
  Rounds rounds;
  rounds.first = (capacity - k) / kRoundRows * kRoundRows;
  const int64_t growth = k ? (capacity - k) / (2 * k) : 64;
  rounds.growth = static_cast<int>(growth < 2 ? 2 : growth > 64 ? 64 : growth);
  return rounds;
}
COOPHASH_HD int64_t next_round(const Rounds& rounds, int64_t seen, int64_t rows) {
  int64_t size = seen == 0 ? rounds.first : seen * (rounds.growth - 1);
  size = (size + kRoundRows - 1) / kRoundRows * kRoundRows;
  return size < rows ? size : rows;
}

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_KEYS_H_
