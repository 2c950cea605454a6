// Selection and sorting of csrc/cuda/block.cuh and select.cu, by themselves.

#include <algorithm>

#include "../../csrc/cuda/block.cuh"
#include "../../csrc/cuda/group.h"
#include "check_support.h"
#include "cuda_check.h"

namespace check {
namespace {

using gpu::Key;

// Keys that differ, most of them at a few distances.
std::vector<Key> draw_keys(int64_t count, int distances, uint64_t seed) {
  Random random(seed);
  std::vector<Key> keys;
  for (int64_t i = 0; i < count; ++i) {
    keys.push_back(gpu::make_key(random.below(distances), random.below(1000) * count + i));
  }
  return keys;
}

struct SelectResult {
  Key pivot;
  int64_t kept;
};

void select_kernel(Key* keys, int64_t count, int64_t rank, SelectResult* result) {
  __shared__ gpu::SelectSpace space;
  const Key pivot = gpu::select_rank(keys, count, rank, space);
  const int64_t kept = gpu::keep_upto(keys, count, pivot, space);
  if (threadIdx.x == 0) *result = {pivot, kept};
}

void check_select(int64_t count, int distances, int64_t rank) {
  begin_case("select rank %lld of %lld keys at %d distances", static_cast<long long>(rank),
             static_cast<long long>(count), distances);
  std::vector<Key> keys = draw_keys(count, distances, static_cast<uint64_t>(count));
  std::vector<Key> sorted = keys;
  std::sort(sorted.begin(), sorted.end());
  SelectResult result;
  gpu::launch(select_kernel, dim3(1), gpu::kBlockThreads, 0, nullptr, keys.data(), count, rank,
              &result);
  cudaStreamSynchronize(nullptr);
  if (result.pivot != sorted[static_cast<size_t>(rank)]) fail("a wrong key");
  if (result.kept != rank + 1) fail("%lld are kept", static_cast<long long>(result.kept));
  std::sort(keys.begin(), keys.begin() + rank + 1);
  sorted.resize(static_cast<size_t>(rank + 1));
  if (!std::equal(sorted.begin(), sorted.end(), keys.begin())) fail("the wrong ones are kept");
}

void check_sort(const std::vector<int64_t>& counts) {
  begin_case("sort %zu segments, the first of %lld keys", counts.size(),
             static_cast<long long>(counts[0]));
  std::vector<int64_t> limits = {0};
  std::vector<Key> keys;
  for (const int64_t count : counts) {
    const std::vector<Key> more = draw_keys(count, 5, static_cast<uint64_t>(count + 1));
    keys.insert(keys.end(), more.begin(), more.end());
    limits.push_back(limits.back() + count);
  }
  std::vector<Key> sorted = keys;
  for (size_t i = 0; i < counts.size(); ++i) {
    std::sort(sorted.begin() + limits[i], sorted.begin() + limits[i + 1]);
  }
  std::vector<uint8_t> room(static_cast<size_t>(gpu::Arena::rounded(8 * (limits.back() + 300))));
  gpu::sort_segments(keys.data(), limits.data(), static_cast<int64_t>(counts.size()),
                     gpu::Arena(room.data(), static_cast<int64_t>(room.size())), nullptr);
  cudaStreamSynchronize(nullptr);
  if (keys != sorted) fail("not sorted");
}

}  // namespace

void check_selection(bool short_run) {
  for (const int64_t count : {1, 2, 255, 256, 257, 4000}) {
    for (const int distances : {1, 3, 4000}) {
      for (const int64_t rank : {int64_t{0}, count / 3, count - 1}) {
        check_select(count, distances, rank);
      }
    }
  }
  std::vector<int64_t> all;
  for (int64_t count = 0; count < (short_run ? 70 : 300); ++count) all.push_back(count);
  check_sort(all);
  check_sort({4096, 0, 4095, 4097, 1, 8192, 12289});
  if (!short_run) check_sort({100000});
}

}  // namespace check
