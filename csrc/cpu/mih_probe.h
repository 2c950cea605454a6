// The inner loop of multi-index hashing over buckets of narrow codes, one for each instruction set.

#ifndef COOPHASH_CPU_MIH_PROBE_H_
#define COOPHASH_CPU_MIH_PROBE_H_

#include <cstdint>

#include "kernels.h"

namespace coophash {

struct Bucket {
  uint32_t begin;   // its first entry
  uint32_t length;  // entries
  uint32_t value;   // of the substring
};

struct ProbeHit {
  uint32_t bucket;  // its number in the list
  uint32_t entry;
  uint32_t distance;
};

// Entries at distance < limit from the query in buckets 0 .. count - 1, in order. Returns their
// number.
//   entries of entry_bytes (1 to 8) each, with kSlack bytes that can be read behind the last;
//   query: in the form of an entry; hits has room for all entries of these buckets.
// Buckets count .. known - 1 come in the next call: they are fetched ahead.
using ProbeFn = int64_t (*)(const uint8_t* entries, int entry_bytes, const Bucket* buckets,
                            int64_t count, int64_t known, uint64_t query, int limit,
                            ProbeHit* hits);

ProbeFn probe_for(const Kernels& kernels);

int64_t probe_plain(const uint8_t*, int, const Bucket*, int64_t, int64_t, uint64_t, int, ProbeHit*);
int64_t probe_avx2(const uint8_t*, int, const Bucket*, int64_t, int64_t, uint64_t, int, ProbeHit*);
int64_t probe_avx512(const uint8_t*, int, const Bucket*, int64_t, int64_t, uint64_t, int,
                     ProbeHit*);

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_PROBE_H_
