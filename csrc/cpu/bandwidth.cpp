// How fast this machine reads memory: the limit of a search for one query.

#include <atomic>

#include "../hamming.h"
#include "threads.h"

namespace coophash {
namespace {

// Four sums, since one would wait for itself; memory is slower than any of these instructions.
uint64_t read(const uint64_t* words, int64_t count) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; j += 4) {
      a ^= words[i + j];
      b ^= words[i + j + 1];
      c ^= words[i + j + 2];
      d ^= words[i + j + 3];
    }
  }
  for (; i < count; ++i) a ^= words[i];
  return a ^ b ^ c ^ d;
}

}  // namespace

uint64_t read_memory(const uint64_t* words, int64_t count, int threads) {
  constexpr int64_t kPiece = (1 << 20) / 8;  // as the search cuts the database
  const int64_t pieces = (count + kPiece - 1) / kPiece;
  std::atomic<int64_t> next{0};
  std::atomic<uint64_t> all{0};
  parallel_for(threads, threads, [&](int64_t) {
    uint64_t mine = 0;
    for (int64_t i; (i = next.fetch_add(1)) < pieces;) {
      mine ^= read(words + i * kPiece, i + 1 < pieces ? kPiece : count - i * kPiece);
    }
    all ^= mine;
  });
  return all;
}

}  // namespace coophash
