// The loops over rows, shared by all instruction sets: include it in one translation unit of each.
//
// A `Step` is what an instruction set adds: the distances of a few rows at once.
//
//   struct Step {
//     static constexpr int kRows;              rows of one step
//     static constexpr int kWidth;             bytes of a code, or 0: known only at run time
//     Step(const uint8_t* query, int width);
//     int reach() const;                       bytes read from the first of the kRows rows on
//     struct Distances {
//       bool any_below(Limit) const;           some distance is < limit
//       void store(uint16_t* out) const;       all kRows of them
//     };
//     Distances operator()(const uint8_t* codes) const;
//     static Limit limit(int value);           `value` in the form that any_below compares with
//   };
//
// All of it is in an unnamed namespace, and nothing here or in the including files calls an inline
// function of the standard library: such a function is emitted once per translation unit under one
// name, and the linker may keep the copy that was compiled for an instruction set which the machine
// lacks.

#ifndef COOPHASH_CPU_HAMMING_IMPL_H_
#define COOPHASH_CPU_HAMMING_IMPL_H_

#include <cstdint>

#include "kernels.h"

namespace coophash {
namespace {

template <class Word>
inline Word load(const uint8_t* bytes) {
  Word word;
  __builtin_memcpy(&word, bytes, sizeof(word));
  return word;
}

#ifdef __POPCNT__
inline uint32_t popcount(uint64_t x) { return static_cast<uint32_t>(__builtin_popcountll(x)); }
#else
// Sums of 1, 2, 4 and then 8 neighbouring bits, and the sum of the bytes by one multiplication.
inline uint32_t popcount(uint64_t x) {
  x -= (x >> 1) & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<uint32_t>((x * 0x0101010101010101u) >> 56);
}
#endif

// The reference: the distance of two codes, eight bytes at a time, then four, then one.
inline uint32_t row_distance(const uint8_t* a, const uint8_t* b, int width) {
  uint32_t sum = 0;
  int i = 0;
  for (; i + 8 <= width; i += 8) sum += popcount(load<uint64_t>(a + i) ^ load<uint64_t>(b + i));
  uint64_t rest = 0;
  if (i + 4 <= width) {
    rest = load<uint32_t>(a + i) ^ load<uint32_t>(b + i);
    i += 4;
  }
  for (; i < width; ++i) rest = (rest << 8) | static_cast<uint8_t>(a[i] ^ b[i]);
  return sum + popcount(rest);
}

// The steps that fit before `rows` ends, counting the bytes that a step reads beyond its own rows.
template <class Step>
inline int64_t full_steps(const Step& step, int64_t rows, int64_t stride) {
  const int64_t spare = rows * stride - step.reach();
  return spare < 0 ? 0 : spare / (Step::kRows * stride) + 1;
}

template <class Step>
int64_t scan_rows(const uint8_t* codes, int64_t rows, int width, const uint8_t* query, int limit,
                  Hit* hits) {
  static_assert(Step::kRows <= kHitSlack, "a step may write all its rows past the last hit");
  const int64_t stride = Step::kWidth ? Step::kWidth : width;
  const Step step(query, width);
  const auto bound = Step::limit(limit);
  Hit* end = hits;
  const int64_t vector_rows = full_steps(step, rows, stride) * Step::kRows;
  int64_t row = 0;
  for (; row < vector_rows; row += Step::kRows) {
    const auto found = step(codes + row * stride);
    if (__builtin_expect(found.any_below(bound), 0)) {
      uint16_t distance[Step::kRows];
      found.store(distance);
      for (int i = 0; i < Step::kRows; ++i) {  // no branch: which rows pass cannot be foretold
        *end = {static_cast<uint32_t>(row + i), distance[i]};
        end += distance[i] < limit;
      }
    }
  }
  for (; row < rows; ++row) {
    const uint32_t distance = row_distance(codes + row * stride, query, static_cast<int>(stride));
    *end = {static_cast<uint32_t>(row), distance};
    end += static_cast<int>(distance) < limit;
  }
  return end - hits;
}

template <class Step>
void row_distances(const uint8_t* codes, int64_t rows, int width, const uint8_t* query,
                   uint16_t* out) {
  const int64_t stride = Step::kWidth ? Step::kWidth : width;
  const Step step(query, width);
  const int64_t vector_rows = full_steps(step, rows, stride) * Step::kRows;
  int64_t row = 0;
  for (; row < vector_rows; row += Step::kRows) step(codes + row * stride).store(out + row);
  for (; row < rows; ++row) {
    out[row] =
        static_cast<uint16_t>(row_distance(codes + row * stride, query, static_cast<int>(stride)));
  }
}

template <class Step>
constexpr WidthKernels width_kernels() {
  return {&scan_rows<Step>, &row_distances<Step>};
}

}  // namespace
}  // namespace coophash

#endif  // COOPHASH_CPU_HAMMING_IMPL_H_
