// Checks the CUDA search on a machine without a GPU: the kernels of csrc/cuda themselves, run by
// the emulator, against an oracle that counts bit by bit and sorts.
//
//   cuda_check [--short] [--only NAME]
//
// Exits 0, or 1 with a message that names the case. `make cuda-check` builds and runs it.

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "check_support.h"
#include "cuda_check.h"
#include "cuda_problem.h"

namespace check {
namespace {

bool short_run = false;

// ---- the cases ----------------------------------------------------------------------------------

void check_widths() {
  std::vector<int> widths = {1,  2,  3,  4,  5,  7,  8,   9,   12,  15,  16,  17, 24,
                             31, 32, 33, 48, 64, 65, 128, 129, 255, 256, 511, 512};
  if (short_run) widths = {1, 4, 6, 8, 13, 16, 32, 48, 64, 100, 512};
  for (const int width : widths) {
    for (const Kind kind : kKinds) {
      const int64_t rows = short_run ? 700 : 1500;
      Problem problem(width, kind, {{rows, 1}, {rows / 2, 0.5}, {33, 1, 3}, {1, 1}, {200, 0.02, 1}},
                      3);
      for (const int64_t k : {1, 10, 300}) check_topk(problem, k, gpu::Path::kPopc);
      check_topk(problem, 3000, gpu::Path::kPopc, true);
      for (const int radius : {0, 4 * width - 2, 8 * width}) {
        check_range(problem, std::max(0, radius), gpu::Path::kPopc);
      }
      check_histogram(problem, 0, 1);
      check_distances(problem);
    }
  }
}

void check_alignments() {
  for (const int width : {4, 8, 12, 16, 20, 32, 48, 64}) {
    for (const int offset : {0, 1, 2, 4, 8, 12, 16}) {
      for (const int64_t rows : {1, 2, 3, 5, 63, 129, 513}) {
        Problem problem(width, Kind::kClustered, {{rows, 1, offset}}, 2);
        check_topk(problem, 7, gpu::Path::kPopc);
      }
    }
  }
}

void check_labels() {
  for (const int width : {4, 8, 13}) {
    Problem problem(width, Kind::kClustered, {{900, 1}, {300, 0.3}}, 11);
    check_histogram(problem, 1, 2);
    check_histogram(problem, 2, 2);
    check_histogram(problem, 2, 5);
  }
  Problem wide(512, Kind::kRandom, {{300, 1}}, 3);  // counts that shared memory cannot hold
  check_histogram(wide, 2, 9);
}

// Codes in the order that is worst for rounds: the nearest last; and copies without end. Order
//   0: falling distances;
//   1: far ones, then copies;
//   2: as 1, and two nearer than all;
//   3: as 1, filtered;
//   4: as 1, and two nearer than all among the first rows, which are kept when the copies come;
//   5: likewise with one of these in a chunk that is streamed, where the copies come after it.
void check_orders(gpu::Path path, int64_t rows) {
  const int width = 8;
  for (const int order : {0, 1, 2, 3, 4, 5}) {
    const int64_t first = order == 5 ? 64 : rows / 2;  // rows of the first part
    const int64_t far = order == 5 ? 4500 : 3 * rows / 4;
    const std::vector<Part> parts = {{first, 1},
                                     {rows - first, order == 3 ? 0.8 : 1, 0, order == 5}};
    Problem problem(width, Kind::kConstant, parts, 35);
    for (int64_t row = 0; row < rows; ++row) {
      uint8_t* code = &problem.codes[static_cast<size_t>(row * width)];
      std::memset(code, 0, static_cast<size_t>(width));
      int ones = order == 0 ? static_cast<int>(64 - 64 * row / rows) : row < far ? 40 : 3;
      if (order == 2 && (row == rows - 1 || row == rows / 2)) ones = 1;
      if (order >= 4 && (row == 5 || row == 700)) ones = 1;
      for (int bit = 0; bit < ones; ++bit) code[bit / 8] |= static_cast<uint8_t>(1 << bit % 8);
    }
    std::memset(problem.asked.data(), 0, problem.asked.size());
    for (int q = 0; q < 35; q += 3) problem.asked[static_cast<size_t>(q * width + 7)] = 0x80;
    std::memcpy(problem.queries->data(), problem.asked.data(), problem.asked.size());
    uint8_t* second = order == 5 ? problem.host_codes[0].data() : problem.device_codes[1]->data();
    std::memcpy(problem.device_codes[0]->data(), problem.codes.data(),
                static_cast<size_t>(first * width));
    std::memcpy(second, &problem.codes[static_cast<size_t>(first * width)],
                static_cast<size_t>((rows - first) * width));
    const gpu::Counts done = check_topk(problem, 20, path, false, 16384 * width);
    if (rows >= 30000 && order && done.overflowed != 35) {
      fail("%lld queries overflowed, expected all", static_cast<long long>(done.overflowed));
    }
    check_range(problem, 3, path);
  }
}

void check_large_k() {
  // the first round has 245,760 rows
  Problem problem(4, Kind::kRandom, {{short_run ? 260000 : 500000, 0.99}}, 1);
  check_topk(problem, 16384, gpu::Path::kPopc);
  check_topk(problem, 5000, gpu::Path::kPopc);
  Problem copies(4, Kind::kClustered, {{300000, 1}}, 1);
  check_topk(copies, 16384, gpu::Path::kPopc);
}

void check_streaming() {
  const int64_t rows = 512;  // the least chunk
  for (const int width : {8, 64}) {
    for (const Kind kind : kKinds) {
      Problem problem(width, kind, {{rows, 0.5}, {3 * rows, 1, 0, true}, {5 * rows, 0.3, 0, true}},
                      4);
      check_topk(problem, 12, gpu::Path::kPopc);
      check_range(problem, 4 * width - 3, gpu::Path::kPopc);
      check_histogram(problem, 1, 2);
      check_distances(problem, true);
    }
  }
}

// Tensor cores: the same results, and that they were what ran.
void check_tensor(gpu::Path path) {
  for (const int width : {4, 8, 16, 32, 64}) {
    for (const Kind kind : kKinds) {
      if (short_run && kind != Kind::kClustered) continue;
      // the first 3,584 rows are not for them
      Problem problem(width, kind, {{4133, 1}, {1030, 0.5}, {700, 0.01}, {37, 1}},
                      short_run ? 9 : 150);
      const int64_t before = emulator::counts().mma + emulator::counts().wgmma;
      const gpu::Counts done = check_topk(problem, 9, path);
      if (!done.tensor || emulator::counts().mma + emulator::counts().wgmma == before) {
        fail("no tensor cores");
      }
    }
    for (const Kind kind : kKinds) {
      Problem problem(width, kind, {{403, 1}, {130, 0.5}, {37, 0.1}}, short_run ? 21 : 131);
      for (const int radius : {0, 2, 4 * width - 3, 8 * width}) check_range(problem, radius, path);
    }
  }
  if (!short_run) check_orders(path, 30000);
  // what does not suit them goes the other way
  Problem odd(8, Kind::kRandom, {{700, 1, 4}}, 40);
  if (check_topk(odd, 9, path).tensor) fail("tensor cores read what is not aligned");
}

void check_paths() {
  begin_case("paths");
  if (!gpu::try_path(gpu::Path::kMma, 0).empty())
    fail("mma: %s", gpu::try_path(gpu::Path::kMma, 0).c_str());
  if (!gpu::try_path(gpu::Path::kWgmma, 0).empty()) fail("wgmma");
  Problem batch(8, Kind::kRandom, {{12000, 1}}, 40), few(8, Kind::kRandom, {{12000, 1}}, 4);
  if (!check_topk(batch, 3, gpu::Path::kAuto).tensor) fail("a batch takes tensor cores");
  if (check_topk(few, 3, gpu::Path::kAuto).tensor) fail("a few queries take none");
}

const std::pair<const char*, std::function<void()>> kCases[] = {
    {"encode", [] { check_encoding(short_run); }},
    {"select", [] { check_selection(short_run); }},
    {"widths", check_widths},
    {"alignments", check_alignments},
    {"labels", check_labels},
    {"orders", [] { check_orders(gpu::Path::kPopc, short_run ? 30000 : 60000); }},
    {"large_k", check_large_k},
    {"streaming", check_streaming},
    {"mma", [] { check_tensor(gpu::Path::kMma); }},
    {"wgmma", [] { check_tensor(gpu::Path::kWgmma); }},
    {"paths", check_paths},
    {"edges", [] { check_edges(short_run); }},
    {"spare", check_spare},
    {"failures", [] { check_failures(short_run); }},
    {"changes", check_changes},
    {"devices", check_devices},
};

}  // namespace
}  // namespace check

int main(int argc, char** argv) {
  using namespace check;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--short") {
      short_run = true;
    } else if (option == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: cuda_check [--short] [--only NAME]\n");
      return 2;
    }
  }
  try {
    for (const auto& [case_name, run] : kCases) {
      if (!only.empty() && only != case_name) continue;
      run();
      std::printf("%s: ok\n", case_name);
      std::fflush(stdout);
    }
  } catch (const std::exception& error) {
    fail("%s", error.what());
  }
}
