#include "costs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace coophash {
namespace {

// Measured on one core of an AMD EPYC (Zen 4) with benchmarks/bench_paths.py, which prints what it
// finds beside what stands here. On other machines all of them move together, more or less, and
// only their ratios decide.
struct Entry {
  int width;
  FlatCosts full;     // codes of this width fill their lane
  FlatCosts shorter;  // codes that are shorter, down to the entry before: at this width
};

constexpr Entry kAvx512[] = {
    {4, {0.050, 0.95, 0.028}, {0.13, 0.85, 0.030}}, {8, {0.088, 0.66, 0.030}, {0.14, 1.00, 0.045}},
    {16, {0.21, 1.95, 0.077}, {0.31, 1.90, 0.080}}, {32, {0.49, 4.20, 0.16}, {0.70, 3.90, 0.20}},
    {64, {0.86, 9.0, 0.33}, {1.05, 7.5, 0.45}},     {128, {2.2, 20, 0.75}, {2.5, 17, 0.80}},
    {512, {8.5, 90, 3.2}, {8.5, 90, 3.2}},
};
constexpr Entry kAvx2[] = {
    {4, {0.124, 1.45, 0.035}, {0.29, 1.45, 0.035}}, {8, {0.215, 1.10, 0.068}, {0.30, 1.65, 0.068}},
    {16, {0.46, 2.70, 0.136}, {0.60, 2.90, 0.138}}, {32, {0.98, 5.60, 0.30}, {1.11, 5.40, 0.35}},
    {64, {1.72, 11.5, 0.64}, {1.85, 10.5, 0.66}},   {128, {3.8, 26, 1.35}, {3.9, 22, 1.40}},
    {512, {14.0, 100, 5.5}, {14.0, 100, 5.5}},
};

template <size_t Count>
FlatCosts look_up(const Entry (&entries)[Count], int width) {
  for (const Entry& entry : entries) {
    if (width == entry.width) return entry.full;
    if (width > entry.width) continue;
    // A short code fills as many vectors of the row scan as a full one, up to a vector.
    const double part = static_cast<double>(width) / entry.width;
    const FlatCosts& costs = entry.shorter;
    return {entry.width <= 64 ? costs.row : costs.row * part, costs.build * (0.3 + 0.7 * part),
            costs.slice * part};
  }
  return entries[Count - 1].full;
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
  constexpr double kKeepNs = 12;    // a row that is kept, for a while at least
  constexpr double kCountNs = 0.4;  // a row's distance, not by slices
  constexpr double kHitNs = 40;     // a row of the result, where they are rare
  constexpr double kDenseNs = 0.7;  // any row, where they are not
  constexpr double kPlaceNs = 2.6;
  if (k == 0 || rows == 0) return false;
  const FlatCosts costs = flat_costs(kernels, width);
  const double n = static_cast<double>(rows), wanted = static_cast<double>(std::min(k, rows));
  // Of rows in random order, the m-th is among the k best so far with probability k / m.
  const double kept = wanted * (1 + std::log(n / wanted));
  const bool slices = slices_pay(kernels, width, queries, Path::kAuto);
  const double keep = kept * kKeepNs + n * (slices ? costs.slice : costs.row);
  const double count = counting_by_slices_pays(kernels, width, queries)
                           ? costs.build / static_cast<double>(queries) + 4 * costs.slice
                           : costs.row + kCountNs;
  const double place = std::min(wanted * kHitNs, n * kDenseNs) + wanted * kPlaceNs;
  return n * (count + costs.row) + place < keep;
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

bool counting_by_slices_pays(const Kernels& kernels, int width, int64_t queries) {
  return queries >= 4 && kernels.sliced && kernels.sliced(width).counting.count;
}

double gather_below(const Kernels& kernels, int width, int64_t queries) {
  constexpr double kGatherNs = 2.5;  // a row that is listed and copied from afar
  constexpr double kCopyNsPerByte = 1 / 16.0;
  const double scan = flat_ns_per_row(kernels, width, queries);
  return scan / (kGatherNs + kCopyNsPerByte * width + scan);
}

}  // namespace coophash
