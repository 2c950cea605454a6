// AVX-512 with VPOPCNTDQ, BW and VBMI (Intel from Ice Lake, AMD from Zen 4): bits are counted by
// one instruction, and bytes are moved into lanes while they are loaded, under a mask, so that no
// byte outside the rows is read.

#include "hamming_impl.h"

#if defined(__AVX512VPOPCNTDQ__) && defined(__AVX512BW__) && defined(__AVX512VBMI__) && \
    defined(__GFNI__)

#include <immintrin.h>

namespace coophash {
namespace {

using Vector = __m512i;

inline __mmask64 first_bytes(int count) {
  return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

// Loads 64 / Lane codes of `width` <= Lane bytes, each at the start of its lane, zeros behind it.
template <int Lane>
struct LaneLoader {
  explicit LaneLoader(int width) : bytes(first_bytes(64 / Lane * width)), lanes(0) {
    alignas(64) uint8_t order[64];
    for (int i = 0; i < 64; ++i) {
      const int code = i / Lane, byte = i % Lane;
      order[i] = static_cast<uint8_t>(code * width + (byte < width ? byte : 0));
      if (byte < width) lanes |= __mmask64{1} << i;
    }
    index = _mm512_load_si512(order);
  }
  Vector operator()(const uint8_t* codes) const {
    return _mm512_maskz_permutexvar_epi8(lanes, index, _mm512_maskz_loadu_epi8(bytes, codes));
  }
  Vector index;
  __mmask64 bytes, lanes;
};

template <int Lane>
inline Vector repeat_query(const uint8_t* query, int width) {
  alignas(64) uint8_t bytes[64] = {};
  for (int i = 0; i < 64; ++i) {
    if (i % Lane < width) bytes[i] = query[i % Lane];
  }
  return _mm512_load_si512(bytes);
}

// The order of eight rows in a vector, as the reduction that made it leaves them.
enum class Order { kRows, kPairs, kQuads };

inline Vector sort_rows(Vector words, Order order) {
  switch (order) {
    case Order::kPairs:  // 0 4 1 5 2 6 3 7
      return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), words);
    case Order::kQuads:  // 0 4 2 6 1 5 3 7
      return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 2, 6, 1, 5, 3, 7), words);
    default:
      return words;
  }
}

// Distances of 8 * Vectors rows as 64-bit numbers.

template <int Vectors, Order order>
struct WordDistances {
  Vector words[Vectors];

  // The upper halves of the 64-bit numbers are 0 on both sides: 32-bit comparison is enough.
  bool any_below(Vector limit) const {
    Vector least = words[0];
    for (int i = 1; i < Vectors; ++i) least = _mm512_min_epi32(least, words[i]);
    return _mm512_cmplt_epi32_mask(least, limit) != 0;
  }
  void store(uint16_t* out) const {
    for (int i = 0; i < Vectors; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 8 * i),
                       _mm512_cvtepi64_epi16(sort_rows(words[i], order)));
    }
  }
};

inline Vector word_limit(int value) { return _mm512_set1_epi64(value); }

// 32 bits: sixteen codes a vector.
struct Step4 {
  static constexpr int kRows = 64;
  static constexpr int kWidth = 4;

  struct Distances {
    Vector words[4];
    bool any_below(Vector limit) const {
      const Vector least = _mm512_min_epi32(_mm512_min_epi32(words[0], words[1]),
                                            _mm512_min_epi32(words[2], words[3]));
      return _mm512_cmplt_epi32_mask(least, limit) != 0;
    }
    void store(uint16_t* out) const {
      for (int i = 0; i < 4; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i),
                            _mm512_cvtepi32_epi16(words[i]));
      }
    }
  };

  Step4(const uint8_t* query_, int) : query(repeat_query<4>(query_, 4)) {}
  int reach() const { return kRows * kWidth; }
  static Vector limit(int value) { return _mm512_set1_epi32(value); }

  Distances operator()(const uint8_t* codes) const {
    Distances found;
    for (int i = 0; i < 4; ++i) {
      const Vector x = _mm512_xor_si512(_mm512_loadu_si512(codes + 64 * i), query);
      found.words[i] = _mm512_popcnt_epi32(x);
    }
    return found;
  }

  Vector query;
};

// Up to 64 bits: eight codes a vector.
template <int Width>
struct Step8 {
  static constexpr int kRows = 32;
  static constexpr int kWidth = Width;
  using Distances = WordDistances<4, Order::kRows>;

  Step8(const uint8_t* query_, int width_)
      : load_lanes(width_), query(repeat_query<8>(query_, width_)), width(width_) {}
  int reach() const { return kRows * width; }
  static Vector limit(int value) { return word_limit(value); }

  Distances operator()(const uint8_t* codes) const {
    Distances found;
    for (int i = 0; i < 4; ++i) {
      const uint8_t* eight = codes + 8 * i * (Width ? Width : width);
      const Vector x = Width == 8 ? _mm512_loadu_si512(eight) : load_lanes(eight);
      found.words[i] = _mm512_popcnt_epi64(_mm512_xor_si512(x, query));
    }
    return found;
  }

  LaneLoader<8> load_lanes;
  Vector query;
  int width;
};

// Up to 128 bits: four codes a vector; two vectors give eight distances.
template <int Width>
struct Step16 {
  static constexpr int kRows = 32;
  static constexpr int kWidth = Width;
  using Distances = WordDistances<4, Order::kPairs>;

  Step16(const uint8_t* query_, int width_)
      : load_lanes(width_), query(repeat_query<16>(query_, width_)), width(width_) {}
  int reach() const { return kRows * width; }
  static Vector limit(int value) { return word_limit(value); }

  Vector halves(const uint8_t* four) const {
    const Vector x = Width == 16 ? _mm512_loadu_si512(four) : load_lanes(four);
    return _mm512_popcnt_epi64(_mm512_xor_si512(x, query));
  }

  Distances operator()(const uint8_t* codes) const {
    const int stride = Width ? Width : width;
    Distances found;
    for (int i = 0; i < 4; ++i) {
      const uint8_t* eight = codes + 8 * i * stride;
      const Vector a = halves(eight), b = halves(eight + 4 * stride);
      found.words[i] = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    return found;
  }

  LaneLoader<16> load_lanes;
  Vector query;
  int width;
};

// Sums over the 64-bit numbers of eight vectors: place i is the sum of vector i.
inline Vector sums_of_eight(const Vector* v) {
  const auto pair = [](Vector a, Vector b) {  // [a01 b01 a23 b23 a45 b45 a67 b67]
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  };
  const auto quad = [](Vector ab,
                       Vector cd) {  // 128-bit parts [ab0 ab2 cd0 cd2] + [ab1 ab3 cd1 cd3]
    return _mm512_add_epi64(_mm512_shuffle_i64x2(ab, cd, 0x88), _mm512_shuffle_i64x2(ab, cd, 0xdd));
  };
  const Vector low = quad(pair(v[0], v[1]), pair(v[2], v[3]));
  const Vector high = quad(pair(v[4], v[5]), pair(v[6], v[7]));
  return quad(low, high);
}

// Up to 256 bits: two codes a vector; four vectors give eight distances.
template <int Width>
struct Step32 {
  static constexpr int kRows = 16;
  static constexpr int kWidth = Width;
  using Distances = WordDistances<2, Order::kQuads>;

  Step32(const uint8_t* query_, int width_)
      : load_lanes(width_), query(repeat_query<32>(query_, width_)), width(width_) {}
  int reach() const { return kRows * width; }
  static Vector limit(int value) { return word_limit(value); }

  Vector quarters(const uint8_t* two) const {
    const Vector x = Width == 32 ? _mm512_loadu_si512(two) : load_lanes(two);
    return _mm512_popcnt_epi64(_mm512_xor_si512(x, query));
  }

  Distances operator()(const uint8_t* codes) const {
    const int stride = Width ? Width : width;
    const Vector even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const Vector odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    Distances found;
    for (int i = 0; i < 2; ++i) {
      const uint8_t* eight = codes + 8 * i * stride;
      const Vector a = quarters(eight), b = quarters(eight + 2 * stride);
      const Vector c = quarters(eight + 4 * stride), d = quarters(eight + 6 * stride);
      // Each of a, b, c, d holds four partial sums of two rows; first to two partial sums a row,
      // rows in the order 0, 2, 1, 3 of two vectors, then to one.
      const Vector ab = _mm512_add_epi64(_mm512_permutex2var_epi64(a, even, b),
                                         _mm512_permutex2var_epi64(a, odd, b));
      const Vector cd = _mm512_add_epi64(_mm512_permutex2var_epi64(c, even, d),
                                         _mm512_permutex2var_epi64(c, odd, d));
      found.words[i] =
          _mm512_add_epi64(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    return found;
  }

  LaneLoader<32> load_lanes;
  Vector query;
  int width;
};

// Longer codes: whole vectors and a masked last one. Vectors 0: as many as the width asks for.
template <int Vectors, bool Whole>
struct StepLong {
  static constexpr int kRows = 8;
  static constexpr int kWidth = Whole ? 64 * Vectors : 0;
  using Distances = WordDistances<1, Order::kRows>;

  StepLong(const uint8_t* query_, int width_) : vectors((width_ + 63) / 64), width(width_) {
    for (int i = 0; i < vectors; ++i) {
      tail = first_bytes(width_ - 64 * i);
      query[i] = _mm512_maskz_loadu_epi8(tail, query_ + 64 * i);
    }
  }
  int reach() const { return kRows * width; }
  static Vector limit(int value) { return word_limit(value); }

  Vector row_sums(const uint8_t* code) const {
    const int last = (Vectors ? Vectors : vectors) - 1;
    const uint8_t* end = code + 64 * last;
    const Vector x = Whole ? _mm512_loadu_si512(end) : _mm512_maskz_loadu_epi8(tail, end);
    Vector sums = _mm512_popcnt_epi64(_mm512_xor_si512(x, query[last]));
    for (int i = 0; i < last; ++i) {
      const Vector y = _mm512_xor_si512(_mm512_loadu_si512(code + 64 * i), query[i]);
      sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(y));
    }
    return sums;
  }

  Distances operator()(const uint8_t* codes) const {
    const int stride = kWidth ? kWidth : width;
    Vector sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = row_sums(codes + i * stride);
    return {{sums_of_eight(sums)}};
  }

  Vector query[8];
  __mmask64 tail;
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
      return width_kernels<Step32<32>>();
    case 64:
      return width_kernels<StepLong<1, true>>();
    default:
      break;
  }
  if (width < 8) return width_kernels<Step8<0>>();
  if (width < 16) return width_kernels<Step16<0>>();
  if (width < 32) return width_kernels<Step32<0>>();
  if (width < 64) return width_kernels<StepLong<1, false>>();
  return width_kernels<StepLong<0, false>>();
}

}  // namespace

const Kernels* avx512_kernels() {
  static const Kernels kernels = {"avx512", &for_width, &avx512_sliced};
  return &kernels;
}

}  // namespace coophash

#else

namespace coophash {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace coophash

#endif
