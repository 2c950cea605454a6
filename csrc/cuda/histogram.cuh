// Counting rows by distance, and by how relevant they are.

#ifndef COOPHASH_CUDA_HISTOGRAM_CUH_
#define COOPHASH_CUDA_HISTOGRAM_CUH_

#include <algorithm>
#include <cstdint>

#include "device.h"
#include "scan.cuh"

namespace coophash::gpu {

// How relevant a row is to a query: 0 .. grades - 1.
__device__ inline int grade_of(const Labels& labels, int64_t query, int64_t place) {
  if (labels.row_classes) return labels.row_classes[place] == labels.query_classes[query];
  int shared = 0;
  for (int w = 0; w < labels.words; ++w) {
    shared += __popc(static_cast<uint32_t>(labels.row_labels[w * labels.rows + place] &
                                           labels.query_labels[query * labels.words + w]));
  }
  return min(shared, labels.grades - 1);
}

// A sink. Counts are kept by each block in shared memory where there is room for those of a query,
// and added up at the end.
struct Histogram {
  static constexpr bool kEvery = true;
  static constexpr int kBlocks = 2;
  static constexpr int kKernels = 2;
  unsigned long long* total;     // (count, bins)
  unsigned long long* relevant;  // (count, bins, grades - 1), or null
  Labels labels;
  int bins;
  int grades;  // 1 without labels
  bool in_shared;

  __device__ Slot slot(int entry, int query, int) const { return {0, entry, query}; }
  __device__ int cells() const { return bins * grades; }
  __device__ void add(int entry, int cell, unsigned number) const {
    const int64_t bin = int64_t{entry} * bins + cell / grades;
    const int grade = cell % grades;
    atomicAdd(&total[bin], static_cast<unsigned long long>(number));
    if (grade) {
      atomicAdd(&relevant[bin * (grades - 1) + grade - 1], static_cast<unsigned long long>(number));
    }
  }

  __device__ void begin(void* area, int queries) const {
    if (!in_shared) return;
    for (int i = threadIdx.x; i < queries * cells(); i += kScanThreads) {
      static_cast<unsigned*>(area)[i] = 0;
    }
  }
  __device__ void count(const Slot& slot, void* area, int q, int distance, int64_t place) const {
    const int grade = grades > 1 ? grade_of(labels, slot.query, place) : 0;
    // beyond the last bin is no distance, unless codes change while they are counted
    const int cell = min(distance, bins - 1) * grades + grade;
    if (in_shared) {
      atomicAdd(static_cast<unsigned*>(area) + q * cells() + cell, 1u);
    } else {
      add(slot.limit, cell, 1);
    }
  }
  __device__ void end(const Slot* slots, const void* area, int queries) const {
    if (!in_shared) return;
    for (int i = threadIdx.x; i < queries * cells(); i += kScanThreads) {
      const unsigned number = static_cast<const unsigned*>(area)[i];
      if (number) add(slots[i / cells()].limit, i % cells(), number);
    }
  }
};

inline Histogram plain_histogram(unsigned long long* total, int bins) {
  return {total, nullptr, {}, bins, 1, false};
}

// Adds the rows to the counts.
void scan_histogram(const Rows& rows, const Asked& asked, Histogram sink, int multiprocessors,
                    cudaStream_t stream);

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_HISTOGRAM_CUH_
