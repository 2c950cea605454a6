// NEON of 64-bit ARM (every such processor has it): bits are counted in each byte by one
// instruction, and a tree of pairwise additions turns the counts of several rows into one vector of
// distances, in order of row. The additions stay within bytes for as long as the sums fit them.
//
// A code takes a lane: 1, 2, 4, 8 or 16 bytes, or whole vectors of 16. Codes shorter than their
// lane are spread while they are loaded; longer ones end with a vector that overlaps the one before
// it and is masked there, so no byte behind a row is read.
//
// Tested in an emulator only, never timed.

#include "hamming_impl.h"

#if defined(__aarch64__) && defined(__ARM_NEON)

#include <arm_neon.h>

namespace coophash {
namespace {

inline uint8x16_t byte_counts(uint8x16_t codes, uint8x16_t query) {
  return vcntq_u8(veorq_u8(codes, query));
}

// leaf(first) .. leaf(first + Count - 1), reduced by additions of neighbours: sums of Count
// neighbouring bytes, those of the first leaf first.
template <int Count, class Leaf>
inline uint8x16_t byte_tree(const Leaf& leaf, int first = 0) {
  if constexpr (Count == 1) {
    return leaf(first);
  } else {
    return vpaddq_u8(byte_tree<Count / 2>(leaf, first),
                     byte_tree<Count / 2>(leaf, first + Count / 2));
  }
}

template <int Count, class Leaf>
inline uint16x8_t half_tree(const Leaf& leaf, int first = 0) {
  if constexpr (Count == 1) {
    return leaf(first);
  } else {
    return vpaddq_u16(half_tree<Count / 2>(leaf, first),
                      half_tree<Count / 2>(leaf, first + Count / 2));
  }
}

// Distances of 16 * Vectors rows, none above 248.
template <int Vectors>
struct ByteDistances {
  uint8x16_t rows[Vectors];

  bool any_below(uint8_t limit) const {
    uint8x16_t least = rows[0];
    for (int i = 1; i < Vectors; ++i) least = vminq_u8(least, rows[i]);
    return vminvq_u8(least) < limit;
  }
  void store(uint16_t* out) const {
    for (int i = 0; i < Vectors; ++i) {
      vst1q_u16(out + 16 * i, vmovl_u8(vget_low_u8(rows[i])));
      vst1q_u16(out + 16 * i + 8, vmovl_high_u8(rows[i]));
    }
  }
};

inline uint8_t byte_limit(int value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Distances of 8 * Vectors rows.
template <int Vectors>
struct HalfDistances {
  uint16x8_t rows[Vectors];

  bool any_below(uint16_t limit) const {
    uint16x8_t least = rows[0];
    for (int i = 1; i < Vectors; ++i) least = vminq_u16(least, rows[i]);
    return vminvq_u16(least) < limit;
  }
  void store(uint16_t* out) const {
    for (int i = 0; i < Vectors; ++i) vst1q_u16(out + 8 * i, rows[i]);
  }
};

inline uint16_t half_limit(int value) {
  return static_cast<uint16_t>(value < 0 ? 0 : value > 0xffff ? 0xffff : value);
}

// The `width` bytes of the query, repeated in lanes of `lane` bytes, zeros between.
inline uint8x16_t repeat_query(const uint8_t* query, int width, int lane) {
  uint8_t bytes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if (i % lane < width) bytes[i] = query[i % lane];
  }
  return vld1q_u8(bytes);
}

// Up to 128 bits: 16 / Lane codes a vector, so Lane vectors give 16 distances.
// Whole: the codes fill their lanes. Else any width below Lane.
template <int Lane, bool Whole>
struct StepLane {
  static constexpr int kVectors = Lane == 1 ? 4 : Lane == 16 ? 1 : 2;
  static constexpr int kRows = 16 * kVectors;
  static constexpr int kWidth = Whole ? Lane : 0;
  static constexpr int kCodes = 16 / Lane;  // of a vector
  using Distances = ByteDistances<kVectors>;

  StepLane(const uint8_t* query_, int width_)
      : query(repeat_query(query_, width_, Lane)), width(Whole ? Lane : width_) {
    uint8_t index[16];
    for (int i = 0; i < 16; ++i) {
      // an index past the vector gives 0
      index[i] = static_cast<uint8_t>(i % Lane < width_ ? i / Lane * width_ + i % Lane : 0xff);
    }
    spread = vld1q_u8(index);
  }
  int reach() const { return (kRows - kCodes) * width + 16; }
  static uint8_t limit(int value) { return byte_limit(value); }

  Distances operator()(const uint8_t* codes) const {
    const int stride = kCodes * (Whole ? Lane : width);
    Distances found;
    for (int i = 0; i < kVectors; ++i) {
      const uint8_t* sixteen = codes + i * Lane * stride;
      found.rows[i] = byte_tree<Lane>([&](int vector) {
        const uint8x16_t x = vld1q_u8(sixteen + vector * stride);
        return byte_counts(Whole ? x : vqtbl1q_u8(x, spread), query);
      });
    }
    return found;
  }

  uint8x16_t query, spread;
  int width;
};

// A query of more than 16 bytes, and the bit counts of rows compared with it. Vectors: how many a
// code takes, or 0: as many as the width asks for. Whole: the width is 16 * Vectors.
template <int Vectors, bool Whole>
struct LongQuery {
  LongQuery(const uint8_t* query_, int width_) : last((width_ + 15) / 16 - 1), width(width_) {
    for (int i = 0; i < last; ++i) query[i] = vld1q_u8(query_ + 16 * i);
    query[last] = vld1q_u8(query_ + width_ - 16);
    uint8_t bytes[16];
    for (int i = 0; i < 16; ++i) bytes[i] = width_ - 16 + i < 16 * last ? 0 : 0xff;
    fresh = vld1q_u8(bytes);
  }

  int stride() const { return Whole ? 16 * Vectors : width; }

  uint8x16_t tail(const uint8_t* code) const {
    const int i = Vectors ? Vectors - 1 : last;
    const uint8x16_t counts = byte_counts(vld1q_u8(code + stride() - 16), query[i]);
    return Whole ? counts : vandq_u8(counts, fresh);
  }

  // The counts of all vectors but the last, added by byte: 31 * 8 fits.
  uint8x16_t body_sums(const uint8_t* code) const {
    uint8x16_t sums = byte_counts(vld1q_u8(code), query[0]);
    for (int i = 1; i < (Vectors ? Vectors - 1 : last); ++i) {
      sums = vaddq_u8(sums, byte_counts(vld1q_u8(code + 16 * i), query[i]));
    }
    return sums;
  }

  // Of all vectors, of which there are fewer than 32.
  uint8x16_t byte_sums(const uint8_t* code) const { return vaddq_u8(body_sums(code), tail(code)); }

  uint8x16_t query[Vectors ? Vectors : 32];
  uint8x16_t fresh;  // masks what the last vector has in common with the one before it
  int last, width;
};

// 17 to 31 bytes: a distance is 248 at most.
struct Step31 {
  static constexpr int kRows = 16;
  static constexpr int kWidth = 0;
  using Distances = ByteDistances<1>;

  Step31(const uint8_t* query_, int width) : query(query_, width) {}
  int reach() const { return kRows * query.width; }
  static uint8_t limit(int value) { return byte_limit(value); }

  Distances operator()(const uint8_t* codes) const {
    return {{byte_tree<16>([&](int row) { return query.byte_sums(codes + row * query.width); })}};
  }

  LongQuery<2, false> query;
};

// 32 bytes: 128 in a byte of the tree, whose last addition widens.
struct Step32 {
  static constexpr int kRows = 16;
  static constexpr int kWidth = 32;
  using Distances = HalfDistances<2>;

  Step32(const uint8_t* query_, int width) : query(query_, width) {}
  int reach() const { return kRows * kWidth; }
  static uint16_t limit(int value) { return half_limit(value); }

  Distances operator()(const uint8_t* codes) const {
    const auto row_sums = [&](int row) { return query.byte_sums(codes + row * kWidth); };
    return {{vpaddlq_u8(byte_tree<8>(row_sums)), vpaddlq_u8(byte_tree<8>(row_sums, 8))}};
  }

  LongQuery<2, true> query;
};

// 33 to 64 bytes: 4 * 8 in a byte of a row, 128 in a byte of a tree of four rows.
template <int Vectors, bool Whole>
struct Step64 {
  static constexpr int kRows = 8;
  static constexpr int kWidth = Whole ? 16 * Vectors : 0;
  using Distances = HalfDistances<1>;

  Step64(const uint8_t* query_, int width) : query(query_, width) {}
  int reach() const { return kRows * query.stride(); }
  static uint16_t limit(int value) { return half_limit(value); }

  Distances operator()(const uint8_t* codes) const {
    const auto row_sums = [&](int row) { return query.byte_sums(codes + row * query.stride()); };
    return {
        {vpaddq_u16(vpaddlq_u8(byte_tree<4>(row_sums)), vpaddlq_u8(byte_tree<4>(row_sums, 4)))}};
  }

  LongQuery<Vectors, Whole> query;
};

// Longer codes: the last vector is added where two bytes hold a sum, as 32 * 8 = 256 is too much
// for one; so is the tree.
struct StepLong {
  static constexpr int kRows = 8;
  static constexpr int kWidth = 0;
  using Distances = HalfDistances<1>;

  StepLong(const uint8_t* query_, int width) : query(query_, width) {}
  int reach() const { return kRows * query.width; }
  static uint16_t limit(int value) { return half_limit(value); }

  uint16x8_t row_sums(const uint8_t* code) const {
    return vpadalq_u8(vpaddlq_u8(query.tail(code)), query.body_sums(code));
  }

  Distances operator()(const uint8_t* codes) const {
    return {{half_tree<8>([&](int row) { return row_sums(codes + row * query.width); })}};
  }

  LongQuery<0, false> query;
};

WidthKernels for_width(int width) {
  switch (width) {
    case 1:
      return width_kernels<StepLane<1, true>>();
    case 2:
      return width_kernels<StepLane<2, true>>();
    case 3:
      return width_kernels<StepLane<4, false>>();
    case 4:
      return width_kernels<StepLane<4, true>>();
    case 8:
      return width_kernels<StepLane<8, true>>();
    case 16:
      return width_kernels<StepLane<16, true>>();
    case 32:
      return width_kernels<Step32>();
    case 64:
      return width_kernels<Step64<4, true>>();
    default:
      break;
  }
  if (width < 8) return width_kernels<StepLane<8, false>>();
  if (width < 16) return width_kernels<StepLane<16, false>>();
  if (width < 32) return width_kernels<Step31>();
  if (width <= 48) return width_kernels<Step64<3, false>>();
  if (width < 64) return width_kernels<Step64<4, false>>();
  return width_kernels<StepLong>();
}

}  // namespace

const Kernels* neon_kernels() {
  static const Kernels kernels = {"neon", &for_width, &neon_sliced};
  return &kernels;
}

}  // namespace coophash

#else

namespace coophash {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace coophash

#endif
