// How a warp reads codes: in vectors of 16 bytes, one a lane, as they lie in memory.
//
// A vector holds 4 codes of 32 bits, 2 of 64 bits, or one code of up to 128 bits; a longer code is
// spread over 2, 4, ... 32 lanes. A warp takes kVectors vectors a lane at a time, a "tile" of rows.
// Row `first + ((32 j + lane) / lanes) * per_vector + r` is code r of vector j of a lane.

#ifndef COOPHASH_CUDA_LAYOUT_H_
#define COOPHASH_CUDA_LAYOUT_H_

#include <cstdint>

#include "portable.h"

namespace coophash::gpu {

inline constexpr int kVectorBytes = 16;
inline constexpr int kVectors = 4;

// Rows of one span, as a kernel gets them.
struct Rows {
  const uint8_t* codes;   // (count, width)
  const uint64_t* allow;  // (ceil(count / 64),) or null
  int64_t count;
  int64_t begin, end;   // those to look at; begin is a multiple of kRoundRows
  int64_t first_place;  // the place of row 0
  int width;
};

// Lanes that share a code: a power of 2.
COOPHASH_HD int lanes_of(int width) {
  int lanes = 1;
  while (lanes * kVectorBytes < width) lanes *= 2;
  return lanes;
}

// Codes in a vector, where codes are aligned to 16 bytes.
COOPHASH_HD int per_vector(int width) { return width == 4 ? 4 : width == 8 ? 2 : 1; }

COOPHASH_HD int64_t tile_rows(int lanes, int per_vector) {
  return kVectors * kLanes / lanes * per_vector;  // in 32 bits: a GPU has no 64-bit division
}

// The row of the first code of a vector, counted from that of the tile.
COOPHASH_HD int row_in_tile(int vector, int lane, int lanes, int per_vector) {
  return (vector * kLanes + lane) / lanes * per_vector;
}

// Whether whole vectors may be read: `codes` at a multiple of 16 bytes, and each code as well, or
// several in one vector.
COOPHASH_HD bool reads_vectors(const uint8_t* codes, int width) {
  return reinterpret_cast<uintptr_t>(codes) % kVectorBytes == 0 &&
         (width % kVectorBytes == 0 || width == 4 || width == 8);
}

// The word at a multiple of 4 bytes, with 0 for what lies outside of begin .. end.
COOPHASH_HD uint32_t word_within(const uint8_t* at, const uint8_t* begin, const uint8_t* end) {
  if (at >= begin && at + 4 <= end) return *reinterpret_cast<const uint32_t*>(at);
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    if (at + i >= begin && at + i < end) word |= uint32_t{at[i]} << (8 * i);
  }
  return word;
}

// The low half of high:low >> shift, shift < 32.
COOPHASH_HD uint32_t shift_words(uint32_t low, uint32_t high, int shift) {
#ifdef __CUDA_ARCH__
  return __funnelshift_r(low, high, shift);
#else
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> shift);
#endif
}

// `bytes` bytes, 1 to 16, from any address, and zeros behind them. Nothing outside of begin .. end
// is read.
COOPHASH_HD uint4 load_bytes(const uint8_t* at, int bytes, const uint8_t* begin,
                             const uint8_t* end) {
  const int off = static_cast<int>(reinterpret_cast<uintptr_t>(at) % 4);
  const uint8_t* aligned = at - off;
  uint32_t words[5], out[4];
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    words[i] = 4 * i < bytes + off ? word_within(aligned + 4 * i, begin, end) : 0;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int there = bytes - 4 * i;  // bytes of this word
    const uint32_t word = shift_words(words[i], words[i + 1], 8 * off);
    out[i] = there >= 4 ? word : there <= 0 ? 0 : word & ((1u << (8 * there)) - 1);
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

COOPHASH_HD bool is_allowed(const uint64_t* allow, int64_t row) {
  return !allow || (allow[row / 64] >> (row % 64) & 1);
}

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_LAYOUT_H_
