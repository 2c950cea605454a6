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
  const __m512i start =
      _mm512_mullo_epi64(lane, _mm512_set1_epi64(0x0101010101010101 * entry_bytes));
  const __m512i spread = _mm512_add_epi8(start, byte);
  const __mmask64 kept =
      _mm512_cmplt_epi8_mask(byte, _mm512_set1_epi8(static_cast<char>(entry_bytes)));
  const __m512i wanted = _mm512_set1_epi64(static_cast<int64_t>(query & entry_mask(entry_bytes)));
  const __m512i bound = _mm512_set1_epi64(limit);
  Fetcher fetch(entries, entry_bytes, buckets, known);
  ProbeHit* end = hits;
  const auto distances_of = [&](const uint8_t* eight) {
    const __m512i x = _mm512_maskz_permutexvar_epi8(kept, spread, _mm512_loadu_si512(eight));
    return _mm512_popcnt_epi64(_mm512_xor_si512(x, wanted));
  };
  const auto report = [&](int64_t bucket, uint32_t first, __m512i distance, uint32_t found) {
    alignas(64) uint64_t distances[8];
    _mm512_store_si512(distances, distance);
    for (; found; found &= found - 1) {
      const uint32_t i = static_cast<uint32_t>(__builtin_ctz(found));
      *end++ = {static_cast<uint32_t>(bucket), first + i, static_cast<uint32_t>(distances[i])};
    }
  };
  const int64_t stride = 8 * entry_bytes;
  for (int64_t b = 0; b < count; ++b) {
    fetch.before(b);
    const Bucket bucket = buckets[b];
    const uint8_t* at = entries + int64_t{bucket.begin} * entry_bytes;
    uint32_t i = 0;
    for (; i + 32 <= bucket.length; i += 32, at += 4 * stride) {
      const __m512i d0 = distances_of(at), d1 = distances_of(at + stride);
      const __m512i d2 = distances_of(at + 2 * stride), d3 = distances_of(at + 3 * stride);
      // no distance reaches 2^32: comparing halves of a word is enough, and cheaper
      const __m512i least = _mm512_min_epi32(_mm512_min_epi32(d0, d1), _mm512_min_epi32(d2, d3));
      if (__builtin_expect(_mm512_cmplt_epi64_mask(least, bound) != 0, 0)) {
        report(b, bucket.begin + i, d0, _mm512_cmplt_epi64_mask(d0, bound));
        report(b, bucket.begin + i + 8, d1, _mm512_cmplt_epi64_mask(d1, bound));
        report(b, bucket.begin + i + 16, d2, _mm512_cmplt_epi64_mask(d2, bound));
        report(b, bucket.begin + i + 24, d3, _mm512_cmplt_epi64_mask(d3, bound));
      }
    }
    for (; i < bucket.length; i += 8, at += stride) {
      const __m512i distance = distances_of(at);
      const uint32_t left = bucket.length - i;
      const __mmask8 here = static_cast<__mmask8>(left >= 8 ? 0xff : (1u << left) - 1);
      const __mmask8 found = _mm512_mask_cmplt_epi64_mask(here, distance, bound);
      if (__builtin_expect(found != 0, 0)) report(b, bucket.begin + i, distance, found);
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
