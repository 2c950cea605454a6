// Queries, prepared: each as whole vectors, zeros behind its bytes.

#ifndef COOPHASH_CUDA_QUERIES_H_
#define COOPHASH_CUDA_QUERIES_H_

#include <cstdint>

#include "layout.h"
#include "portable.h"

namespace coophash::gpu {

// What a kernel is asked: queries by their numbers in a group.
struct Asked {
  const uint4* vectors;   // (group, lanes_of(width))
  const int32_t* subset;  // (count,) numbers of queries in the group; null: 0 .. count - 1
  int count;
  int tile;  // queries that a block takes at a time
};

COOPHASH_HD int query_number(const Asked& asked, int i) {
  return asked.subset ? asked.subset[i] : i;
}

// vectors (count, lanes_of(width)) from codes (count, width) at any address.
void prepare_queries(const uint8_t* codes, int64_t count, int width, uint4* vectors,
                     cudaStream_t stream);

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_QUERIES_H_
