#include "mih_check.h"

#include <cmath>

#include "../../csrc/cpu/kernels.h"
#include "check_support.h"

namespace check {
namespace {

using coophash::Kernels;
using coophash::MultiIndex;

constexpr int64_t kQueries = 9;

struct Codes {
  std::vector<uint8_t> rows, queries;
  std::vector<int64_t> ids;
  std::vector<uint64_t> allow;
  coophash::Database database;
};

// Two spans, the second with a filter, and ids that fall from row to row or count up.
Codes make_codes(Kind kind, int64_t count, int width, bool increasing) {
  Codes c;
  c.rows.resize(static_cast<size_t>(count * width));
  c.queries.resize(static_cast<size_t>(kQueries * width));
  fill_codes(kind, 5, count, width, c.rows.data());
  fill_codes(kind, 6, kQueries, width, c.queries.data());
  if (count) std::memcpy(c.queries.data(), c.rows.data(), static_cast<size_t>(width));
  for (int64_t row = 0; row < count; ++row) c.ids.push_back(3 * (increasing ? row : count - row));
  const int64_t split = count / 3, rest = count - split;
  Random random(7);
  for (int64_t word = 0; word < (rest + 63) / 64; ++word) {
    const int64_t left = rest - 64 * word;
    c.allow.push_back(random.next() & (left < 64 ? (uint64_t{1} << left) - 1 : ~uint64_t{0}));
  }
  c.database = {{{c.rows.data(), c.ids.data(), nullptr, split, 0},
                 {c.rows.data() + split * width, c.ids.data() + split, c.allow.data(), rest, 0}},
                width,
                increasing};
  return c;
}

void check_search(const Codes& c, const std::vector<const MultiIndex*>& indexes, int threads,
                  const Kernels& isa) {
  const coophash::Queries queries = {c.queries.data(), kQueries};
  coophash::MultiSearchCounts counts;
  for (const int64_t k : {1, 7, 100, 2000}) {
    std::vector<int32_t> distances(static_cast<size_t>(kQueries * k)), expected(distances.size());
    std::vector<int64_t> ids(distances.size()), expected_ids(distances.size());
    topk(c.database, indexes, queries, k, threads, isa, INFINITY, distances.data(), ids.data(),
         counts);
    topk(c.database, queries, k, threads, isa, expected.data(), expected_ids.data());
    if (distances != expected || ids != expected_ids) {
      fail("%d threads, k %lld: not as the flat search", threads, static_cast<long long>(k));
    }
  }
  for (const int radius : {0, 2, c.database.width, 8 * c.database.width}) {
    coophash::MultiRangeSearch search(c.database, indexes, queries, radius, threads, isa, INFINITY,
                                      counts);
    const coophash::RangeResult expected = range(c.database, queries, radius, threads, isa);
    if (search.limits() != expected.limits) {
      fail("%d threads, radius %d: not as many as in the flat search", threads, radius);
    }
    std::vector<int32_t> distances(expected.distances.size());
    std::vector<int64_t> ids(expected.ids.size());
    search.fill(distances.data(), ids.data());
    if (distances != expected.distances || ids != expected.ids) {
      fail("%d threads, radius %d: not as the flat search", threads, radius);
    }
  }
}

}  // namespace

void check_multi_index(const Kernels& isa, int width) {
  for (const Kind kind : kKinds) {
    for (int substrings = 0; substrings <= 5; ++substrings) {
      const int64_t rows = substrings == 3 ? 0 : 901;
      const Codes c = make_codes(kind, rows, width, substrings % 2);
      begin_case("%s, width %d, %s codes, %lld rows, %d substrings", isa.name, width, name(kind),
                 static_cast<long long>(rows), substrings);
      const int64_t middle = rows / 3, end = middle + (rows - middle) / 64 * 64;
      const auto build = [&](int64_t first, int64_t last) {
        return build_multi_index(c.database, first, last, 8 * width, substrings, 2, isa);
      };
      const auto first = build(0, middle), second = build(middle, end), all = build(0, rows);
      check_search(c, {first.get(), second.get()}, 1, isa);
      check_search(c, {all.get()}, 3, isa);
    }
  }
}

}  // namespace check
