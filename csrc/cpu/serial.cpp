// Plain C++, one row at a time: what every other instruction set is tested against.
//
// Built without vectorization, so that it measures and checks what it says.

#include "hamming_impl.h"

namespace coophash {
namespace {

template <int Width>
struct SerialStep {
  static constexpr int kRows = 1;
  static constexpr int kWidth = Width;
  using Limit = uint32_t;

  struct Distances {
    uint32_t distance;
    bool any_below(Limit limit) const { return distance < limit; }
    void store(uint16_t* out) const { *out = static_cast<uint16_t>(distance); }
  };

  SerialStep(const uint8_t* query_, int width_) : query(query_), width(width_) {}
  int reach() const { return Width ? Width : width; }
  static Limit limit(int value) { return static_cast<Limit>(value); }

  Distances operator()(const uint8_t* code) const {
    return {row_distance(code, query, Width ? Width : width)};
  }

  const uint8_t* query;
  int width;
};

WidthKernels for_width(int width) {
  switch (width) {  // a constant width lets the compiler unroll the words
    case 4:
      return width_kernels<SerialStep<4>>();
    case 8:
      return width_kernels<SerialStep<8>>();
    case 16:
      return width_kernels<SerialStep<16>>();
    case 32:
      return width_kernels<SerialStep<32>>();
    case 64:
      return width_kernels<SerialStep<64>>();
    default:
      return width_kernels<SerialStep<0>>();
  }
}

}  // namespace

const Kernels* serial_kernels() {
  static const Kernels kernels = {"serial", &for_width, nullptr};
  return &kernels;
}

}  // namespace coophash
