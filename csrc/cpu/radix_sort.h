// A stable, parallel radix sort of 64-bit keys that carry row numbers.

#ifndef COOPHASH_CPU_RADIX_SORT_H_
#define COOPHASH_CPU_RADIX_SORT_H_

#include <cstdint>

#include "memory.h"

namespace coophash {

// Sorts by key; rows of one key keep their order. `bits`: keys are below 2^bits.
void radix_sort(Buffer<uint64_t>& keys, Buffer<uint32_t>& rows, int bits, int threads);

}  // namespace coophash

#endif  // COOPHASH_CPU_RADIX_SORT_H_
