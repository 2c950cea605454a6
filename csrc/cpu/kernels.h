// What each instruction set supplies: two inner loops over rows of codes, for every width.
//
// Everything else (blocks, thresholds, threads, order) is written once, in the files that call
// these loops, and is compiled for the baseline of the ABI.

#ifndef COOPHASH_CPU_KERNELS_H_
#define COOPHASH_CPU_KERNELS_H_

#include <cstdint>

namespace coophash {

struct Hit {
  uint32_t row;
  uint32_t distance;
};

// Rows at distance < limit from the query, in increasing order of row. Returns their number.
//   codes (rows, width), query (width,); hits has room for rows + kHitSlack entries, and those past
//   the returned number are scratch. Reads no byte outside codes and query.
using ScanFn = int64_t (*)(const uint8_t* codes, int64_t rows, int width, const uint8_t* query,
                           int limit, Hit* hits);
inline constexpr int kHitSlack = 64;

// The distance of each row from the query: out (rows,).
using DistancesFn = void (*)(const uint8_t* codes, int64_t rows, int width, const uint8_t* query,
                             uint16_t* out);

struct WidthKernels {
  ScanFn scan;
  DistancesFn distances;
};

struct Kernels {
  const char* name;
  WidthKernels (*for_width)(int width);  // 1 <= width <= kMaxWidth
};

// Null where the compiler could not build for that instruction set.
const Kernels* serial_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

}  // namespace coophash

#endif  // COOPHASH_CPU_KERNELS_H_
