// Tensor cores on single bits, from the definition of their fragments in the PTX ISA: m16n8k256
// with mma.sync, m64nNk256 with wgmma.

#include <cstring>

#include "emulator.h"

namespace coophash::gpu {

namespace {

struct Give {
  uint32_t a[4], b[2];
};

int lane() { return static_cast<int>(threadIdx.x % 32); }

// "row = groupID for a0, a2, groupID + 8 for a1, a3; col = threadID_in_group * 32 + i, + 128 for a2
// and a3": the words of row r of the left side, in order of column.
void left_row(const unsigned char* slots, int r, uint32_t (&words)[8]) {
  for (int t = 0; t < 4; ++t) {
    const Give give = emulator::slot_of<Give>(slots, 4 * (r % 8) + t);
    words[t] = give.a[r / 8];
    words[4 + t] = give.a[2 + r / 8];
  }
}

}  // namespace

void mma_and_popc(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
  Give mine;
  std::memcpy(mine.a, a, sizeof(a));
  std::memcpy(mine.b, b, sizeof(b));
  const unsigned char* slots = emulator::exchange(emulator::kMma, &mine, sizeof(mine));
  if (lane() == 0) ++emulator::counts().mma;
  int sums[4];
  for (int i = 0; i < 4; ++i) {
    // "row = groupID for c0, c1, groupID + 8 for c2, c3; col = threadID_in_group * 2 + (i & 1)"
    uint32_t row[8];
    left_row(slots, lane() / 4 + (i < 2 ? 0 : 8), row);
    const int column = lane() % 4 * 2 + (i & 1);
    sums[i] = c[i];
    for (int t = 0; t < 4; ++t) {
      // "row = threadID_in_group * 32 + i, + 128 for b1; col = groupID"
      const Give give = emulator::slot_of<Give>(slots, 4 * column + t);
      sums[i] += __popc(row[t] & give.b[0]) + __popc(row[4 + t] & give.b[1]);
    }
  }
  std::memcpy(d, sums, sizeof(sums));
}

// ---- wgmma --------------------------------------------------------------------------------------

namespace {

constexpr int kColumns = 128;
constexpr uint32_t kAddress = 1024;  // where shared memory that was asked for is said to begin
thread_local const unsigned char* shared_base = nullptr;

// A word of the right side, from the descriptor of a matrix that is stored column by column ("K
// major") without swizzling: bits 0-13 start address, 16-29 leading and 32-45 stride dimension byte
// offset, all in units of 16 bytes; 62-63 swizzling.
uint32_t right_word(uint64_t descriptor, int column, int word) {
  if (descriptor >> 49) emulator::fail("the descriptor asks for an offset or for swizzling");
  const auto field = [&](int bit) {
    return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4;
  };
  // matrices of 8 columns by 16 bytes: the leading offset leads to the next 16 bytes of the same
  // columns, the stride offset to the next 8 columns
  const uint32_t address = field(0) + static_cast<uint32_t>(word / 4) * field(16) +
                           static_cast<uint32_t>(column / 8) * field(32) +
                           static_cast<uint32_t>(column % 8) * 16 +
                           static_cast<uint32_t>(word % 4) * 4;
  uint32_t value;
  std::memcpy(&value, shared_base + (address - kAddress), sizeof(value));
  return value;
}

}  // namespace

uint32_t shared_address(const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16) emulator::fail("matrices must be aligned");
  shared_base = static_cast<const unsigned char*>(pointer);
  return kAddress;
}

void wgmma_and_popc(int (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
  Give mine = {};
  std::memcpy(mine.a, a, sizeof(a));
  const unsigned char* slots = emulator::exchange(emulator::kMma, &mine, sizeof(mine));
  if (lane() == 0) ++emulator::counts().wgmma;
  for (int i = 0; i < kColumns / 2; ++i) {
    // of each warp's 16 rows: row = groupID for d0, d1, groupID + 8 for d2, d3 of four;
    // column = 8 * (i / 4) + threadID_in_group * 2 + (i & 1)
    uint32_t row[8];
    left_row(slots, lane() / 4 + (i % 4 < 2 ? 0 : 8), row);
    const int column = i / 4 * 8 + lane() % 4 * 2 + (i & 1);
    int sum = add ? d[i] : 0;
    for (int w = 0; w < 8; ++w) sum += __popc(row[w] & right_word(b, column, w));
    d[i] = sum;
  }
}

}  // namespace coophash::gpu
