// AVX2: bits are counted by looking up both halves of each byte (pshufb), bytes are summed by
// vpsadbw (after Mula, Kurz and Lemire, "Faster population counts using AVX2 instructions", 2018).
//
// A code takes a lane: 4, 8 or 16 bytes, or whole vectors of 32. A code shorter than its lane is
// spread or masked while it is loaded, so all widths share the loops of the power of two above.

#include "hamming_impl.h"

#if defined(__AVX2__)

#include <immintrin.h>

namespace coophash {
namespace {

using Vector = __m256i;

inline Vector load_vector(const uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const Vector*>(bytes));
}

inline Vector load_halves(const uint8_t* low, const uint8_t* high) {
  const __m128i l = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(l), h, 1);
}

// The number of set bits in each byte.
inline Vector byte_counts(Vector x) {
  const Vector table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const Vector low = _mm256_set1_epi8(0x0f);
  const Vector a = _mm256_shuffle_epi8(table, _mm256_and_si256(x, low));
  const Vector b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
  return _mm256_add_epi8(a, b);
}

// Sums of eight neighbouring bytes, as 64-bit numbers.
inline Vector word_sums(Vector bytes) { return _mm256_sad_epu8(bytes, _mm256_setzero_si256()); }

// The `width` bytes of the query, repeated in lanes of `lane` bytes, zeros between.
inline Vector repeat_query(const uint8_t* query, int width, int lane) {
  alignas(32) uint8_t bytes[32] = {};
  for (int i = 0; i < 32; ++i) {
    if (i % lane < width) bytes[i] = query[i % lane];
  }
  return _mm256_load_si256(reinterpret_cast<const Vector*>(bytes));
}

// All bits in the first `width` of every `lane` bytes.
inline Vector lane_mask(int width, int lane) {
  alignas(32) uint8_t bytes[32];
  for (int i = 0; i < 32; ++i) bytes[i] = i % lane < width ? 0xff : 0;
  return _mm256_load_si256(reinterpret_cast<const Vector*>(bytes));
}

// Distances of 4 * Vectors rows as 64-bit numbers; `Order` puts them in order of row.
template <int Vectors, int Order = 0xe4>
struct WordDistances {
  static constexpr int kRows = 4 * Vectors;
  Vector words[Vectors];

  // The upper halves of the 64-bit numbers are 0 on both sides: 32-bit comparison is enough.
  bool any_below(Vector limit) const {
    Vector least = words[0];
    for (int i = 1; i < Vectors; ++i) least = _mm256_min_epi32(least, words[i]);
    const Vector below = _mm256_cmpgt_epi32(limit, least);
    return !_mm256_testz_si256(below, below);
  }
  void store(uint16_t* out) const {
    for (int i = 0; i < Vectors; ++i) {
      alignas(32) uint64_t values[4];
      _mm256_store_si256(reinterpret_cast<Vector*>(values),
                         _mm256_permute4x64_epi64(words[i], Order));
      for (int j = 0; j < 4; ++j) out[4 * i + j] = static_cast<uint16_t>(values[j]);
    }
  }
};

inline Vector word_limit(int value) { return _mm256_set1_epi64x(value); }

// 32 bits: eight codes a vector.
struct Step4 {
  static constexpr int kRows = 32;
  static constexpr int kWidth = 4;

  struct Distances {
    Vector words[4];
    bool any_below(Vector limit) const {
      const Vector least = _mm256_min_epi32(_mm256_min_epi32(words[0], words[1]),
                                            _mm256_min_epi32(words[2], words[3]));
      const Vector below = _mm256_cmpgt_epi32(limit, least);
      return !_mm256_testz_si256(below, below);
    }
    void store(uint16_t* out) const {
      for (int i = 0; i < 4; ++i) {
        alignas(32) uint32_t values[8];
        _mm256_store_si256(reinterpret_cast<Vector*>(values), words[i]);
        for (int j = 0; j < 8; ++j) out[8 * i + j] = static_cast<uint16_t>(values[j]);
      }
    }
  };

  Step4(const uint8_t* query_, int) : query(repeat_query(query_, 4, 4)) {}
  int reach() const { return kRows * kWidth; }
  static Vector limit(int value) { return _mm256_set1_epi32(value); }

  Distances operator()(const uint8_t* codes) const {
    Distances found;
    for (int i = 0; i < 4; ++i) {
      const Vector bytes = byte_counts(_mm256_xor_si256(load_vector(codes + 32 * i), query));
      const Vector pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
      found.words[i] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    return found;
  }

  Vector query;
};

// Up to 64 bits: four codes a vector. Width 0: any width below 8, spread to 8 bytes.
template <int Width>
struct Step8 {
  static constexpr int kRows = 16;
  static constexpr int kWidth = Width;
  using Distances = WordDistances<4>;

  Step8(const uint8_t* query_, int width_) : query(repeat_query(query_, width_, 8)), width(width_) {
    alignas(32) uint8_t index[32];
    for (int i = 0; i < 32; ++i) {
      const int code = i % 16 / 8, byte = i % 8;
      index[i] = static_cast<uint8_t>(byte < width_ ? code * width_ + byte : 0x80);
    }
    spread = _mm256_load_si256(reinterpret_cast<const Vector*>(index));
  }
  int reach() const { return Width ? kRows * Width : 14 * width + 16; }
  static Vector limit(int value) { return word_limit(value); }

  Distances operator()(const uint8_t* codes) const {
    Distances found;
    for (int i = 0; i < 4; ++i) {
      Vector x;
      if (Width == 8) {
        x = load_vector(codes + 32 * i);
      } else {
        const uint8_t* four = codes + 4 * i * width;
        x = _mm256_shuffle_epi8(load_halves(four, four + 2 * width), spread);
      }
      found.words[i] = word_sums(byte_counts(_mm256_xor_si256(x, query)));
    }
    return found;
  }

  Vector query, spread;
  int width;
};

// Up to 128 bits: two codes a vector. Width 0: any width from 9 to 15, masked.
template <int Width>
struct Step16 {
  static constexpr int kRows = 16;
  static constexpr int kWidth = Width;
  using Distances = WordDistances<4, 0xd8>;  // rows 0, 2, 1, 3

  Step16(const uint8_t* query_, int width_)
      : query(repeat_query(query_, width_, 16)), mask(lane_mask(width_, 16)), width(width_) {}
  int reach() const { return Width ? kRows * Width : 15 * width + 16; }
  static Vector limit(int value) { return word_limit(value); }

  Vector halves(const uint8_t* codes) const {
    if (Width == 16) return word_sums(byte_counts(_mm256_xor_si256(load_vector(codes), query)));
    const Vector x = _mm256_and_si256(load_halves(codes, codes + width), mask);
    return word_sums(byte_counts(_mm256_xor_si256(x, query)));
  }

  Distances operator()(const uint8_t* codes) const {
    const int stride = Width ? Width : width;
    Distances found;
    for (int i = 0; i < 4; ++i) {
      const Vector a = halves(codes + 4 * i * stride), b = halves(codes + (4 * i + 2) * stride);
      found.words[i] = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    }
    return found;
  }

  Vector query, mask;
  int width;
};

// Longer codes: whole vectors, the last one masked unless the width is a multiple of 32.
// Vectors 0: as many as the width asks for, up to 16. A byte then holds at most 16 * 8 = 128.
template <int Vectors, bool Whole>
struct StepLong {
  static constexpr int kRows = 8;
  static constexpr int kWidth = Whole ? 32 * Vectors : 0;
  using Distances = WordDistances<2>;

  StepLong(const uint8_t* query_, int width_) : vectors((width_ + 31) / 32), width(width_) {
    for (int i = 0; i < vectors; ++i) {
      const int rest = width_ - 32 * i;
      query[i] = repeat_query(query_ + 32 * i, rest, 32);
      mask = lane_mask(rest, 32);
    }
  }
  int reach() const { return (kRows - 1) * width + 32 * vectors; }
  static Vector limit(int value) { return word_limit(value); }

  Vector row_sums(const uint8_t* code) const {
    const int last = (Vectors ? Vectors : vectors) - 1;
    Vector tail = load_vector(code + 32 * last);
    if (!Whole) tail = _mm256_and_si256(tail, mask);
    Vector bytes = byte_counts(_mm256_xor_si256(tail, query[last]));
    for (int i = 0; i < last; ++i) {
      const Vector x = _mm256_xor_si256(load_vector(code + 32 * i), query[i]);
      bytes = _mm256_add_epi8(bytes, byte_counts(x));
    }
    return word_sums(bytes);
  }

  Distances operator()(const uint8_t* codes) const {
    const int stride = kWidth ? kWidth : width;
    Distances found;
    for (int i = 0; i < 2; ++i) {
      const uint8_t* four = codes + 4 * i * stride;
      const Vector a = row_sums(four), b = row_sums(four + stride);
      const Vector c = row_sums(four + 2 * stride), d = row_sums(four + 3 * stride);
      const Vector ab = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
      const Vector cd = _mm256_add_epi64(_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
      found.words[i] = _mm256_add_epi64(_mm256_permute2x128_si256(ab, cd, 0x20),
                                        _mm256_permute2x128_si256(ab, cd, 0x31));
    }
    return found;
  }

  Vector query[16], mask;
  int vectors, width;
};

WidthKernels for_width(int width) {
  switch (width) {
    case 4:
      return width_kernels<Step4>();
    case 8:
      return width_kernels<Step8<8>>();
    case 16:
      return width_kernels<Step16<16>>();
    case 32:
      return width_kernels<StepLong<1, true>>();
    case 64:
      return width_kernels<StepLong<2, true>>();
    default:
      break;
  }
  if (width < 8) return width_kernels<Step8<0>>();
  if (width < 16) return width_kernels<Step16<0>>();
  if (width < 32) return width_kernels<StepLong<1, false>>();
  if (width < 64) return width_kernels<StepLong<2, false>>();
  return width_kernels<StepLong<0, false>>();
}

}  // namespace

const Kernels* avx2_kernels() {
  static const Kernels kernels = {"avx2", &for_width, &avx2_sliced};
  return &kernels;
}

}  // namespace coophash

#else

namespace coophash {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace coophash

#endif
