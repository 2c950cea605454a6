#include "sliced_check.h"

#include <algorithm>

#include "../../csrc/cpu/sliced.h"
#include "check_support.h"

namespace check {
namespace {

using coophash::Hit;

// What `scan` and `resolve` say of one query, against the distances of all rows.
void check_query(const coophash::SlicedKernels& kernels, const uint8_t* codes, int width,
                 const uint8_t* query, int limit, const std::vector<int>& expected,
                 const uint64_t* found_rows) {
  for (int row = 0; row < kernels.rows; ++row) {
    const bool found = found_rows && (found_rows[row / 64] >> (row % 64) & 1);
    const int distance = expected[static_cast<size_t>(row)];
    if (found != (distance < limit)) {
      fail("slices, limit %d: row %d at distance %d is %sfound", limit, row, distance,
           found ? "" : "not ");
    }
  }
  if (!found_rows) return;
  Guarded<Hit> hits(kernels.rows + coophash::kHitSlack, Guarded<Hit>::Side::kBack);
  const int lower = (limit + 1) / 2;  // the limit may have fallen since
  const int64_t count = kernels.resolve(codes, width, query, found_rows, lower, hits.data());
  int64_t place = 0;
  for (int row = 0; row < kernels.rows; ++row) {
    const int distance = expected[static_cast<size_t>(row)];
    if (distance >= lower) continue;
    if (place >= count || static_cast<int>(hits[place].row) != row ||
        static_cast<int>(hits[place].distance) != distance) {
      fail("slices, limit %d, then %d: hit %lld should be row %d at %d", limit, lower,
           static_cast<long long>(place), row, distance);
    }
    ++place;
  }
  if (place != count) fail("slices, limit %d, then %d: too many hits", limit, lower);
}

// Histograms of a group, whole and of every third row, twice over: counts are added.
void check_counting(const coophash::SlicedKernels& kernels, int width, const uint8_t* table,
                    const uint8_t* record, const std::vector<int>& distances) {
  const coophash::SlicedCounting& counting = kernels.counting;
  const int bins = 8 * width + 1;
  const size_t bytes = static_cast<size_t>(counting.workspace_bytes);
  const coophash::AlignedBytes tables(2 * kernels.table_bytes), workspace(counting.workspace_bytes);
  const coophash::AlignedBytes bits(2 * kernels.rows / 8);
  std::memset(workspace.data(), 0, bytes);
  std::vector<uint16_t> classes;
  for (int i = 0; i < 2; ++i) {
    std::memcpy(tables.data() + i * kernels.table_bytes, table,
                static_cast<size_t>(kernels.table_bytes));
    for (int row = 0; row < kernels.rows; ++row) classes.push_back(static_cast<uint16_t>(row % 3));
  }
  uint64_t* const relevant = reinterpret_cast<uint64_t*>(bits.data());
  counting.mark_classes(classes.data(), 2 * kernels.rows, 1, relevant);
  Guarded<int64_t> total(bins, Guarded<int64_t>::Side::kBack);
  Guarded<int64_t> hits(bins, Guarded<int64_t>::Side::kBack);
  for (int d = 0; d < bins; ++d) total.data()[d] = hits.data()[d] = 0;
  for (const bool split : {true, false, true}) {
    counting.count(tables.data(), 2, record, width, bins, split ? relevant : nullptr,
                   workspace.data(), total.data(), split ? hits.data() : nullptr);
  }
  std::vector<int64_t> all(static_cast<size_t>(bins)), some(all);
  for (size_t row = 0; row < distances.size(); ++row) {
    all[static_cast<size_t>(distances[row])] += 6;
    some[static_cast<size_t>(distances[row])] += row % 3 == 1 ? 4 : 0;
  }
  for (size_t d = 0; d < all.size(); ++d) {
    if (total.data()[d] != all[d] || hits.data()[d] != some[d]) {
      fail("slices: %lld and %lld rows at distance %zu, expected %lld and %lld",
           (long long)total.data()[d], (long long)hits.data()[d], d, (long long)all[d],
           (long long)some[d]);
    }
  }
  for (size_t i = 0; i < bytes; ++i) {
    if (workspace.data()[i]) fail("slices: the workspace is not 0 at byte %zu", i);
  }
}

void check_kind(const coophash::Kernels& isa, int width, Kind kind, bool short_run) {
  using Side = Guarded<uint8_t>::Side;
  const coophash::SlicedKernels kernels = isa.sliced(width);
  begin_case("%s, width %d, %s codes, a group of %d", isa.name, width, name(kind), kernels.rows);
  constexpr int64_t kQueries = 7;
  const int64_t rows = kernels.rows, words = rows / 64;
  Guarded<uint8_t> front(rows * width, Side::kFront), back(rows * width, Side::kBack);
  Guarded<uint8_t> queries(kQueries * width, Side::kBack);
  fill_codes(kind, 2, rows, width, back.data());
  fill_codes(kind, 3, kQueries, width, queries.data());
  // one that is there, and one that differs in each bit
  std::memcpy(queries.data(), back.data() + 5 * width, static_cast<size_t>(width));
  for (int i = 0; i < width; ++i) queries[width + i] = static_cast<uint8_t>(~queries[i]);
  std::memcpy(front.data(), back.data(), static_cast<size_t>(rows * width));
  std::vector<std::vector<int>> expected(kQueries);
  for (int64_t q = 0; q < kQueries; ++q) {
    for (int64_t row = 0; row < rows; ++row) {
      expected[static_cast<size_t>(q)].push_back(
          naive_distance(back.data() + row * width, queries.data() + q * width, width));
    }
  }

  const coophash::AlignedBytes table(kernels.table_bytes), again(kernels.table_bytes);
  const coophash::AlignedBytes records(kernels.record_bytes * kQueries);
  kernels.build(back.data(), width, 0, table.data());
  kernels.build(front.data(), width, rows * width, again.data());
  if (std::memcmp(table.data(), again.data(), static_cast<size_t>(kernels.table_bytes)) != 0) {
    fail("slices: the table depends on where the codes lie");
  }
  for (int64_t q = 0; q < kQueries; ++q) {
    kernels.prepare(queries.data() + q * width, width, records.data() + q * kernels.record_bytes);
  }
  if (kernels.counting.count) {
    for (int64_t q = 0; q < kQueries; ++q) {
      check_counting(kernels, width, table.data(), records.data() + q * kernels.record_bytes,
                     expected[static_cast<size_t>(q)]);
    }
  }
  std::vector<int> limits = {8 * width, 1, 8 * width - 1, 2, 4 * width, 3 * width, 5 * width};
  for (const int distance : {0, 40, 60}) {
    const int near = expected[2][static_cast<size_t>(distance)];
    limits.insert(limits.end(), {near, near + 1});
  }
  if (!short_run && width <= 16) {
    for (int limit = 1; limit <= 8 * width; ++limit) limits.push_back(limit);
  }
  Guarded<uint32_t> found(kQueries, Guarded<uint32_t>::Side::kBack);
  Guarded<uint64_t> found_rows(kQueries * words, Guarded<uint64_t>::Side::kBack);
  for (const int asked : limits) {  // in any order: a limit can be set again
    const int limit = std::min(8 * width, std::max(1, asked));
    for (int64_t q = 0; q < kQueries; ++q) {
      kernels.set_limit(records.data() + q * kernels.record_bytes, width, limit);
    }
    const int64_t count = kernels.scan(table.data(), records.data(), kQueries, width,
                                       {found.data(), found_rows.data()});
    int64_t place = 0;
    for (int64_t q = 0; q < kQueries; ++q) {
      const bool here = place < count && found[place] == q;
      check_query(kernels, back.data(), width, queries.data() + q * width, limit,
                  expected[static_cast<size_t>(q)],
                  here ? found_rows.data() + place * words : nullptr);
      place += here;
    }
    if (place != count) fail("slices, limit %d: queries are not in order", limit);
  }
}

}  // namespace

void check_slices(const coophash::Kernels& isa, int width, bool short_run) {
  if (!isa.sliced) return;
  for (const Kind kind : kKinds) check_kind(isa, width, kind, short_run);
}

}  // namespace check
