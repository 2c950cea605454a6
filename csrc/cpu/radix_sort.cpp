#include "radix_sort.h"

#include <algorithm>
#include <vector>

#include "stop.h"
#include "threads.h"

namespace coophash {
namespace {

constexpr int kDigit = 11;  // bits: the 2048 places that a pass writes to stay in the near caches
constexpr int64_t kDigits = 1 << kDigit;

}  // namespace

// The least significant digit first. Each thread counts the digits of a stretch of its own; sums
// over digits and then over stretches are the places to write to, so the order is that of one
// thread.
void radix_sort(Buffer<uint64_t>& keys, Buffer<uint32_t>& rows, int bits, int threads) {
  const int64_t n = keys.size();
  if (n < 2) return;
  constexpr int64_t kStretch = 1 << 16;  // below this a thread costs more than it saves
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, n / kStretch));
  const auto begin_of = [&](int64_t part) { return n / parts * part + std::min(part, n % parts); };
  Buffer<uint64_t> other_keys(n);
  Buffer<uint32_t> other_rows(n);
  std::vector<int64_t> places(static_cast<size_t>(parts * kDigits));

  for (int shift = 0; shift < bits; shift += kDigit) {
    std::fill(places.begin(), places.end(), 0);
    parallel_for(parts, threads, [&](int64_t part) {
      StopPoints().after(1);
      int64_t* count = places.data() + part * kDigits;
      const int64_t end = begin_of(part + 1);
      for (int64_t i = begin_of(part); i < end; ++i) ++count[keys[i] >> shift & (kDigits - 1)];
    });
    int64_t place = 0;
    bool alike = false;  // all keys have one digit here
    for (int64_t digit = 0; digit < kDigits; ++digit) {
      const int64_t first = place;
      for (int64_t part = 0; part < parts; ++part) {
        place += std::exchange(places[static_cast<size_t>(part * kDigits + digit)], place);
      }
      alike = alike || place - first == n;
    }
    if (alike) continue;
    parallel_for(parts, threads, [&](int64_t part) {
      StopPoints().after(1);
      int64_t* to = places.data() + part * kDigits;
      const int64_t end = begin_of(part + 1);
      for (int64_t i = begin_of(part); i < end; ++i) {
        const int64_t at = to[keys[i] >> shift & (kDigits - 1)]++;
        other_keys[at] = keys[i];
        other_rows[at] = rows[i];
      }
    });
    keys.swap(other_keys);
    rows.swap(other_rows);
  }
}

}  // namespace coophash
