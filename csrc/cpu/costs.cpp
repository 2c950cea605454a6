#include "costs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace coophash {
namespace {

// Measured on one core of an AMD EPYC (Zen 4) with benchmarks/bench_paths.py. On other machines all
// of them move together, more or less, and only their ratios decide.
//
// Costs between two widths are those of the width above, by the byte: codes that do not fill their
// lane cost the row scan as much as full ones or more, see `odd`.
struct Entry {
  int width;
  FlatCosts even;  // for exactly this width
  double odd;      // row scan of widths between the entry before and this one
};

constexpr Entry kAvx512[] = {
    {4, {0.056, 1.00, 0.028}, 0.13}, {8, {0.088, 0.66, 0.030}, 0.14},
    {16, {0.21, 1.95, 0.077}, 0.31}, {32, {0.48, 4.20, 0.16}, 0.69},
    {64, {0.84, 11.5, 0.32}, 0.84},  {128, {2.2, 26, 0.72}, 2.5},
    {512, {9.0, 100, 3.2}, 9.5},
};
constexpr Entry kAvx2[] = {
    {4, {0.127, 1.45, 0.045}, 0.30}, {8, {0.213, 1.05, 0.065}, 0.31},
    {16, {0.46, 2.65, 0.135}, 0.61}, {32, {0.98, 5.50, 0.30}, 1.12},
    {64, {1.70, 12.0, 0.62}, 1.90},  {128, {4.0, 28, 1.30}, 4.5},
    {512, {14.0, 115, 5.5}, 15.0},
};

template <size_t Count>
FlatCosts look_up(const Entry (&entries)[Count], int width) {
  for (const Entry& entry : entries) {
    if (width == entry.width) return entry.even;
    if (width < entry.width) {
      const double part = static_cast<double>(width) / entry.width;
      // shorter codes fill no fewer vectors, so only the costs of slices shrink with the width
      const double row = entry.width <= 32 ? entry.odd : entry.odd * part;
      return {row, entry.even.build * std::max(part, 0.8), entry.even.slice * part};
    }
  }
  const Entry& last = entries[Count - 1];
  return last.even;
}

}  // namespace

FlatCosts flat_costs(const Kernels& kernels, int width) {
  if (std::strcmp(kernels.name, "avx512") == 0) return look_up(kAvx512, width);
  if (std::strcmp(kernels.name, "avx2") == 0) return look_up(kAvx2, width);
  // Not measured. Serial: POPCNT in software; NEON: half the vector length of AVX2.
  const FlatCosts wide = look_up(kAvx2, width);
  return {2 * wide.row, 2 * wide.build, 2 * wide.slice};
}

bool slices_pay(const Kernels& kernels, int width, int64_t queries, Path path) {
  if (!kernels.sliced || path == Path::kRows) return false;
  if (path == Path::kSlices) return true;
  const FlatCosts costs = flat_costs(kernels, width);
  const double count = static_cast<double>(queries);
  return costs.build + count * costs.slice < count * costs.row;
}

bool ranking_pays(const Kernels& kernels, int width, int64_t queries, int64_t rows, int64_t k) {
  constexpr double kKeepNs = 25;    // a row that is kept, for a while at least, and sorted
  constexpr double kCountNs = 0.4;  // a row's distance
  constexpr double kPlaceNs = 15;   // a row of the result
  const FlatCosts costs = flat_costs(kernels, width);
  const double n = static_cast<double>(rows), wanted = static_cast<double>(std::min(k, rows));
  if (wanted == 0) return false;
  // Of rows in random order, the m-th is among the k best so far with probability k / m.
  const double kept = wanted * (1 + std::log(n / wanted));
  const bool slices = slices_pay(kernels, width, queries, Path::kAuto);
  const double keep = kept * kKeepNs + n * (slices ? costs.slice : costs.row);
  return n * (2 * costs.row + kCountNs) + wanted * kPlaceNs < keep;
}

double flat_ns_per_row(const Kernels& kernels, int width, int64_t queries) {
  constexpr double kMemoryNsPerByte = 1 / 25.0;
  const FlatCosts costs = flat_costs(kernels, width);
  const double count = static_cast<double>(queries);
  const double work = slices_pay(kernels, width, queries, Path::kAuto)
                          ? costs.build + count * costs.slice
                          : count * costs.row;
  return std::max(work, width * kMemoryNsPerByte);
}

}  // namespace coophash
