// Bit slices with AVX-512: an adder is two instructions (vpternlogd), and GFNI transposes bits.

#include "counting_impl.h"
#include "sliced_impl.h"

#if defined(__AVX512VPOPCNTDQ__) && defined(__AVX512BW__) && defined(__AVX512VBMI__) && \
    defined(__GFNI__)

#include <immintrin.h>

namespace coophash {
namespace {

struct Avx512 {
  using Vector = __m512i;
  static constexpr int kBytes = 64;

  static Vector load(const uint8_t* bytes) { return _mm512_load_si512(bytes); }
  static void store(uint8_t* bytes, Vector v) { _mm512_store_si512(bytes, v); }
  static Vector fill(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static Vector and_(Vector a, Vector b) { return _mm512_and_si512(a, b); }
  static Vector or_(Vector a, Vector b) { return _mm512_or_si512(a, b); }
  static Vector xor_(Vector a, Vector b) { return _mm512_xor_si512(a, b); }
  static Vector xor3(Vector a, Vector b, Vector c) {
    return _mm512_ternarylogic_epi32(a, b, c, 0x96);
  }
  static Vector add(Vector& sum, Vector a, Vector b) {
    const Vector carry = _mm512_ternarylogic_epi32(sum, a, b, 0xe8);
    sum = xor3(sum, a, b);
    return carry;
  }
  // In a truth table, place 4 r + 2 a + b is the result: flipping an input swaps places.
  static void majorities(Vector r, Vector a, Vector b, Vector* out) {
    out[0] = _mm512_ternarylogic_epi32(r, a, b, 0xe8);
    out[1] = _mm512_ternarylogic_epi32(r, a, b, 0x8e);
    out[2] = _mm512_ternarylogic_epi32(r, a, b, 0xb2);
    out[3] = _mm512_ternarylogic_epi32(r, a, b, 0x2b);
    out[4] = _mm512_ternarylogic_epi32(r, a, b, 0xd4);
    out[5] = _mm512_ternarylogic_epi32(r, a, b, 0x4d);
    out[6] = _mm512_ternarylogic_epi32(r, a, b, 0x71);
    out[7] = _mm512_ternarylogic_epi32(r, a, b, 0x17);
  }
  static bool all_ones(Vector v) { return _mm512_cmpneq_epi32_mask(v, _mm512_set1_epi32(-1)) == 0; }
  static void store_complement(uint64_t* words, Vector v) {
    _mm512_storeu_si512(words, _mm512_xor_si512(v, _mm512_set1_epi32(-1)));
  }

  static Vector and_not(Vector a, Vector b) { return _mm512_andnot_si512(a, b); }
  static bool any(Vector v) { return _mm512_test_epi64_mask(v, v) != 0; }
  static constexpr int kMostGroups = 1 << 20;
  static Vector count(Vector v) { return _mm512_popcnt_epi64(v); }
  static Vector add_counts(Vector a, Vector b) { return _mm512_add_epi64(a, b); }
  static int64_t sum_counts(Vector v) { return _mm512_reduce_add_epi64(v); }
  static uint32_t equal(const uint16_t* numbers, uint16_t wanted) {
    const Vector all = _mm512_set1_epi16(static_cast<int16_t>(wanted));
    return _mm512_cmpeq_epi16_mask(_mm512_loadu_si512(numbers), all);
  }
  static uint32_t shared(const uint16_t* numbers, uint16_t wanted) {
    const Vector all = _mm512_set1_epi16(static_cast<int16_t>(wanted));
    return _mm512_test_epi16_mask(_mm512_loadu_si512(numbers), all);
  }

  // Rows and columns of eight vectors of eight 64-bit numbers change places.
  static void transpose_words(Vector* v) {
    Vector pair[8], quad[8];
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm512_unpacklo_epi64(v[i], v[i + 1]);
      pair[i + 1] = _mm512_unpackhi_epi64(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int j = 0; j < 2; ++j) {
        quad[i + j] = _mm512_shuffle_i64x2(pair[i + j], pair[i + j + 2], 0x88);
        quad[i + j + 2] = _mm512_shuffle_i64x2(pair[i + j], pair[i + j + 2], 0xdd);
      }
    }
    for (int j = 0; j < 4; ++j) {  // numbers j and j + 4 of all eight
      v[j] = _mm512_shuffle_i64x2(quad[j], quad[j + 4], 0x88);
      v[j + 4] = _mm512_shuffle_i64x2(quad[j], quad[j + 4], 0xdd);
    }
  }

  static void planes(const uint8_t* words, uint8_t* out) {
    // Byte j of eight codes, the last code first, for j = 0 .. 7: as gf2p8affine takes a matrix.
    alignas(64) uint8_t reversed[64], straight[64], units[64];
    for (int i = 0; i < 64; ++i) {
      reversed[i] = static_cast<uint8_t>(8 * (7 - i % 8) + i / 8);
      straight[i] = static_cast<uint8_t>(8 * (i % 8) + i / 8);
      units[i] = static_cast<uint8_t>(1 << (i % 8));
    }
    const Vector to_matrices = _mm512_load_si512(reversed);
    const Vector by_plane = _mm512_load_si512(straight);
    const Vector unit = _mm512_load_si512(units);

    alignas(64) uint64_t bytes[8][8][8];  // (set of 64 codes, byte, plane of the byte)
    for (int set = 0; set < 8; ++set) {
      Vector v[8];
      for (int i = 0; i < 8; ++i) {
        const Vector eight = _mm512_loadu_si512(words + 64 * (8 * set + i));
        const Vector matrices = _mm512_permutexvar_epi8(to_matrices, eight);
        v[i] = _mm512_gf2p8affine_epi64_epi8(unit, matrices, 0);
      }
      transpose_words(v);  // v[j]: byte j of 64 codes, a number for each eight of them
      for (int j = 0; j < 8; ++j) {
        _mm512_store_si512(bytes[set][j], _mm512_permutexvar_epi8(by_plane, v[j]));
      }
    }
    for (int j = 0; j < 8; ++j) {
      Vector v[8];
      for (int set = 0; set < 8; ++set) v[set] = _mm512_load_si512(bytes[set][j]);
      transpose_words(v);
      for (int i = 0; i < 8; ++i) store(out + (8 * j + i) * kBytes, v[i]);
    }
  }
};

}  // namespace

SlicedKernels avx512_sliced(int width) {
  SlicedKernels kernels = sliced_kernels<Avx512>(width);
  kernels.counting = sliced_counting<Avx512>(width);
  return kernels;
}

}  // namespace coophash

#endif
