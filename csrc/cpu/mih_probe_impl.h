// The probing loop, shared by all instruction sets: include it in one translation unit of each. See
// hamming_impl.h for why all is in an unnamed namespace.

#ifndef COOPHASH_CPU_MIH_PROBE_IMPL_H_
#define COOPHASH_CPU_MIH_PROBE_IMPL_H_

#include "hamming_impl.h"
#include "mih_probe.h"

namespace coophash {
namespace {

// Fetches whole buckets, so far ahead that some 8 KiB are under way: buckets lie anywhere in
// memory, where the hardware's own prefetch does not look.
class Fetcher {
 public:
  Fetcher(const uint8_t* entries, int entry_bytes, const Bucket* buckets, int64_t known)
      : entries_(entries), bytes_(entry_bytes), buckets_(buckets), known_(known) {}

  void before(int64_t bucket) {
    if (bucket > next_) next_ = bucket;
    while (next_ < known_ && next_ < bucket + kMostBuckets && ahead_ < kAhead) {
      const int64_t size = size_of(next_);
      const uint8_t* line = entries_ + int64_t{buckets_[next_].begin} * bytes_;
      for (const uint8_t* end = line + size; line < end; line += 64) __builtin_prefetch(line);
      ahead_ += size;
      ++next_;
    }
    ahead_ -= size_of(bucket);
  }

 private:
  static constexpr int64_t kAhead = 8192, kMostBuckets = 64;

  int64_t size_of(int64_t bucket) const { return int64_t{buckets_[bucket].length} * bytes_ + 63; }

  const uint8_t* entries_;
  int bytes_;
  const Bucket* buckets_;
  int64_t known_;
  int64_t next_ = 0;
  int64_t ahead_ = 0;
};

inline uint64_t entry_mask(int entry_bytes) { return ~uint64_t{0} >> (64 - 8 * entry_bytes); }

inline int64_t probe_words(const uint8_t* entries, int entry_bytes, const Bucket* buckets,
                           int64_t count, int64_t known, uint64_t query, int limit,
                           ProbeHit* hits) {
  const uint64_t mask = entry_mask(entry_bytes);
  const uint32_t bound = static_cast<uint32_t>(limit);
  Fetcher fetch(entries, entry_bytes, buckets, known);
  ProbeHit* end = hits;
  for (int64_t b = 0; b < count; ++b) {
    fetch.before(b);
    const Bucket bucket = buckets[b];
    const uint8_t* at = entries + int64_t{bucket.begin} * entry_bytes;
    for (uint32_t i = 0; i < bucket.length; ++i, at += entry_bytes) {
      const uint32_t distance = popcount((load<uint64_t>(at) ^ query) & mask);
      if (distance < bound) {
        *end++ = {static_cast<uint32_t>(b), bucket.begin + i, distance};
      }
    }
  }
  return end - hits;
}

}  // namespace
}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_PROBE_IMPL_H_
