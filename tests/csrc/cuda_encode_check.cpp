// The encodings of csrc/cuda/encode.h and the numbers of keys.h, one by one.

#include "../../csrc/cuda/encode.h"
#include "../../csrc/cuda/keys.h"
#include "../../csrc/cuda/layout.h"
#include "check_support.h"
#include "cuda_check.h"

namespace check {
namespace {

namespace gpu = coophash::gpu;

// The sum that a tensor core would make of a code and a query: all steps, lanes and halves.
int encoded_sum(int words, const uint32_t* code, const uint32_t* query, int limit) {
  int sum = gpu::initial_sum(words, limit);
  for (int s = 0; s < gpu::encoded_steps(words); ++s) {
    for (int t = 0; t < 4; ++t) {
      const int which = gpu::half_word(words, s, t);
      const int at = which < 0 ? 0 : which;
      const uint32_t a0 = gpu::first_half(words, t, code[at]);
      const uint32_t b0 = gpu::first_half(words, t, query[at]);
      sum += __popc(a0 & b0) + __popc(gpu::second_half_of_code(words, a0) &
                                      gpu::second_half_of_query(words, t, b0, limit));
    }
  }
  return sum;
}

void check_sum(int words, const uint32_t* code, const uint32_t* query, int limit) {
  int distance = 0;
  for (int w = 0; w < words; ++w) distance += __popc(code[w] ^ query[w]);
  const int sum = encoded_sum(words, code, query, limit);
  const bool hit = sum >> gpu::hit_bit(words) & 1;
  if (hit != (distance <= limit)) {
    fail("distance %d, limit %d, sum %d: a hit is %d", distance, limit, sum, hit);
  }
  // merging by OR must not make a hit of two that are none: no higher bit, and never negative
  if (sum < 0 || sum >> (gpu::hit_bit(words) + 1)) fail("the sum %d has a higher bit", sum);
}

// Every pair of codes and every limit, for short codes; for all lengths every distance and limit.
void check_sums(bool short_run) {
  begin_case("encoding, every pair of codes of a few bits");
  const uint32_t few = short_run ? 32 : 256;
  for (const int words : {1, 2, 4, 8, 16}) {
    for (uint32_t a = 0; a < few; ++a) {
      for (uint32_t b = 0; b < few; ++b) {
        uint32_t code[16] = {}, query[16] = {};
        code[words - 1] = a << 7;
        query[words - 1] = b << 7;
        for (const int limit : {-1, 0, 1, 2, 3, 4, 7, 8, 32 * words - 1, 32 * words}) {
          check_sum(words, code, query, limit);
        }
      }
    }
  }
  Random random(1);
  for (const int words : {1, 2, 4, 8, 16}) {
    begin_case("encoding, %d words, every distance and limit", words);
    for (int distance = 0; distance <= 32 * words; ++distance) {
      uint32_t code[16], query[16];
      for (int w = 0; w < words; ++w) query[w] = code[w] = static_cast<uint32_t>(random.next());
      for (int flipped = 0, bit; flipped < distance;) {
        bit = random.below(32 * words);
        if ((code[bit / 32] ^ query[bit / 32]) >> (bit % 32) & 1) continue;
        query[bit / 32] ^= 1u << (bit % 32);
        ++flipped;
      }
      for (int limit = -1; limit <= 32 * words; ++limit) check_sum(words, code, query, limit);
    }
  }
}

// Each word of a code stands in one lane and step, plain and flipped.
void check_words() {
  for (const int words : {1, 2, 4, 8, 16}) {
    begin_case("words of %d in lanes", words);
    std::vector<int> plain(static_cast<size_t>(words)), flipped(static_cast<size_t>(words));
    for (int s = 0; s < gpu::encoded_steps(words); ++s) {
      for (int t = 0; t < 4; ++t) {
        const int which = gpu::half_word(words, s, t);
        if (which < 0) continue;
        const uint32_t half0 = gpu::first_half(words, t, 0x0000ffffu);
        ++(half0 == 0x0000ffffu ? plain : flipped)[static_cast<size_t>(which)];
        if (!gpu::has_spare_bits(words)) {
          if (gpu::second_half_of_code(words, half0) != 0xffff0000u) fail("half 1 is not flipped");
          ++flipped[static_cast<size_t>(which)];
        }
      }
    }
    for (int w = 0; w < words; ++w) {
      if (plain[static_cast<size_t>(w)] != 1 || flipped[static_cast<size_t>(w)] != 1) {
        fail("word %d stands %d times plain, %d times flipped", w, plain[static_cast<size_t>(w)],
             flipped[static_cast<size_t>(w)]);
      }
    }
  }
}

void check_matrices() {
  begin_case("matrices in shared memory");
  for (const int steps : {1, 2, 4}) {
    std::vector<int> used(static_cast<size_t>(128 * steps * 32));
    for (int s = 0; s < steps; ++s) {
      for (int half = 0; half < 2; ++half) {
        for (int n = 0; n < 128; ++n) {
          const int offset = gpu::shared_offset(128, s, half, n);
          if (offset % 16) fail("offset %d", offset);
          for (int i = 0; i < 16; ++i) ++used.at(static_cast<size_t>(offset + i));
          const int expected = gpu::shared_offset(128, s, 0, 0) + half * gpu::kHalfStride +
                               n / 8 * gpu::kGroupStride + n % 8 * 16;
          if (offset != expected) fail("offset %d, expected %d", offset, expected);
        }
      }
    }
    for (const int times : used) {
      if (times != 1) fail("a byte is used %d times", times);
    }
  }
  const uint64_t descriptor = gpu::shared_descriptor(0x12340);
  if ((descriptor & 0x3fff) != 0x1234 || (descriptor >> 16 & 0x3fff) != 8 ||
      (descriptor >> 32 & 0x3fff) != 16 || descriptor >> 46) {
    fail("descriptor %llx", static_cast<unsigned long long>(descriptor));
  }
}

void check_keys() {
  begin_case("keys");
  for (const int distance : {0, 1, 64, 4096}) {
    for (const int64_t place : {int64_t{0}, int64_t{1}, (int64_t{1} << 48) - 1}) {
      const gpu::Key key = gpu::make_key(distance, place);
      if (gpu::distance_of(key) != distance || gpu::place_of(key) != place) fail("a key is torn");
      for (const int bits : {8, 4096}) {
        // keys below the bound reach its distance, unless that begins with it
        const int expected = std::min(bits, place ? distance : distance - 1);
        if (gpu::limit_of(key, bits) != expected) fail("limit of distance %d", distance);
      }
    }
    if (gpu::limit_of(gpu::bound_below(distance), 4096) != distance - 1) fail("bound_below");
  }
  if (gpu::limit_of(gpu::kNoBound, 77) != 77) fail("no bound");
  for (const int64_t rows : {int64_t{1}, int64_t{1024}, int64_t{1025}, int64_t{1} << 40}) {
    const int shift = gpu::tie_shift(rows);
    if ((rows - 1) >> shift >= gpu::kTieBins) fail("too many bins");
    if (shift && (rows - 1) >> (shift - 1) < gpu::kTieBins) fail("bins are too wide");
  }
  for (const int64_t k : {1, 10, 100, 256, 257, 1000, 16384}) {
    begin_case("rounds for k = %lld", static_cast<long long>(k));
    const int64_t capacity = gpu::capacity_for(k);
    const gpu::Rounds rounds = gpu::rounds_for(k, capacity);
    if (rounds.first < k || rounds.first > capacity || rounds.first % gpu::kRoundRows) {
      fail("the first round has %lld rows", static_cast<long long>(rounds.first));
    }
    if (k + 2 * k * (rounds.growth - 1) > capacity) fail("growth %d", rounds.growth);
    int64_t seen = 0;
    int number = 0;
    for (const int64_t rows = 1000000007; seen < rows; ++number) {
      const int64_t size = gpu::next_round(rounds, seen, rows - seen);
      if (size <= 0 || size > rows - seen) fail("a round of %lld", static_cast<long long>(size));
      seen += size;
      if (seen < rows && size % gpu::kRoundRows) fail("a round ends within a tile");
    }
    if (number > 12) fail("%d rounds", number);
  }
}

// Bytes from any address, with pages before and behind that must not be touched.
void check_loads() {
  for (const auto side : {Guarded<uint8_t>::Side::kFront, Guarded<uint8_t>::Side::kBack}) {
    for (int items = 1; items <= 48; ++items) {
      Guarded<uint8_t> memory(items, side);
      for (int i = 0; i < items; ++i) memory[i] = static_cast<uint8_t>(37 * i + 11);
      for (int at = 0; at < items; ++at) {
        for (int bytes = 1; bytes <= std::min(16, items - at); ++bytes) {
          begin_case("%d bytes at %d of %d", bytes, at, items);
          uint8_t expected[16] = {}, found[16];
          std::memcpy(expected, memory.data() + at, static_cast<size_t>(bytes));
          const uint4 loaded =
              gpu::load_bytes(memory.data() + at, bytes, memory.data(), memory.data() + items);
          std::memcpy(found, &loaded, 16);
          if (std::memcmp(expected, found, 16)) fail("wrong bytes");
        }
      }
    }
  }
}

// Each row of a tile stands in one vector, and its parts in lanes next to one another.
void check_tiles() {
  for (int width = 1; width <= 512; ++width) {
    begin_case("tile, width %d", width);
    const int lanes = gpu::lanes_of(width), many = gpu::per_vector(width);
    if (lanes * 16 < width || (lanes > 1 && lanes * 8 >= width) || 32 % lanes) fail("lanes");
    if (many > 1 && lanes > 1) fail("several codes in a part of one");
    std::vector<int> seen(static_cast<size_t>(gpu::tile_rows(lanes, many)));
    for (int j = 0; j < gpu::kVectors; ++j) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int r = 0; r < many; ++r) {
          ++seen.at(static_cast<size_t>(gpu::row_in_tile(j, lane, lanes, many) + r));
        }
      }
    }
    for (const int times : seen) {
      if (times != lanes) fail("a row stands in %d lanes", times);
    }
  }
}

}  // namespace

void check_encoding(bool short_run) {
  check_sums(short_run);
  check_words();
  check_matrices();
  check_keys();
  check_loads();
  check_tiles();
}

}  // namespace check
