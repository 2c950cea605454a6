// Codes as one-bit matrices, for tensor cores that can AND and count.
//
// A row of the matrix product's left side is [b, ~b] of a code, a column of its right side [q, ~q]
// of a query: pop(b & q) + pop(~b & ~q) = bits - distance. What is added to that makes one bit of
// the sum say whether distance <= limit:
//
//   up to 64 bits   128 bits of a step of 256 are left over. They are ones for a code; for a query
//                   128 - (bits - limit) of them are. The sum is 128 + limit - distance, from 63
//                   to 192: bit 7 is set if and only if distance <= limit.
//   from 128 bits   sums start at 2^B - (bits - limit) with 2^B > bits. They end at
//                   2^B + limit - distance, above 0 and below 2^(B + 1): bit B likewise.
//
// limit lies in -1 .. bits; -1 is for a query that takes nothing.
//
// Fragments, as the PTX ISA defines them for mma.m16n8k256 and, for the left side, for each warp of
// wgmma.m64nNk256: lane 4 g + t holds of row g (of column g) bits 32 t to 32 t + 31, "half 0", and
// 128 + 32 t to 128 + 32 t + 31, "half 1". Which bit of a code stands where is free, as long as
// both sides agree: with S steps of 256 bits, lane t holds the words S t + s for s < S, which lie
// together in memory.

#ifndef COOPHASH_CUDA_ENCODE_H_
#define COOPHASH_CUDA_ENCODE_H_

#include <cstdint>

#include "portable.h"

namespace coophash::gpu {

// Of codes of `words` 32-bit words: 1, 2, 4, 8, 16.
COOPHASH_HD constexpr int encoded_steps(int words) { return words <= 4 ? 1 : words / 4; }
COOPHASH_HD constexpr bool has_spare_bits(int words) { return words <= 2; }

// The bit of a sum that says distance <= limit.
COOPHASH_HD constexpr int hit_bit(int words) {
  return words <= 2 ? 7 : words == 4 ? 8 : words == 8 ? 9 : 10;
}

// What sums start from.
COOPHASH_HD int initial_sum(int words, int limit) {
  return has_spare_bits(words) ? 0 : (1 << hit_bit(words)) - (32 * words - limit);
}

// Which word of a code lane t holds in step s, and with which bits flipped: of half 0 as
// half_word() ^ half_flip(); where half_word() is -1 there is none, and the bits are half_flip().
COOPHASH_HD int half_word(int words, int step, int t) {
  if (words >= 4) return encoded_steps(words) * t + step;
  return words == 2 ? t & 1 : t < 2 ? 0 : -1;
}
COOPHASH_HD uint32_t half_flip(int words, int t) {
  if (words >= 4) return 0;
  return words == 2 ? (t < 2 ? 0u : ~0u) : (t == 1 ? ~0u : 0u);
}

// Half 0 from the word that half_word() names.
COOPHASH_HD uint32_t first_half(int words, int t, uint32_t word) {
  const uint32_t none = half_word(words, 0, t) < 0 ? 0u : word;
  return none ^ half_flip(words, t);
}

// Half 1 of a code: what half 0 is not, or ones to be met by a query's threshold.
COOPHASH_HD uint32_t second_half_of_code(int words, uint32_t half0) {
  return has_spare_bits(words) ? ~0u : ~half0;
}

// Half 1 of a query: likewise, or its threshold, with as many ones in the four lanes together as
// the limit asks for.
COOPHASH_HD uint32_t second_half_of_query(int words, int t, uint32_t half0, int limit) {
  if (!has_spare_bits(words)) return ~half0;
  const int ones = 128 - (32 * words - limit) - 32 * t;
  return ones <= 0 ? 0u : ones >= 32 ? ~0u : (1u << ones) - 1;
}

// Where wgmma wants half h of column n of step s: byte offset of its 16 bytes in shared memory. No
// swizzling: 8 columns make a matrix of 128 bytes; the two halves of a step lie one after another.
inline constexpr int kHalfStride = 128;   // "leading dimension byte offset"
inline constexpr int kGroupStride = 256;  // "stride dimension byte offset": the next 8 columns
COOPHASH_HD int shared_offset(int columns, int step, int half, int n) {
  return ((step * columns / 8 + n / 8) * 2 + half) * kHalfStride + n % 8 * 16;
}

// The descriptor of a matrix in shared memory at a byte address, in that layout.
COOPHASH_HD uint64_t shared_descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(kHalfStride >> 4) << 16 |
         static_cast<uint64_t>(kGroupStride >> 4) << 32;
}

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_ENCODE_H_
