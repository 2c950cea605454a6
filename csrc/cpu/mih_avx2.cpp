// One word at a time with POPCNT: memory is slower.

#include "mih_probe_impl.h"

namespace coophash {

int64_t probe_avx2(const uint8_t* entries, int entry_bytes, const Bucket* buckets, int64_t count,
                   int64_t known, uint64_t query, int limit, ProbeHit* hits) {
  return probe_words(entries, entry_bytes, buckets, count, known, query, limit, hits);
}

}  // namespace coophash
