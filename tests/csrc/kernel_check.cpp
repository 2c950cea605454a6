// Checks the search core without Python: every instruction set that this machine runs, against an
// oracle that counts bit by bit, on memory that ends at a page which must not be touched.
//
//   kernel_check [--short] [--threads] [--isa NAME]
//
// --short takes fewer cases, for an emulator or a sanitizer; --threads takes the calls from many
// threads (thread_check.cpp) instead; --isa takes one instruction set. Exits 0, or 1 with a message
// that names the case. `make kernel-check` and `make neon-check` build and run it.

#include <algorithm>
#include <climits>
#include <string>

#include "../../csrc/cpu/kernels.h"
#include "check_support.h"
#include "mih_check.h"
#include "sliced_check.h"
#include "thread_check.h"

namespace check {
namespace {

using coophash::Hit;
using coophash::Kernels;

bool short_run = false;

std::vector<int> widths() {
  if (short_run) return {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65, 80, 512};
  std::vector<int> list;
  for (int width = 1; width <= 80; ++width) list.push_back(width);
  list.insert(list.end(), {96, 127, 128, 129, 250, 256, 511, 512});
  return list;
}

// ---- the inner loops ----------------------------------------------------------------------------

void check_distances(const coophash::WidthKernels& kernels, const uint8_t* codes, int64_t rows,
                     int width, const uint8_t* query, const std::vector<int>& expected) {
  Guarded<uint16_t> out(rows, Guarded<uint16_t>::Side::kBack);
  kernels.distances(codes, rows, width, query, out.data());
  for (int64_t row = 0; row < rows; ++row) {
    const int wanted = expected[static_cast<size_t>(row)];
    if (out[row] != wanted) {
      fail("distance of row %lld is %d, expected %d", static_cast<long long>(row), out[row],
           wanted);
    }
  }
}

void check_scan(const coophash::WidthKernels& kernels, const uint8_t* codes, int64_t rows,
                int width, const uint8_t* query, int limit, const std::vector<int>& expected) {
  Guarded<Hit> hits(rows + coophash::kHitSlack, Guarded<Hit>::Side::kBack);
  const int64_t count = kernels.scan(codes, rows, width, query, limit, hits.data());
  int64_t found = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int wanted = expected[static_cast<size_t>(row)];
    if (wanted >= limit) continue;
    if (found >= count) {
      fail("scan, limit %d: row %lld at distance %d is not found", limit,
           static_cast<long long>(row), wanted);
    }
    const Hit hit = hits[found++];
    if (hit.row != row || static_cast<int>(hit.distance) != wanted) {
      fail("scan, limit %d: hit %lld is row %u at %u, expected row %lld at %d", limit,
           static_cast<long long>(found - 1), hit.row, hit.distance, static_cast<long long>(row),
           wanted);
    }
  }
  if (found != count) {
    fail("scan, limit %d: %lld hits, expected %lld", limit, static_cast<long long>(count),
         static_cast<long long>(found));
  }
}

void check_loops(const Kernels& isa, int width, Kind kind) {
  const coophash::WidthKernels kernels = isa.for_width(width);
  std::vector<int64_t> row_counts = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129};
  if (!short_run) {
    for (int64_t rows : {5, 32, 64, 66, 95, 97, 128, 130, 191, 255, 257, 511, 513}) {
      row_counts.push_back(rows);
    }
  }
  for (const int64_t rows : row_counts) {
    const auto side =
        rows % 4 == 3 ? Guarded<uint8_t>::Side::kFront : Guarded<uint8_t>::Side::kBack;
    Guarded<uint8_t> codes(rows * width, side), query(width, side);
    begin_case("%s, width %d, %s codes, %lld rows", isa.name, width, name(kind),
               static_cast<long long>(rows));
    fill_codes(kind, 2, rows, width, codes.data());
    fill_codes(kind, 3, 1, width, query.data());
    if (kind == Kind::kConstant && rows > 2) std::memset(codes.data() + width, 0xff, width);
    std::vector<int> expected;
    for (int64_t row = 0; row < rows; ++row) {
      expected.push_back(naive_distance(codes.data() + row * width, query.data(), width));
    }
    check_distances(kernels, codes.data(), rows, width, query.data(), expected);
    std::vector<int> limits = {-1, 0, 1, 4 * width, 8 * width, 8 * width + 1, INT_MAX};
    if (rows) {
      std::vector<int> sorted = expected;
      std::sort(sorted.begin(), sorted.end());
      for (const int distance : {sorted[0], sorted[sorted.size() / 3], sorted.back()}) {
        limits.insert(limits.end(), {distance, distance + 1});
      }
    }
    for (const int limit : limits) {
      check_scan(kernels, codes.data(), rows, width, query.data(), limit, expected);
    }
  }
}

// Every distance from 0 to 8 * width is reached, in its place.
void check_all_distances(const Kernels& isa, int width) {
  begin_case("%s, width %d, one row for each distance", isa.name, width);
  const int64_t rows = 8 * width + 1;
  Guarded<uint8_t> codes(rows * width, Guarded<uint8_t>::Side::kBack);
  std::memset(codes.data(), 0, static_cast<size_t>(rows * width));
  std::vector<int> expected;
  for (int64_t row = 0; row < rows; ++row) {
    for (int bit = 0; bit < row; ++bit) {
      codes[row * width + bit / 8] |= static_cast<uint8_t>(1 << bit % 8);
    }
    expected.push_back(static_cast<int>(row));
  }
  const std::vector<uint8_t> query(static_cast<size_t>(width), 0);
  const coophash::WidthKernels kernels = isa.for_width(width);
  check_distances(kernels, codes.data(), rows, width, query.data(), expected);
  for (int limit = 0; limit <= 8 * width + 1; limit += short_run ? width : 1 + width / 8) {
    check_scan(kernels, codes.data(), rows, width, query.data(), limit, expected);
  }
}

// ---- whole searches -----------------------------------------------------------------------------

struct Row {
  int distance;
  int64_t id;
  bool operator<(const Row& other) const {
    return distance != other.distance ? distance < other.distance : id < other.id;
  }
  bool operator!=(const Row& other) const { return distance != other.distance || id != other.id; }
};

void expect_row(const char* what, int64_t query, int64_t place, Row found, Row wanted) {
  if (found != wanted) {
    fail("%s: query %lld, place %lld: (%d, %lld), expected (%d, %lld)", what,
         static_cast<long long>(query), static_cast<long long>(place), found.distance,
         static_cast<long long>(found.id), wanted.distance, static_cast<long long>(wanted.id));
  }
}

// A database of three spans: the second has ids of its own and a filter, the third a filter alone.
struct Case {
  static constexpr auto kBack = Guarded<uint8_t>::Side::kBack;
  static constexpr int64_t kFirstId = 1000;

  Case(int width_, Kind kind, int64_t rows_, int64_t queries_, bool increasing)
      : width(width_),
        count(queries_),
        codes{{rows_ / 3, rows_ / 5, rows_ - rows_ / 3 - rows_ / 5}},
        first(codes.rows[0] * width, kBack),
        second(codes.rows[1] * width, kBack),
        third(codes.rows[2] * width, kBack),
        ids(codes.rows[1], Guarded<int64_t>::Side::kBack),
        second_allow((codes.rows[1] + 63) / 64, Guarded<uint64_t>::Side::kBack),
        third_allow((codes.rows[2] + 63) / 64, Guarded<uint64_t>::Side::kBack),
        queries(queries_ * width, kBack) {
    fill_codes(kind, 2, codes.rows[0], width, first.data());
    fill_codes(kind, 4, codes.rows[1], width, second.data());
    fill_codes(kind, 6, codes.rows[2], width, third.data());
    fill_codes(kind, 7, queries_, width, queries.data());
    for (int64_t i = 0; i < codes.rows[1]; ++i) {
      // growing with gaps, or falling and between the ids of the other spans
      ids[i] = increasing ? kFirstId + codes.rows[0] + 2 * i : 2 * (codes.rows[1] - i);
    }
    Random random(9);
    fill_filter(second_allow, codes.rows[1], [&] { return random.below(8) != 0; });
    fill_filter(third_allow, codes.rows[2], [&] { return random.below(5) == 0; });
    const int64_t third_id = increasing ? 100000 : 7;
    database = {{{first.data(), nullptr, nullptr, codes.rows[0], kFirstId},
                 {second.data(), ids.data(), second_allow.data(), codes.rows[1], 0},
                 {third.data(), nullptr, third_allow.data(), codes.rows[2], third_id}},
                width,
                increasing};
    for (int64_t q = 0; q < count; ++q) expected.push_back(sorted_rows(q));
  }

  template <class Keep>
  static void fill_filter(Guarded<uint64_t>& words, int64_t rows, const Keep& keep) {
    for (int64_t word = 0; word < (rows + 63) / 64; ++word) words[word] = 0;
    for (int64_t row = 0; row < rows; ++row) {
      if (keep()) words[row / 64] |= uint64_t{1} << (row % 64);
    }
  }

  std::vector<Row> sorted_rows(int64_t query) const {
    std::vector<Row> rows;
    for (const coophash::Span& span : database.spans) {
      for (int64_t row = 0; row < span.rows; ++row) {
        if (span.allow && !(span.allow[row / 64] >> (row % 64) & 1)) continue;
        rows.push_back(
            {naive_distance(span.codes + row * width, queries.data() + query * width, width),
             span.ids ? span.ids[row] : span.first_id + row});
      }
    }
    std::sort(rows.begin(), rows.end());
    return rows;
  }

  coophash::Queries asked() const { return {queries.data(), count}; }

  int width;
  int64_t count;
  struct {
    int64_t rows[3];
  } codes;
  Guarded<uint8_t> first, second, third;
  Guarded<int64_t> ids;
  Guarded<uint64_t> second_allow, third_allow;
  Guarded<uint8_t> queries;
  coophash::Database database;
  std::vector<std::vector<Row>> expected;  // by query, in order
};

void check_topk(const Case& a, const Kernels& isa, int64_t k, int threads, coophash::Path path) {
  std::vector<int32_t> distances(static_cast<size_t>(a.count * k), -7);
  std::vector<int64_t> ids(distances.size(), -7);
  coophash::topk(a.database, a.asked(), k, threads, isa, distances.data(), ids.data(), path);
  for (int64_t q = 0; q < a.count; ++q) {
    const std::vector<Row>& rows = a.expected[static_cast<size_t>(q)];
    for (int64_t i = 0; i < k; ++i) {
      const size_t place = static_cast<size_t>(q * k + i);
      const Row wanted = i < static_cast<int64_t>(rows.size())
                             ? rows[static_cast<size_t>(i)]
                             : Row{coophash::kNoDistance, coophash::kNoId};
      const std::string what = "topk, k " + std::to_string(k);
      expect_row(what.c_str(), q, i, {distances[place], ids[place]}, wanted);
    }
  }
}

void check_range(const Case& a, const Kernels& isa, int radius, int threads) {
  const coophash::RangeResult found = coophash::range(a.database, a.asked(), radius, threads, isa);
  const std::string what = "range, radius " + std::to_string(radius);
  for (int64_t q = 0; q < a.count; ++q) {
    const std::vector<Row>& rows = a.expected[static_cast<size_t>(q)];
    size_t place = static_cast<size_t>(found.limits[static_cast<size_t>(q)]);
    const size_t end = static_cast<size_t>(found.limits[static_cast<size_t>(q) + 1]);
    size_t i = 0;
    for (; i < rows.size() && rows[i].distance <= radius; ++i, ++place) {
      if (place == end) fail("%s: query %lld has only %zu rows", what.c_str(), (long long)q, i);
      expect_row(what.c_str(), q, static_cast<int64_t>(i),
                 {found.distances[place], found.ids[place]}, rows[i]);
    }
    if (place != end) fail("%s: query %lld has more than %zu rows", what.c_str(), (long long)q, i);
  }
}

void check_histogram(const Case& a, const Kernels& isa, int threads) {
  const int bins = 8 * a.width + 1;
  std::vector<int64_t> counts(static_cast<size_t>(a.count * bins), -7);
  coophash::histogram(a.database, a.asked(), nullptr, bins, threads, isa, counts.data(), nullptr);
  for (int64_t q = 0; q < a.count; ++q) {
    std::vector<int64_t> wanted(static_cast<size_t>(bins), 0);
    for (const Row& row : a.expected[static_cast<size_t>(q)]) {
      ++wanted[static_cast<size_t>(row.distance)];
    }
    for (int bin = 0; bin < bins; ++bin) {
      const int64_t found = counts[static_cast<size_t>(q * bins + bin)];
      if (found != wanted[static_cast<size_t>(bin)]) {
        fail("histogram: query %lld has %lld rows at distance %d, expected %lld", (long long)q,
             (long long)found, bin, (long long)wanted[static_cast<size_t>(bin)]);
      }
    }
  }
}

void check_matrix(const Case& a, const Kernels& isa, int threads) {
  const coophash::Span& span = a.database.spans[0];
  std::vector<int32_t> out(static_cast<size_t>(a.count * span.rows), -7);
  coophash::distances(span.codes, span.rows, a.asked(), a.width, threads, isa, out.data());
  for (int64_t q = 0; q < a.count; ++q) {
    for (int64_t row = 0; row < span.rows; ++row) {
      const int wanted =
          naive_distance(span.codes + row * a.width, a.queries.data() + q * a.width, a.width);
      const int found = out[static_cast<size_t>(q * span.rows + row)];
      if (found != wanted) {
        fail("distances: query %lld, row %lld: %d, expected %d", (long long)q, (long long)row,
             found, wanted);
      }
    }
  }
}

void check_searches(const Kernels& isa, int width, Kind kind, int64_t rows, int64_t queries,
                    bool increasing, int threads) {
  begin_case("%s, width %d, %s codes, %lld rows, %lld queries, %d threads, ids %s", isa.name, width,
             name(kind), (long long)rows, (long long)queries, threads,
             increasing ? "increasing" : "in any order");
  const Case a(width, kind, rows, queries, increasing);
  const std::vector<Row>& nearest = a.expected[0];
  int64_t ties = 0;
  while (ties < static_cast<int64_t>(nearest.size()) &&
         nearest[static_cast<size_t>(ties)].distance == nearest[0].distance) {
    ++ties;
  }
  std::vector<int64_t> ks = {0, 1, 2, 10, ties - 1, ties, ties + 1, rows, rows + 3};
  std::sort(ks.begin(), ks.end());
  ks.erase(std::unique(ks.begin(), ks.end()), ks.end());
  for (const int64_t k : ks) {
    if (k < 0) continue;
    check_topk(a, isa, k, threads, coophash::Path::kRows);
    if (isa.sliced) check_topk(a, isa, k, threads, coophash::Path::kSlices);
  }
  const int least = nearest.empty() ? 0 : nearest[0].distance;
  for (const int radius : {0, least, least + 2, 3 * width, 8 * width}) {
    check_range(a, isa, radius, threads);
  }
  check_histogram(a, isa, threads);
  check_matrix(a, isa, threads);
}

void check_isa(const Kernels& isa) {
  for (const int width : widths()) {
    for (const Kind kind : kKinds) check_loops(isa, width, kind);
    check_slices(isa, width, short_run);
    if (width <= 9 || width % 16 == 1) check_multi_index(isa, width);
    if (width <= 33 || width % 64 == 0) check_all_distances(isa, width);
    const Kind kind = kKinds[width % 3];
    check_searches(isa, width, kind, 0, 2, true, 1);
    check_searches(isa, width, kind, 1, 1, false, 2);
    check_searches(isa, width, Kind::kClustered, short_run ? 211 : 637, 3, width % 2, 1);
    if (short_run && width % 8 != 0) continue;
    // enough bytes for several threads, with the database and with the queries shared out
    const int64_t rows = 301 + 70000 / width;
    check_searches(isa, width, kind, rows, 3, width % 2 == 0, 3);
    check_searches(isa, width, kKinds[(width + 1) % 3], rows / 16, 50, width % 2, 2);
  }
}

}  // namespace
}  // namespace check

int main(int count, char** arguments) {
  bool threads = false;
  std::string only;
  for (int i = 1; i < count; ++i) {
    const std::string option = arguments[i];
    if (option == "--short") {
      check::short_run = true;
    } else if (option == "--threads") {
      threads = true;
    } else if (option == "--isa" && i + 1 < count) {
      only = arguments[++i];
    } else {
      std::fprintf(stderr, "usage: kernel_check [--short] [--threads] [--isa NAME]\n");
      return 2;
    }
  }
  check::name_the_case_of_a_fault();
  int checked = 0;
  for (const coophash::IsaStatus& isa : coophash::isas()) {
    if (!only.empty() && isa.name != only) continue;
    if (!isa.missing.empty()) {
      std::printf("%s: not checked: %s\n", isa.name.c_str(), isa.missing.c_str());
      continue;
    }
    const coophash::Kernels& kernels = coophash::kernels(isa.name);
    threads ? check::check_threads(kernels, check::short_run) : check::check_isa(kernels);
    std::printf("%s: ok\n", isa.name.c_str());
    std::fflush(stdout);
    ++checked;
  }
  if (!checked) {
    std::fprintf(stderr, "FAILED: nothing was checked: no instruction set %s runs here\n",
                 only.c_str());
    return 1;
  }
  return 0;
}
