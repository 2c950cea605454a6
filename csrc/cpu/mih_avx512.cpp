// Eight entries at a time, moved into lanes of a word while they are loaded.

#include "mih_probe_impl.h"

#if defined(__AVX512VPOPCNTDQ__) && defined(__AVX512VBMI__)
#include <immintrin.h>
#endif

namespace coophash {

#if defined(__AVX512VPOPCNTDQ__) && defined(__AVX512VBMI__)

int64_t probe_avx512(const uint8_t* entries, int entry_bytes, const Bucket* buckets, int64_t count,
                     int64_t known, uint64_t query, int limit, ProbeHit* hits) {
  // Byte b of lane i is byte i * entry_bytes + b of what was loaded, if b < entry_bytes, else 0.
  const __m512i byte = _mm512_set1_epi64(0x0706050403020100);
  const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i start = _mm512_mullo_epi64(lane, _mm512_set1_epi64(0x0101010101010101 * entry_bytes));
  const __m512i spread = _mm512_add_epi8(start, byte);
  const __mmask64 kept =
      _mm512_cmplt_epi8_mask(byte, _mm512_set1_epi8(static_cast<char>(entry_bytes)));
  const __m512i wanted = _mm512_set1_epi64(static_cast<int64_t>(query & entry_mask(entry_bytes)));
  const __m512i bound = _mm512_set1_epi64(limit);
  Fetcher fetch(entries, entry_bytes, buckets, known);
  ProbeHit* end = hits;
  for (int64_t b = 0; b < count; ++b) {
    fetch.before(b);
    const Bucket bucket = buckets[b];
    const uint8_t* at = entries + int64_t{bucket.begin} * entry_bytes;
    for (uint32_t i = 0; i < bucket.length; i += 8, at += 8 * entry_bytes) {
      const __m512i x = _mm512_maskz_permutexvar_epi8(kept, spread, _mm512_loadu_si512(at));
      const __m512i distance = _mm512_popcnt_epi64(_mm512_xor_si512(x, wanted));
      const uint32_t left = bucket.length - i;
      const __mmask8 here = static_cast<__mmask8>(left >= 8 ? 0xff : (1u << left) - 1);
      __mmask8 found = _mm512_mask_cmplt_epi64_mask(here, distance, bound);
      if (__builtin_expect(found != 0, 0)) {
        alignas(64) uint64_t distances[8];
        _mm512_store_si512(distances, distance);
        for (; found; found = static_cast<__mmask8>(found & (found - 1))) {
          const uint32_t row = static_cast<uint32_t>(__builtin_ctz(found));
          *end++ = {static_cast<uint32_t>(b), bucket.begin + i + row,
                    static_cast<uint32_t>(distances[row])};
        }
      }
    }
  }
  return end - hits;
}

#else

int64_t probe_avx512(const uint8_t* entries, int entry_bytes, const Bucket* buckets, int64_t count,
                     int64_t known, uint64_t query, int limit, ProbeHit* hits) {
  return probe_words(entries, entry_bytes, buckets, count, known, query, limit, hits);
}

#endif

}  // namespace coophash
