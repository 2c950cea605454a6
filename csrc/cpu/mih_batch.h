// A batch of queries: which are searched by multi-index hashing, and which are left to a flat
// search.

#ifndef COOPHASH_CPU_MIH_BATCH_H_
#define COOPHASH_CPU_MIH_BATCH_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "../hamming.h"
#include "kernels.h"
#include "mih_rows.h"

namespace coophash {

struct Batch {
  const Database& database;
  const Indexes& indexes;
  const Queries& queries;
  int64_t k;   // rows that are asked for; of no use is
  int radius;  // what is farther than this
  int threads;
  const Kernels& kernels;
  double scale;
};

// The indexes that hold something.
Indexes useful(const Indexes& indexes);

// The rows that no index covers.
Database uncovered(const Database& database, const Indexes& indexes);

// The codes of some of the queries.
std::vector<uint8_t> codes_of(const Queries& queries, const std::vector<int64_t>& chosen,
                              int width);

// Walks the tables for each query, in parallel. Returns the queries that were given up.
//   begin(query, nearest): puts in what is known already. accept(query, nearest): takes the result.
std::vector<int64_t> walk_all(const Batch& batch, MultiSearchCounts& counts,
                              const std::function<void(int64_t, Nearest&)>& begin,
                              const std::function<void(int64_t, Nearest&)>& accept);

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_BATCH_H_
