// Bit slices with NEON: an adder is four instructions, of which one chooses between two planes.

#include "sliced_impl.h"

#if defined(__aarch64__) && defined(__ARM_NEON)

#include <arm_neon.h>

namespace coophash {
namespace {

struct Neon {
  using Vector = uint8x16_t;
  static constexpr int kBytes = 16;

  static Vector load(const uint8_t* bytes) { return vld1q_u8(bytes); }
  static void store(uint8_t* bytes, Vector v) { vst1q_u8(bytes, v); }
  static Vector fill(uint32_t x) { return vreinterpretq_u8_u32(vdupq_n_u32(x)); }
  static Vector and_(Vector a, Vector b) { return vandq_u8(a, b); }
  static Vector or_(Vector a, Vector b) { return vorrq_u8(a, b); }
  static Vector xor_(Vector a, Vector b) { return veorq_u8(a, b); }
  static Vector xor3(Vector a, Vector b, Vector c) { return xor_(xor_(a, b), c); }
  // Where two of three bits differ the third decides, else either of the two.
  static Vector majority(Vector a, Vector b, Vector c) { return vbslq_u8(xor_(a, b), c, a); }
  static Vector add(Vector& sum, Vector a, Vector b) {
    const Vector differ = xor_(a, b);
    const Vector carry = vbslq_u8(differ, sum, a);
    sum = xor_(sum, differ);
    return carry;
  }
  static void majorities(Vector r, Vector a, Vector b, Vector* out) {
    const Vector not_a = vmvnq_u8(a), not_b = vmvnq_u8(b);
    out[0] = majority(a, b, r);
    out[2] = majority(not_a, b, r);
    out[4] = majority(a, not_b, r);
    out[6] = majority(not_a, not_b, r);
    for (int i = 0; i < 4; ++i) out[7 - 2 * i] = vmvnq_u8(out[2 * i]);
  }
  static bool all_ones(Vector v) { return vminvq_u8(v) == 0xff; }
  static void store_complement(uint64_t* words, Vector v) {
    vst1q_u64(words, vreinterpretq_u64_u8(vmvnq_u8(v)));
  }

  // Exchanges the bits under the mask with those `Shift` places above them.
  template <int Shift>
  static uint64x2_t exchange(uint64x2_t x, uint64_t mask) {
    const uint64x2_t differ = veorq_u64(x, vshrq_n_u64(x, Shift));
    const uint64x2_t moved = vandq_u64(differ, vdupq_n_u64(mask));
    return veorq_u64(veorq_u64(x, moved), vshlq_n_u64(moved, Shift));
  }

  // Eight bytes are rows of a matrix of bits: rows and columns change places. Two matrices a
  // vector.
  static Vector transpose_bits(Vector bytes) {
    uint64x2_t x = vreinterpretq_u64_u8(bytes);
    x = exchange<7>(x, 0x00aa00aa00aa00aau);
    x = exchange<14>(x, 0x0000cccc0000ccccu);
    return vreinterpretq_u8_u64(exchange<28>(x, 0x00000000f0f0f0f0u));
  }

  static void planes(const uint8_t* words, uint8_t* out) {
    for (int set = 0; set < 8; ++set) {  // 16 codes
      Vector v[8], w[8];
      for (int i = 0; i < 8; ++i) v[i] = vld1q_u8(words + 128 * set + 16 * i);
      // Every second byte of two neighbours, three times: vector c ends with byte c of all 16
      // codes.
      for (int level = 0; level < 3; ++level) {
        for (int i = 0; i < 4; ++i) {
          w[i] = vuzp1q_u8(v[2 * i], v[2 * i + 1]);
          w[i + 4] = vuzp2q_u8(v[2 * i], v[2 * i + 1]);
        }
        for (int i = 0; i < 8; ++i) v[i] = w[i];
      }
      for (int column = 0; column < 8; ++column) {
        const Vector bits = transpose_bits(v[column]);
        uint8_t bytes[16];
        vst1q_u8(bytes, vzip1q_u8(bits, vextq_u8(bits, bits, 8)));  // a plane's two together
        for (int bit = 0; bit < 8; ++bit) {
          __builtin_memcpy(out + (8 * column + bit) * kBytes + 2 * set, bytes + 2 * bit, 2);
        }
      }
    }
  }
};

}  // namespace

SlicedKernels neon_sliced(int width) { return sliced_kernels<Neon>(width); }

}  // namespace coophash

#endif
