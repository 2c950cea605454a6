// The parts of cuda_check.

#ifndef COOPHASH_TESTS_CUDA_CHECK_H_
#define COOPHASH_TESTS_CUDA_CHECK_H_

#include <memory>
#include <vector>

#include "../../csrc/cuda/device.h"
#include "../../csrc/hamming.h"

namespace check {

namespace gpu = coophash::gpu;

struct Problem;

// cuda_compare.cpp: one search, which must give what the oracle gives.
gpu::Counts check_topk(Problem& problem, int64_t k, gpu::Path path, bool least = false,
                       int64_t chunk_bytes = 1);
void check_range(Problem& problem, int radius, gpu::Path path, bool least = false);
// labels: 0 none, 1 classes, 2 label words.
void check_histogram(Problem& problem, int labels, int grades);
void check_distances(Problem& problem, bool least = false);

void check_encoding(bool short_run);   // cuda_encode_check.cpp
void check_selection(bool short_run);  // cuda_select_check.cpp

// cuda_edge_check.cpp
void check_edges(bool short_run);     // no rows, one row, no queries, all at one distance, ...
void check_spare();                   // spare bits that are not 0
void check_failures(bool short_run);  // calls of the runtime that fail
void check_changes();                 // codes that change between two steps of a search
void check_devices();                 // what is current, and where contexts are

}  // namespace check

#endif  // COOPHASH_TESTS_CUDA_CHECK_H_
