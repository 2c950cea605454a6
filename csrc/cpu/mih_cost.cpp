#include "mih_cost.h"

#include <algorithm>
#include <cmath>

#include "costs.h"

namespace coophash {
namespace {

// Measured on one core of an AMD EPYC (Zen 4) with benchmarks/bench_mih.py, beside other work on
// the machine: buckets lie anywhere in memory, and walks suffer from a busy memory more than a flat
// search of a batch does, which works in its caches. On a quiet machine bytes cost half as much;
// where that decides, both ways are as good. Like the costs of the flat search (costs.cpp) they
// move together from machine to machine, and only ratios count.
struct Costs {
  double turn;         // to begin with a table at a radius
  double near_bucket;  // a bucket whose offset is in a near cache, 2^16 values and fewer
  double far_bucket;   // a bucket of a larger table
  double narrow_byte;  // a byte of an entry, read in one run with the rest of its bucket
  double wide_entry;   // an entry that is looked up elsewhere
  double wide_byte;    // a byte of a code there
  double found;        // a code that passes
  double result;       // a row of the result: its place, its id
  double row;          // a row of a group that is looked at for a filter
};
constexpr Costs kCosts = {100, 28, 34, 0.12, 10, 0.15, 60, 250, 2};

// flat_ns_per_row, unless the rows are few enough to stay in a cache from one search to the next.
double flat_row_ns(const Kernels& kernels, int width, int64_t queries, int64_t rows) {
  constexpr int64_t kCached = 16 << 20;  // bytes
  constexpr double kCachedNsPerByte = 1 / 60.0;
  if (rows * width > kCached) return flat_ns_per_row(kernels, width, queries);
  const FlatCosts costs = flat_costs(kernels, width);
  const double count = static_cast<double>(queries);
  const double work = slices_pay(kernels, width, queries, Path::kAuto)
                          ? costs.build + count * costs.slice
                          : count * costs.row;
  return std::max(work, width * kCachedNsPerByte);
}

double binomial(int n, int k) {
  double value = 1;
  for (int i = 1; i <= k; ++i) value = value * (n - k + i) / i;
  return value;
}

double bucket_ns(int bits) { return bits <= 16 ? kCosts.near_bucket : kCosts.far_bucket; }

double entry_ns(int width, int entry_bytes) {
  if (width <= kNarrow) return kCosts.narrow_byte * entry_bytes;
  return kCosts.wide_entry + kCosts.wide_byte * width;
}

// The substrings from the highest bits down, the longer ones first. Bits left over at the bottom
// are in none of them: a table need not see every bit.
std::vector<Substring> split(int bits, int count, int longest) {
  const int covered = std::min(bits, count * longest);
  std::vector<Substring> parts;
  int end = bits;
  for (int j = 0; j < count; ++j) {
    const int length = covered / count + (j < covered % count);
    end -= length;
    parts.push_back({end, length});
  }
  return parts;
}

// Predicted cost of a query whose k-th distance is `radius`, over uniform codes.
double predict(const std::vector<Substring>& parts, double groups, int bits, int radius) {
  const int width = (bits + 7) / 8;
  double sum = 0;
  int proven = 0;  // codes not seen yet are at least so far
  for (int a = 0; proven <= radius; ++a) {
    for (size_t j = 0; j < parts.size() && proven <= radius; ++j, ++proven) {
      const int length = parts[j].bits;
      if (a > length) return sum;  // all codes were seen
      const int rest = width <= kNarrow ? (bits - length + 7) / 8 : 4;
      const double buckets = binomial(length, a);
      sum += buckets *
             (bucket_ns(length) + groups * std::exp2(-length) * entry_ns(width, std::max(1, rest)));
    }
  }
  return sum;
}

// The distance within which the tenth of `rows` uniform codes is expected.
int uniform_radius(int64_t rows, int bits) {
  double share = std::exp2(-bits), sum = 0;
  int radius = 0;
  if (bits > 1000) return bits / 2;  // near enough, and the powers would underflow
  for (; radius < bits; ++radius) {
    sum += share;
    if (sum * static_cast<double>(rows) >= 10) break;
    share = share * (bits - radius) / (radius + 1);
  }
  return radius;
}

}  // namespace

double probe_ns(const MultiIndex& index, const Table& table, double buckets, double entries) {
  return kCosts.turn + buckets * bucket_ns(table.part.bits) +
         entries * entry_ns(index.width, table.entry_bytes);
}

double found_ns() { return kCosts.found; }

double result_ns() { return kCosts.result; }

double rows_ns(double rows) { return rows * kCosts.row; }

double sweep_ns(int64_t groups, int width, const Kernels& kernels) {
  return kCosts.turn + static_cast<double>(groups) * flat_row_ns(kernels, width, 1, groups);
}

double least_ns(const MultiIndex& index, const Kernels& kernels) {
  if (index.tables.empty()) return sweep_ns(index.groups, index.width, kernels);
  return static_cast<double>(index.tables.size()) * (kCosts.turn + bucket_ns(16));
}

std::vector<Substring> choose_substrings(int64_t groups, int64_t rows, int bits, int wanted,
                                         const Kernels& kernels) {
  const double count = static_cast<double>(std::max<int64_t>(1, groups));
  // About one bucket a group: more would be empty, and their offsets would fill the caches.
  const int longest =
      std::min(kMostSubstringBits, std::max(4, static_cast<int>(std::ceil(std::log2(count)))));
  if (wanted >= 0) return split(bits, std::min(wanted, bits), longest);
  const int width = (bits + 7) / 8;
  if (bits > kMostTableBits) return {};

  // Two kinds of query: one to which the tenth nearest is as far as among random codes, and one
  // with near neighbours, as learned codes have. Neither costs more than looking at all groups, so
  // that a kind that is hopeless has no say.
  const double all = sweep_ns(groups, width, kernels);
  const int far = uniform_radius(rows, bits), near = std::min(far, bits / 8);
  std::vector<Substring> best;
  double least = all * all;
  for (int m = 1; m <= std::min(kMostSubstrings, bits); ++m) {
    const std::vector<Substring> parts = split(bits, m, longest);
    const double cost = std::min(all, predict(parts, count, bits, far)) *
                        std::min(all, predict(parts, count, bits, near));
    if (cost < 0.5 * least) {  // another table is memory: it must earn it
      least = cost;
      best = parts;
    }
  }
  return best;
}

// As if the numbers of bits that differ in the substrings were independent of one another, each
// hypergeometric.
std::vector<double> seen_shares(const MultiIndex& index, const std::vector<int>& done) {
  const int bits = index.bits;
  std::vector<double> unseen(static_cast<size_t>(bits) + 1, 1);
  std::vector<double> share;  // the same for tables of one length and radius
  for (size_t j = 0; j < index.tables.size(); ++j) {
    const int length = index.tables[j].part.bits;
    if (j == 0 || length != index.tables[j - 1].part.bits || done[j] != done[j - 1]) {
      share.assign(unseen.size(), 0);
      double none = 1;  // that no bit of the substring is among the d that differ
      for (int d = 0; d <= bits; ++d) {
        double just = none, few = 0;
        for (int i = 0; i <= std::min(done[j], d); ++i) {  // just i of them are
          few += just;
          const int outside = bits - length - d + i + 1;
          just = outside > 0 ? just * (length - i) * (d - i) / ((i + 1.0) * outside) : 0;
        }
        share[static_cast<size_t>(d)] = std::max(0.0, 1 - few);
        none = none * std::max(0, bits - length - d) / std::max(1, bits - d);
      }
    }
    for (size_t d = 0; d < unseen.size(); ++d) unseen[d] *= share[d];
  }
  for (double& value : unseen) value = 1 - value;
  return unseen;
}

double flat_query_ns(const Database& database, int64_t queries, int threads,
                     const Kernels& kernels) {
  // A filter is looked at first, and rows that it leaves are gathered where they are the fewer.
  constexpr double kFilterWord = 1, kGather = 3;
  constexpr int64_t kSample = 1024;  // words of a filter
  double ns = 0;
  int64_t all = 0;
  for (const Span& span : database.spans) all += span.rows;
  const double row = flat_row_ns(kernels, database.width, queries, all);
  const double count = static_cast<double>(queries);
  for (const Span& span : database.spans) {
    const double rows = static_cast<double>(span.rows);
    const int64_t words = (span.rows + 63) / 64;
    double share = 1;
    if (span.allow && words) {
      const int64_t stride = std::max<int64_t>(1, words / kSample);
      int64_t set = 0, seen = 0;
      for (int64_t i = 0; i < words; i += stride, ++seen)
        set += __builtin_popcountll(span.allow[i]);
      share = std::min(1.0, static_cast<double>(set) / (64.0 * static_cast<double>(seen)));
      ns += rows / 64 * kFilterWord;
    }
    ns += share < 0.5 ? rows * share * (kGather + row) : rows * row;
  }
  // All threads take part in a flat search, of one query too.
  const double at_work = std::min<double>(threads, count);
  return ns / std::max(1, threads) / count * at_work;
}

}  // namespace coophash
