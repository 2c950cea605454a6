#include "filter.h"

#include <algorithm>
#include <cstring>

namespace coophash {
namespace {

// The bits of a word that stand for rows begin .. end - 1.
uint64_t bits_within(const uint64_t* allow, int64_t word, int64_t begin, int64_t end) {
  uint64_t bits = allow[word];
  if (64 * word < begin) bits &= ~uint64_t{0} << (begin - 64 * word);
  if (64 * (word + 1) > end) bits &= ~uint64_t{0} >> (64 * (word + 1) - end);
  return bits;
}

// Bits of `count` whole words. The baseline has no instruction for it, so the bytes are counted
// first, which takes a vector of words at a time, and added up once for many words.
int64_t count_words(const uint64_t* words, int64_t count) {
  constexpr int64_t kWords = 31;  // 31 * 8 fits into a byte
  int64_t sum = 0;
  for (int64_t first = 0; first < count; first += kWords) {
    const int64_t last = std::min(count, first + kWords);
    uint64_t bytes = 0;
    for (int64_t i = first; i < last; ++i) {
      uint64_t x = words[i];
      x -= (x >> 1) & 0x5555555555555555u;
      x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
      bytes += (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    }
    const uint64_t pairs = (bytes & 0x00ff00ff00ff00ffu) + ((bytes >> 8) & 0x00ff00ff00ff00ffu);
    sum += static_cast<int64_t>((pairs * 0x0001000100010001u) >> 48);
  }
  return sum;
}

template <int Width>
void gather(const uint8_t* codes, int width, const int64_t* rows, int64_t count, uint8_t* out) {
  const int64_t bytes = Width ? Width : width;
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(out + i * bytes, codes + rows[i] * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace

int64_t count_allowed(const uint64_t* allow, int64_t begin, int64_t end) {
  int64_t count = 0;
  if (begin < end && begin % 64) {
    const int64_t stop = std::min(end, (begin / 64 + 1) * 64);
    count += __builtin_popcountll(bits_within(allow, begin / 64, begin, stop));
    begin = stop;
  }
  if (begin < end && end % 64) {
    const int64_t start = std::max(begin, end / 64 * 64);
    count += __builtin_popcountll(bits_within(allow, end / 64, start, end));
    end = start;
  }
  return begin < end ? count + count_words(allow + begin / 64, (end - begin) / 64) : count;
}

int64_t list_allowed(const uint64_t* allow, int64_t& begin, int64_t end, int64_t room,
                     int64_t* rows) {
  constexpr int64_t kSkip = 8;  // words: one cache line of the filter
  int64_t count = 0;
  int64_t word = begin / 64;
  for (; 64 * word < end && count + 64 <= room; ++word) {
    uint64_t bits = bits_within(allow, word, begin, end);
    if (!bits) {
      // Where hardly any row is allowed, whole lines are empty.
      while (64 * (word + 1 + kSkip) <= end) {
        uint64_t any = 0;
        for (int64_t i = 1; i <= kSkip; ++i) any |= allow[word + i];
        if (any) break;
        word += kSkip;
      }
      continue;
    }
    for (; bits; bits &= bits - 1) rows[count++] = 64 * word + __builtin_ctzll(bits);
  }
  begin = std::min(end, 64 * word);
  return count;
}

void gather_codes(const uint8_t* codes, int width, const int64_t* rows, int64_t count,
                  uint8_t* out) {
  switch (width) {
    case 4:
      return gather<4>(codes, width, rows, count, out);
    case 8:
      return gather<8>(codes, width, rows, count, out);
    case 16:
      return gather<16>(codes, width, rows, count, out);
    case 32:
      return gather<32>(codes, width, rows, count, out);
    default:
      return gather<0>(codes, width, rows, count, out);
  }
}

}  // namespace coophash
