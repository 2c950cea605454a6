// Search by bit slices, for batches of queries: include it in one translation unit of each
// instruction set.
//
// A group of codes, as many as a vector has bits, is turned into tables once; then each query of
// the batch compares itself with the whole group in about half an instruction per bit.
//
// Slices. Plane j is a vector with bit j of every code of the group, so one logical operation works
// on a bit of all codes. A full adder (sum = a ^ b ^ c, carry = majority(a, b, c)) adds three
// planes; adding up the planes of code ^ query gives all distances, in binary, one plane a digit.
//
// Tables. The bits of a code are added in a chain: node k adds bits 2k and 2k + 1 to the parity of
// the bits before them. The sums of the chain are parities and the last of them is the lowest digit
// of the distance. Its carries count two each. A carry is the majority of three planes, of which
// the query flips some, so it is one of 2^3 planes that do not depend on the query otherwise: these
// stand in the table, and a query merely says which one it takes at each node. That is all the work
// on digit 0, done once for the batch; no XOR with the query remains either.
//
// Scan. A query takes one plane at each node and adds these up with full adders. Only whether
// distance >= limit is asked, which is whether distance + (2^L - limit) carries into digit L. The
// constant costs nothing: its digits are what the sums start from, and its lowest digit starts the
// chain, as a flip of the parity. So the sums themselves are never needed, just the last carry.
//
// For 64 bits that is 32 loads and 31 adders for as many codes as a vector has bits: with AVX-512
// (an adder is two instructions) 0.25 instructions a code, where XOR, popcount, minimum and
// comparison of eight codes a vector take 0.5.
//
//   struct Ops {
//     using Vector;
//     static constexpr int kBytes;                     of a vector
//     static Vector load(const uint8_t*);              aligned
//     static void store(uint8_t*, Vector);             aligned
//     static Vector fill(uint32_t);                    the number repeated
//     static Vector and_(Vector, Vector);   xor_, or_
//     static Vector xor3(Vector, Vector, Vector);
//     static Vector add(Vector& sum, Vector a, Vector b);   full adder: returns the carry
//     static void majorities(Vector r, Vector a, Vector b, Vector* out);
//         out[i]: majority of the three, flipped where i has the bits 1 (r), 2 (a), 4 (b)
//     static bool all_ones(Vector);
//     static void store_complement(uint64_t*, Vector);
//     static void planes(const uint8_t* words, uint8_t* out);
//         words: 8 * kBytes numbers of 64 bits, in any alignment; out: their 64 planes, in which
//         bit c % 8 of byte c / 8 is that of word c
//   };
//
// As in hamming_impl.h everything is in an unnamed namespace and nothing of the standard library is
// called.

#ifndef COOPHASH_CPU_SLICED_IMPL_H_
#define COOPHASH_CPU_SLICED_IMPL_H_

#include <cstdint>

#include "hamming_impl.h"
#include "kernels.h"

namespace coophash {
namespace {

constexpr int kVariants = 8;  // planes of a node
constexpr int kSlab = 64;     // nodes that are unrolled: 16 bytes of a code

constexpr int log2_up(int n) {
  int log = 0;
  while ((1 << log) < n) ++log;
  return log;
}

// Codes of up to 16 bytes are unrolled as they are; longer ones are padded to whole slabs with
// zeros.
constexpr int node_count(int width) { return width <= 16 ? 4 * width : (width + 15) / 16 * kSlab; }
constexpr int digit_count(int width) { return log2_up(node_count(width)); }

// A query's record: for each node which plane it takes, in units of 1/8 plane (so that it fits a
// byte), then the digits 1, 2, ... of the constant, each as 32 equal bits, then its digit 0.
constexpr int digits_at(int width) { return node_count(width); }
constexpr int record_bytes(int width) {
  return (digits_at(width) + 4 * (digit_count(width) + 1) + 15) / 16 * 16;
}

inline void store32(uint8_t* bytes, uint32_t word) { __builtin_memcpy(bytes, &word, 4); }

void prepare(const uint8_t* query, int width, uint8_t* record) {
  uint32_t parity = 0;
  for (int node = 0; node < node_count(width); ++node) {
    const uint32_t bits = node < 4 * width ? query[node / 4] >> (2 * (node % 4)) & 3u : 0u;
    record[node] = static_cast<uint8_t>(8 * (parity | bits << 1));
    parity ^= (bits ^ bits >> 1) & 1;
  }
  for (int at = digits_at(width); at < record_bytes(width); ++at) record[at] = 0;
}

// 1 <= limit <= 8 * width
void set_limit(uint8_t* record, int width, int limit) {
  const int digits = digit_count(width);
  const uint32_t constant = (uint32_t{2} << digits) - static_cast<uint32_t>(limit);
  uint8_t* at = record + digits_at(width);
  for (int i = 0; i < digits; ++i) store32(at + 4 * i, constant >> (i + 1) & 1 ? ~0u : 0u);
  const uint32_t lowest = constant & 1;
  if (lowest != load<uint32_t>(at + 4 * digits)) {  // flips the parity that the chain starts from
    for (int node = 0; node < node_count(width); ++node) record[node] ^= 8;
    store32(at + 4 * digits, lowest);
  }
}

// Eight bytes from byte 8 * chunk of each code on, zeros behind the end of the code.
template <int Rows>
void load_chunk(const uint8_t* codes, int width, int chunk, uint64_t* words) {
  const int bytes = width - 8 * chunk;
  if (bytes >= 8) {
    for (int row = 0; row < Rows; ++row) {
      __builtin_memcpy(words + row, codes + int64_t{row} * width + 8 * chunk, 8);
    }
  } else if (width >= 8) {  // what ends with the code
    for (int row = 0; row < Rows; ++row) {
      uint64_t word;
      __builtin_memcpy(&word, codes + int64_t{row} * width + width - 8, 8);
      words[row] = word >> (8 * (8 - bytes));
    }
  } else {
    const uint64_t mask = (uint64_t{1} << (8 * width)) - 1;
    int row = 0;
    for (; (Rows - row) * width >= 8; ++row) {  // reads into the codes that follow
      uint64_t word;
      __builtin_memcpy(&word, codes + row * width, 8);
      words[row] = word & mask;
    }
    for (; row < Rows; ++row) {
      uint64_t word = 0;
      for (int i = width - 1; i >= 0; --i) word = word << 8 | codes[row * width + i];
      words[row] = word;
    }
  }
}

template <class Ops>
void build(const uint8_t* codes, int width, int64_t ahead, uint8_t* table) {
  using Vector = typename Ops::Vector;
  constexpr int kRows = 8 * Ops::kBytes;
  alignas(64) uint64_t words[kRows];
  alignas(64) uint8_t planes[64 * Ops::kBytes];
  Vector parity = Ops::fill(0);
  int node = 0;
  // Codes are read in bursts, once a group, which the hardware's own prefetch does not foresee.
  const uint8_t* next = codes + int64_t{kRows} * width;
  const uint8_t* const end = next + ahead;
  const int64_t part = (ahead + node_count(width) - 1) / node_count(width);
  const auto write = [&](Vector a, Vector b) {
    Vector variants[kVariants];
    Ops::majorities(parity, a, b, variants);
    for (int i = 0; i < kVariants; ++i) {
      Ops::store(table + (int64_t{node} * kVariants + i) * Ops::kBytes, variants[i]);
    }
    parity = Ops::xor3(parity, a, b);
    ++node;
    const uint8_t* const stop = end - next < part ? end : next + part;
    for (; next < stop; next += 64) __builtin_prefetch(next);
  };
  for (int chunk = 0; 8 * chunk < width; ++chunk) {
    if (width == 8) {
      Ops::planes(codes, planes);
    } else {
      load_chunk<kRows>(codes, width, chunk, words);
      Ops::planes(reinterpret_cast<const uint8_t*>(words), planes);
    }
    const int bytes = width - 8 * chunk < 8 ? width - 8 * chunk : 8;
    for (int i = 0; i < 4 * bytes; ++i) {
      const uint8_t* two = planes + 2 * i * Ops::kBytes;
      write(Ops::load(two), Ops::load(two + Ops::kBytes));
    }
  }
  while (node < node_count(width)) write(Ops::fill(0), Ops::fill(0));
  Ops::store(table + int64_t{node} * kVariants * Ops::kBytes, parity);
}

// Adds up what the query takes at `Nodes` <= 2^Digits nodes; sums[i] is digit i + 1. Returns the
// carry into digit Digits + 1.
template <class Ops, int Digits, int Nodes>
[[gnu::always_inline]] inline typename Ops::Vector add_nodes(const uint8_t* table,
                                                             const uint8_t* taken,
                                                             typename Ops::Vector* sums) {
  if constexpr (Digits == 0) {
    return Ops::load(table + taken[0] * (Ops::kBytes / 8));
  } else {
    using Vector = typename Ops::Vector;
    constexpr int kHalf = 1 << (Digits - 1);
    constexpr int kFirst = Nodes < kHalf ? Nodes : kHalf;
    const Vector a = add_nodes<Ops, Digits - 1, kFirst>(table, taken, sums);
    if constexpr (Nodes > kHalf) {
      const Vector b = add_nodes<Ops, Digits - 1, Nodes - kHalf>(
          table + kHalf * kVariants * Ops::kBytes, taken + kHalf, sums);
      return Ops::add(sums[Digits - 1], a, b);
    } else {
      const Vector carry = Ops::and_(sums[Digits - 1], a);
      sums[Digits - 1] = Ops::xor_(sums[Digits - 1], a);
      return carry;
    }
  }
}

// `far` has a bit for each code at distance >= limit.
template <class Ops>
[[gnu::always_inline]] inline int64_t report(typename Ops::Vector far, int64_t query, int64_t found,
                                             SlicedHits hits) {
  if (__builtin_expect(Ops::all_ones(far), 1)) return found;
  hits.queries[found] = static_cast<uint32_t>(query);
  Ops::store_complement(hits.rows + found * (Ops::kBytes / 8), far);
  return found + 1;
}

template <class Ops, int Width>
int64_t scan_short(const uint8_t* table, const uint8_t* records, int64_t count, int,
                   SlicedHits hits) {
  constexpr int kDigits = digit_count(Width);
  int64_t found = 0;
  for (int64_t query = 0; query < count; ++query) {
    const uint8_t* record = records + query * record_bytes(Width);
    typename Ops::Vector sums[kDigits];
    for (int i = 0; i < kDigits; ++i) {
      sums[i] = Ops::fill(load<uint32_t>(record + digits_at(Width) + 4 * i));
    }
    found = report<Ops>(add_nodes<Ops, kDigits, node_count(Width)>(table, record, sums), query,
                        found, hits);
  }
  return found;
}

// More than one slab. The carries of the slabs are added up by half adders: digits above those of a
// slab are few, and so are slabs.
template <class Ops, int HighDigits>
int64_t scan_long(const uint8_t* table, const uint8_t* records, int64_t count, int width,
                  SlicedHits hits) {
  using Vector = typename Ops::Vector;
  constexpr int kLow = log2_up(kSlab);
  const int nodes = node_count(width);
  int64_t found = 0;
  for (int64_t query = 0; query < count; ++query) {
    const uint8_t* record = records + query * record_bytes(width);
    Vector sums[kLow], high[HighDigits];
    for (int i = 0; i < kLow; ++i) sums[i] = Ops::fill(load<uint32_t>(record + nodes + 4 * i));
    for (int i = 0; i < HighDigits; ++i) {
      high[i] = Ops::fill(load<uint32_t>(record + nodes + 4 * (kLow + i)));
    }
    Vector far = Ops::fill(0);
    for (int node = 0; node < nodes; node += kSlab) {
      Vector carry = add_nodes<Ops, kLow, kSlab>(table + int64_t{node} * kVariants * Ops::kBytes,
                                                 record + node, sums);
      for (int i = 0; i < HighDigits; ++i) {
        const Vector next = Ops::and_(high[i], carry);
        high[i] = Ops::xor_(high[i], carry);
        carry = next;
      }
      far = Ops::or_(far, carry);  // at most one of them: distance + constant < 2^(L + 1)
    }
    found = report<Ops>(far, query, found, hits);
  }
  return found;
}

template <int Rows>
int64_t resolve(const uint8_t* codes, int width, const uint8_t* query, const uint64_t* rows,
                int limit, Hit* hits) {
  Hit* end = hits;
  for (int word = 0; word < Rows / 64; ++word) {
    for (uint64_t bits = rows[word]; bits; bits &= bits - 1) {
      const int row = 64 * word + __builtin_ctzll(bits);
      const uint32_t distance = row_distance(codes + int64_t{row} * width, query, width);
      *end = {static_cast<uint32_t>(row), distance};
      end += static_cast<int>(distance) < limit;
    }
  }
  return end - hits;
}

template <class Ops, int Width>
SlicedScanFn short_scan(int width) {
  if constexpr (Width == 0) {
    return nullptr;
  } else {
    return width == Width ? &scan_short<Ops, Width> : short_scan<Ops, Width - 1>(width);
  }
}

template <class Ops>
SlicedKernels sliced_kernels(int width) {
  SlicedScanFn scan = nullptr;
  switch (digit_count(width) - log2_up(kSlab)) {
    case 1:
      scan = &scan_long<Ops, 1>;
      break;
    case 2:
      scan = &scan_long<Ops, 2>;
      break;
    case 3:
      scan = &scan_long<Ops, 3>;
      break;
    case 4:
      scan = &scan_long<Ops, 4>;
      break;
    case 5:
      scan = &scan_long<Ops, 5>;
      break;
    default:
      scan = short_scan<Ops, 16>(width);
      break;
  }
  return {8 * Ops::kBytes,
          (int64_t{node_count(width)} * kVariants + 1) * Ops::kBytes,
          record_bytes(width),
          &build<Ops>,
          &prepare,
          &set_limit,
          scan,
          &resolve<8 * Ops::kBytes>,
          {}};
}

}  // namespace
}  // namespace coophash

#endif  // COOPHASH_CPU_SLICED_IMPL_H_
