// Histograms by bit slices: include it after sliced_impl.h, in the same translation units.
//
// Adding up what a query takes from the tables gives the binary digits of all distances of a group,
// a plane each. The rows at one distance are those where every plane has the right bit: they are
// found by halving, from the highest digit down, and a half that is empty is left at once.
// Distances of a query lie close together, and those of learned codes are few, so most halves are
// empty.
//
//   struct Ops {                                        beside those of sliced_impl.h
//     static Vector and_not(Vector a, Vector b);        ~a & b
//     static bool any(Vector);
//     static constexpr int kMostGroups;                 whose counts fit together into a Vector
//     static Vector count(Vector);                      bits, in lanes of some size
//     static Vector add_counts(Vector, Vector);
//     static int64_t sum_counts(Vector);
//     static uint32_t equal(const uint16_t*, uint16_t);   bit i: number i of 32 is equal
//     static uint32_t shared(const uint16_t*, uint16_t);  bit i: number i of 32 has a bit of it
//   };

#ifndef COOPHASH_CPU_COUNTING_IMPL_H_
#define COOPHASH_CPU_COUNTING_IMPL_H_

#include <cstdint>

#include "kernels.h"
#include "sliced_impl.h"

namespace coophash {
namespace {

constexpr int kLeaves = 4;       // distances that are told apart without a test
constexpr int kInlineLevel = 5;  // digits of what is unrolled; above it are calls

// The counts of one query, by distance: those of all rows and those of the relevant ones. All are 0
// between two calls.
template <class Ops>
struct Leaves {
  using Vector = typename Ops::Vector;
  Leaves(uint8_t* workspace, int distances)
      : totals(workspace),
        hits(workspace + int64_t{distances} * Ops::kBytes),
        seen(workspace + int64_t{2} * distances * Ops::kBytes) {}

  static void add(uint8_t* counts, int distance, Vector rows) {
    uint8_t* const at = counts + int64_t{distance} * Ops::kBytes;
    Ops::store(at, Ops::add_counts(Ops::load(at), Ops::count(rows)));
  }
  static int64_t take(uint8_t* counts, int distance) {
    uint8_t* const at = counts + int64_t{distance} * Ops::kBytes;
    const int64_t sum = Ops::sum_counts(Ops::load(at));
    Ops::store(at, Ops::fill(0));
    return sum;
  }

  uint8_t* totals;
  uint8_t* hits;
  uint8_t* seen;  // whether there is something in each kLeaves of them
};

// Counts `rows`, whose distances agree with `distance` in the digits from Level on.
template <class Ops, int Level, bool Split>
[[gnu::always_inline]] inline void halve(const typename Ops::Vector* digits,
                                         typename Ops::Vector rows, typename Ops::Vector relevant,
                                         int distance, const Leaves<Ops>& leaves);

template <class Ops, int Level, bool Split>
[[gnu::noinline]] void halve_apart(const typename Ops::Vector* digits,
                                   const typename Ops::Vector* rows,
                                   const typename Ops::Vector* relevant, int distance,
                                   const Leaves<Ops>& leaves) {
  halve<Ops, Level, Split>(digits, *rows, *relevant, distance, leaves);
}

// Two digits are left: halves of rows by digit 1.
template <class Ops>
[[gnu::always_inline]] inline void count_leaves(typename Ops::Vector digit,
                                                typename Ops::Vector low, typename Ops::Vector high,
                                                int distance, uint8_t* counts) {
  static_assert(kLeaves == 4, "two digits");
  Leaves<Ops>::add(counts, distance, Ops::and_not(digit, low));
  Leaves<Ops>::add(counts, distance + 1, Ops::and_(digit, low));
  Leaves<Ops>::add(counts, distance + 2, Ops::and_not(digit, high));
  Leaves<Ops>::add(counts, distance + 3, Ops::and_(digit, high));
}

template <class Ops, int Level, bool Split>
[[gnu::always_inline]] inline void halve(const typename Ops::Vector* digits,
                                         typename Ops::Vector rows, typename Ops::Vector relevant,
                                         int distance, const Leaves<Ops>& leaves) {
  using Vector = typename Ops::Vector;
  const Vector high = Ops::and_(digits[Level - 1], rows);
  const Vector low = Ops::and_not(digits[Level - 1], rows);
  if constexpr (Level == 2) {
    leaves.seen[distance / kLeaves] = 1;
    count_leaves<Ops>(digits[0], low, high, distance, leaves.totals);
    if constexpr (Split) {  // relevant rows stand among the near ones, if the codes are any good
      if (Ops::any(Ops::and_(rows, relevant))) {
        count_leaves<Ops>(digits[0], Ops::and_(low, relevant), Ops::and_(high, relevant), distance,
                          leaves.hits);
      }
    }
  } else if constexpr (Level - 1 == kInlineLevel) {
    constexpr int kNext = Level - 1;
    if (Ops::any(low)) {
      halve_apart<Ops, kNext, Split>(digits, &low, &relevant, distance, leaves);
    }
    if (Ops::any(high)) {
      halve_apart<Ops, kNext, Split>(digits, &high, &relevant, distance + (1 << kNext), leaves);
    }
  } else {
    constexpr int kNext = Level - 1;
    if (Ops::any(low)) halve<Ops, kNext, Split>(digits, low, relevant, distance, leaves);
    if (Ops::any(high)) {
      halve<Ops, kNext, Split>(digits, high, relevant, distance + (1 << kNext), leaves);
    }
  }
}

// The parity of a query's bits.
inline uint32_t query_parity(const uint8_t* record, int nodes) {
  const uint32_t last = record[nodes - 1] / 8;  // parity before it, and its two bits
  return (last ^ last >> 1 ^ last >> 2) & 1;
}

// All digits of the distances: digits (Width <= 16: digit_count + 2).
template <class Ops, int Width>
[[gnu::always_inline]] inline void add_up(const uint8_t* table, const uint8_t* record, int width,
                                          typename Ops::Vector* digits) {
  using Vector = typename Ops::Vector;
  if constexpr (Width > 0) {
    constexpr int kDigits = digit_count(Width);
    for (int i = 1; i <= kDigits; ++i) digits[i] = Ops::fill(0);
    digits[kDigits + 1] = add_nodes<Ops, kDigits, node_count(Width)>(table, record, digits + 1);
  } else {  // -Width digits more than those of a slab
    constexpr int kLow = log2_up(kSlab);
    constexpr int kHigh = -Width;
    for (int i = 1; i <= kLow + kHigh + 1; ++i) digits[i] = Ops::fill(0);
    const int nodes = node_count(width);
    for (int node = 0; node < nodes; node += kSlab) {
      Vector carry = add_nodes<Ops, kLow, kSlab>(table + int64_t{node} * kVariants * Ops::kBytes,
                                                 record + node, digits + 1);
      for (int i = kLow + 1; i <= kLow + kHigh + 1; ++i) {
        const Vector next = Ops::and_(digits[i], carry);
        digits[i] = Ops::xor_(digits[i], carry);
        carry = next;
      }
    }
  }
}

template <int Width>
constexpr int plane_count() {
  return Width > 0 ? digit_count(Width) + 2 : log2_up(kSlab) - Width + 2;
}

// As SlicedCounting::count. Width: bytes of a code, or minus the digits that long codes have more
// than a slab.
template <class Ops, int Width, bool Split>
void count_groups(const uint8_t* tables, int groups, const uint8_t* record, int width, int bins,
                  const uint64_t* relevant, uint8_t* workspace, int64_t* total, int64_t* hits) {
  using Vector = typename Ops::Vector;
  constexpr int kPlanes = plane_count<Width>();
  const Leaves<Ops> leaves(workspace, 1 << kPlanes);
  const int nodes = node_count(width);
  const int64_t table_bytes = int64_t{nodes} * kVariants * Ops::kBytes + Ops::kBytes;
  const Vector flip = Ops::fill(query_parity(record, nodes) ? ~0u : 0u);
  const Vector all = Ops::fill(~0u);
  for (int group = 0; group < groups; ++group) {
    const uint8_t* const table = tables + group * table_bytes;
    Vector digits[kPlanes];
    add_up<Ops, Width>(table, record, width, digits);
    digits[0] = Ops::xor_(flip, Ops::load(table + table_bytes - Ops::kBytes));
    const Vector mask =
        Split ? Ops::load(reinterpret_cast<const uint8_t*>(relevant) + group * Ops::kBytes) : all;
    halve<Ops, kPlanes, Split>(digits, all, mask, 0, leaves);
  }
  for (int first = 0; first < bins; first += kLeaves) {
    if (!leaves.seen[first / kLeaves]) continue;
    leaves.seen[first / kLeaves] = 0;
    for (int distance = first; distance < first + kLeaves && distance < bins; ++distance) {
      total[distance] += leaves.take(leaves.totals, distance);
      if (Split) hits[distance] += leaves.take(leaves.hits, distance);
    }
  }
}

template <class Ops, int Width>
void count_either(const uint8_t* tables, int groups, const uint8_t* record, int width, int bins,
                  const uint64_t* relevant, uint8_t* workspace, int64_t* total, int64_t* hits) {
  const auto count = relevant ? &count_groups<Ops, Width, true> : &count_groups<Ops, Width, false>;
  count(tables, groups, record, width, bins, relevant, workspace, total, hits);
}

// rows is a multiple of 64.
template <class Ops>
void mark_classes(const uint16_t* classes, int64_t rows, uint16_t wanted, uint64_t* relevant) {
  for (int64_t row = 0; row < rows; row += 64) {
    relevant[row / 64] =
        Ops::equal(classes + row, wanted) | uint64_t{Ops::equal(classes + row + 32, wanted)} << 32;
  }
}

template <class Ops>
void mark_labels(const uint16_t* labels, int64_t stride, const uint16_t* wanted, int words,
                 int64_t rows, uint64_t* relevant) {
  for (int64_t i = 0; i < rows / 64; ++i) relevant[i] = 0;
  for (int word = 0; word < words; ++word) {
    if (!wanted[word]) continue;  // a query has few labels
    const uint16_t* theirs = labels + word * stride;
    for (int64_t row = 0; row < rows; row += 64) {
      relevant[row / 64] |= Ops::shared(theirs + row, wanted[word]) |
                            uint64_t{Ops::shared(theirs + row + 32, wanted[word])} << 32;
    }
  }
}

template <class Ops, int Width>
constexpr SlicedCounting counting_for() {
  constexpr int64_t kDistances = int64_t{1} << plane_count<Width>();
  return {Ops::kMostGroups, 2 * kDistances * Ops::kBytes + kDistances / kLeaves,
          &count_either<Ops, Width>, &mark_classes<Ops>, &mark_labels<Ops>};
}

template <class Ops, int Width>
SlicedCounting short_counting(int width) {
  if constexpr (Width == 0) {
    return {};
  } else {
    return width == Width ? counting_for<Ops, Width>() : short_counting<Ops, Width - 1>(width);
  }
}

template <class Ops>
SlicedCounting sliced_counting(int width) {
  switch (digit_count(width) - log2_up(kSlab)) {
    case 1:
      return counting_for<Ops, -1>();
    case 2:
      return counting_for<Ops, -2>();
    default:
      return short_counting<Ops, 16>(width);
  }
}

}  // namespace
}  // namespace coophash

#endif  // COOPHASH_CPU_COUNTING_IMPL_H_
