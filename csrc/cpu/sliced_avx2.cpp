// Bit slices with AVX2: an adder is five instructions, and vpmovmskb picks out a plane.

#include "counting_impl.h"
#include "sliced_impl.h"

#if defined(__AVX2__)

#include <immintrin.h>

namespace coophash {
namespace {

struct Avx2 {
  using Vector = __m256i;
  static constexpr int kBytes = 32;

  static Vector load(const uint8_t* bytes) {
    return _mm256_load_si256(reinterpret_cast<const Vector*>(bytes));
  }
  static void store(uint8_t* bytes, Vector v) {
    _mm256_store_si256(reinterpret_cast<Vector*>(bytes), v);
  }
  static Vector fill(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static Vector and_(Vector a, Vector b) { return _mm256_and_si256(a, b); }
  static Vector or_(Vector a, Vector b) { return _mm256_or_si256(a, b); }
  static Vector xor_(Vector a, Vector b) { return _mm256_xor_si256(a, b); }
  static Vector xor3(Vector a, Vector b, Vector c) { return xor_(xor_(a, b), c); }
  static Vector majority(Vector a, Vector b, Vector c) {
    return or_(and_(a, b), and_(xor_(a, b), c));
  }
  static Vector add(Vector& sum, Vector a, Vector b) {
    const Vector differ = xor_(a, b);
    const Vector carry = or_(and_(a, b), and_(differ, sum));
    sum = xor_(sum, differ);
    return carry;
  }
  // The majority of complements is the complement of the majority.
  static void majorities(Vector r, Vector a, Vector b, Vector* out) {
    const Vector ones = fill(~0u);
    const Vector not_a = xor_(a, ones), not_b = xor_(b, ones);
    out[0] = majority(r, a, b);
    out[2] = majority(r, not_a, b);
    out[4] = majority(r, a, not_b);
    out[6] = majority(r, not_a, not_b);
    for (int i = 0; i < 4; ++i) out[7 - 2 * i] = xor_(out[2 * i], ones);
  }
  static bool all_ones(Vector v) { return _mm256_testc_si256(v, fill(~0u)); }
  static void store_complement(uint64_t* words, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<Vector*>(words), xor_(v, fill(~0u)));
  }

  static Vector and_not(Vector a, Vector b) { return _mm256_andnot_si256(a, b); }
  static bool any(Vector v) { return !_mm256_testz_si256(v, v); }
  static constexpr int kMostGroups = 31;  // 8 bits of a byte in each
  static Vector count(Vector v) {
    const Vector table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                          0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const Vector low = _mm256_set1_epi8(15);
    const Vector high = and_(_mm256_srli_epi16(v, 4), low);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, and_(v, low)),
                           _mm256_shuffle_epi8(table, high));
  }
  static Vector add_counts(Vector a, Vector b) { return _mm256_add_epi8(a, b); }
  static int64_t sum_counts(Vector v) {
    const Vector four = _mm256_sad_epu8(v, fill(0));
    const __m128i two =
        _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
  }
  // All ones in each of 32 numbers that counts, to a bit.
  static uint32_t to_bits(Vector first, Vector second) {
    const Vector bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xd8);
    return static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
  }
  static Vector numbers_at(const uint16_t* numbers) {
    return _mm256_loadu_si256(reinterpret_cast<const Vector*>(numbers));
  }
  static uint32_t equal(const uint16_t* numbers, uint16_t wanted) {
    const Vector all = _mm256_set1_epi16(static_cast<int16_t>(wanted));
    return to_bits(_mm256_cmpeq_epi16(numbers_at(numbers), all),
                   _mm256_cmpeq_epi16(numbers_at(numbers + 16), all));
  }
  static uint32_t shared(const uint16_t* numbers, uint16_t wanted) {
    const Vector all = _mm256_set1_epi16(static_cast<int16_t>(wanted)), none = fill(0);
    return ~to_bits(_mm256_cmpeq_epi16(and_(numbers_at(numbers), all), none),
                    _mm256_cmpeq_epi16(and_(numbers_at(numbers + 16), all), none));
  }

  // Two codes from `low` on and two from `high` on, their bytes in turn: a0 b0 a1 b1 ... a7 b7.
  static Vector pairs(const uint8_t* low, const uint8_t* high) {
    const __m128i l = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high));
    const Vector order = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,  //
                                          0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(l), h, 1), order);
  }

  static void planes(const uint8_t* words, uint8_t* out) {
    for (int set = 0; set < 8; ++set) {  // 32 codes
      const uint8_t* codes = words + 256 * set;
      Vector v[8], w[8];
      for (int i = 0; i < 8; ++i) v[i] = pairs(codes + 16 * i, codes + 128 + 16 * i);
      // Bytes of one column come together, 2, 4, 8 and 16 codes in each half of a vector.
      for (int i = 0; i < 4; ++i) {  // columns 0-3 in w[i], 4-7 in w[i + 4]
        w[i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        w[i + 4] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
      }
      for (int i = 0; i < 2; ++i) {
        for (int half = 0; half < 2; ++half) {  // columns 0-1, 2-3; 4-5, 6-7
          const Vector a = w[4 * half + 2 * i], b = w[4 * half + 2 * i + 1];
          v[4 * half + i] = _mm256_unpacklo_epi32(a, b);
          v[4 * half + 2 + i] = _mm256_unpackhi_epi32(a, b);
        }
      }
      for (int two = 0; two < 4; ++two) {
        w[2 * two] = _mm256_unpacklo_epi64(v[2 * two], v[2 * two + 1]);
        w[2 * two + 1] = _mm256_unpackhi_epi64(v[2 * two], v[2 * two + 1]);
      }
      for (int column = 0; column < 8; ++column) {
        Vector x = w[column];
        for (int bit = 7; bit >= 0; --bit) {
          store32(out + (8 * column + bit) * kBytes + 4 * set,
                  static_cast<uint32_t>(_mm256_movemask_epi8(x)));
          x = _mm256_add_epi8(x, x);
        }
      }
    }
  }
};

}  // namespace

SlicedKernels avx2_sliced(int width) {
  SlicedKernels kernels = sliced_kernels<Avx2>(width);
  kernels.counting = sliced_counting<Avx2>(width);
  return kernels;
}

}  // namespace coophash

#endif
