#include "mih_probe.h"

#include <cstring>

#include "mih_probe_impl.h"

namespace coophash {

// Whatever the baseline has: 64-bit ARM counts bits in a vector register.
int64_t probe_plain(const uint8_t* entries, int entry_bytes, const Bucket* buckets, int64_t count,
                    int64_t known, uint64_t query, int limit, ProbeHit* hits) {
  return probe_words(entries, entry_bytes, buckets, count, known, query, limit, hits);
}

ProbeFn probe_for(const Kernels& kernels) {
  if (std::strcmp(kernels.name, "avx512") == 0) return &probe_avx512;
  if (std::strcmp(kernels.name, "avx2") == 0) return &probe_avx2;
  return &probe_plain;
}

}  // namespace coophash
