// What each way of searching costs, as measured. Every choice between ways is made from these.

#ifndef COOPHASH_CPU_COSTS_H_
#define COOPHASH_CPU_COSTS_H_

#include <cstdint>

#include "../hamming.h"
#include "kernels.h"

namespace coophash {

// Nanoseconds of one thread, codes in cache.
struct FlatCosts {
  double row;    // row scan: a row and a query
  double build;  // bit slices: a row, once for all queries
  double slice;  // bit slices: a row and a query
};

FlatCosts flat_costs(const Kernels& kernels, int width);

// Whether a batch is searched by bit slices: from some number of queries on their tables pay.
bool slices_pay(const Kernels& kernels, int width, int64_t queries, Path path);

// Whether the k nearest of so many rows are found by counting all distances, which costs nearly the
// same for every k, and not by keeping the best so far.
bool ranking_pays(const Kernels& kernels, int width, int64_t queries, int64_t rows, int64_t k);

// Whether histograms of a batch are made by bit slices.
bool counting_by_slices_pays(const Kernels& kernels, int width, int64_t queries);

// The share of rows that a filter must leave fewer than for gathering them to pay.
double gather_below(const Kernels& kernels, int width, int64_t queries);

// Nanoseconds of one thread for `queries` queries over a row, including that the row comes from
// memory: what a flat search of a large database costs, without the selection.
double flat_ns_per_row(const Kernels& kernels, int width, int64_t queries);

}  // namespace coophash

#endif  // COOPHASH_CPU_COSTS_H_
