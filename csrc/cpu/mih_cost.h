// What multi-index hashing costs, as measured; how many substrings it takes; when it gives up.

#ifndef COOPHASH_CPU_MIH_COST_H_
#define COOPHASH_CPU_MIH_COST_H_

#include <cstdint>
#include <vector>

#include "mih_layout.h"

namespace coophash {

// Nanoseconds of one thread to probe all buckets of a table at one radius: `buckets` of them, with
// `entries` in all.
double probe_ns(const MultiIndex& index, const Table& table, double buckets, double entries);

// Nanoseconds for each code that may be a result, and for each row that is one.
double found_ns();
double result_ns();

// Nanoseconds of one thread to look at `rows` rows of a group: is it allowed, which id has it.
double rows_ns(double rows);

// Nanoseconds of one thread to compare a query with all groups of an index without tables.
double sweep_ns(int64_t groups, int width, const Kernels& kernels);

// Nanoseconds that every query takes.
double least_ns(const MultiIndex& index, const Kernels& kernels);

// The substrings for so many groups, by predicted cost; none where tables do not pay. `wanted`: how
// many, or -1 to choose.
std::vector<Substring> choose_substrings(int64_t groups, int64_t rows, int bits, int wanted,
                                         const Kernels& kernels);

// The share of the codes at each distance 0 .. bits that were met once table j was probed up to
// radius done[j], if the bits that differ are spread evenly; -1: not at all.
std::vector<double> seen_shares(const MultiIndex& index, const std::vector<int>& done);

// What a flat search of a database costs, for each query of a batch, in nanoseconds of one thread
// while as many threads as there are queries, at most `threads`, are at work.
double flat_query_ns(const Database& database, int64_t queries, int threads,
                     const Kernels& kernels);

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_COST_H_
