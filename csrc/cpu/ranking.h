// The k nearest rows where k is a large part of them.

#ifndef COOPHASH_CPU_RANKING_H_
#define COOPHASH_CPU_RANKING_H_

#include <cstdint>

#include "../hamming.h"
#include "placing.h"

namespace coophash {

// Adds how many rows of a part lie at each distance from queries first .. first + count - 1:
// counts (count, bins). In histogram.cpp.
void count_distances(const Part& part, const Database& database, const Queries& queries,
                     int64_t first, int64_t count, int bins, const Kernels& kernels,
                     int64_t* counts);

// As topk(), by counting and placing (placing.h): its time hardly depends on k.
void rank(const Database& database, const Queries& queries, int64_t k, int threads,
          const Kernels& kernels, int32_t* distances, int64_t* ids);

}  // namespace coophash

#endif  // COOPHASH_CPU_RANKING_H_
