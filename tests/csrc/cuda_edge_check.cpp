// Where there is little, where there is much of the same, and where something fails.

#include <algorithm>
#include <stdexcept>
#include <string>

#include "check_support.h"
#include "cuda_check.h"
#include "cuda_problem.h"

namespace check {

void check_edges(bool short_run) {
  // no rows at all; none that count; one; fewer than k; whole tiles and one row more
  const std::vector<std::vector<Part>> databases = {
      {}, {{0, 1}}, {{1, 1}}, {{1, 0}}, {{700, 0}}, {{511, 1}, {1, 1}, {513, 0}}, {{512, 1}}};
  for (const int width : {1, 8, 9, 64}) {
    for (const std::vector<Part>& parts : databases) {
      for (const int64_t queries : {1, 33}) {
        Problem problem(width, Kind::kClustered, parts, queries);
        for (const int64_t k : {0, 1, 2, 1025}) check_topk(problem, k, gpu::Path::kPopc);
        check_topk(problem, 16384, gpu::Path::kPopc, true);
        for (const int radius : {0, 8 * width}) check_range(problem, radius, gpu::Path::kPopc);
        check_histogram(problem, 0, 1);
        check_histogram(problem, 1, 2);
        check_distances(problem);
      }
      Problem none(width, Kind::kRandom, parts, 0);
      check_topk(none, 3, gpu::Path::kPopc);
      check_range(none, 3, gpu::Path::kPopc);
      check_histogram(none, 0, 1);
      check_distances(none);
    }
  }
  for (const gpu::Path path : {gpu::Path::kMma, gpu::Path::kWgmma}) {  // less than a tile of each
    Problem problem(8, Kind::kClustered, {{1, 1}, {65, 0.5}, {17, 0}}, 2);
    for (const int radius : {0, 64}) check_range(problem, radius, path);
  }
  // the largest k, with every row at one distance: of more rows than candidates have room for, and
  // of just as many
  const int64_t capacity = 262144;
  for (const int64_t rows : {capacity, 2 * capacity + 1}) {
    if (short_run && rows == capacity) continue;
    Problem same(4, Kind::kConstant, {{rows, 1}}, 1);
    check_topk(same, 16384, gpu::Path::kPopc);
    if (!short_run) check_range(same, 0, gpu::Path::kPopc);
  }
  // every width that a code of up to 512 bits can have, and the longest
  for (int width = 1; width <= (short_run ? 0 : 64); ++width) {
    Problem problem(width, Kind::kClustered, {{130, 1, width % 16}, {70, 0.5}}, 2);
    for (const int64_t k : {1, 40}) check_topk(problem, k, gpu::Path::kAuto);
    check_range(problem, width, gpu::Path::kAuto);
    check_histogram(problem, 0, 1);
    check_distances(problem);
  }
}

void check_spare() {
  for (const int width : {1, 2, 8, 13}) {
    for (const int64_t rows : {0, 1, 300, 70000}) {
      const int bits = 8 * width - 3;
      begin_case("spare bits, width %d, %lld rows", width, static_cast<long long>(rows));
      std::vector<uint8_t> codes(static_cast<size_t>(rows * width), 0xff);
      for (int64_t row = 0; row < rows; ++row) {
        codes[static_cast<size_t>(row * width + width - 1)] = 0x1f;
      }
      std::vector<int64_t> bad = {-1};
      if (rows) bad.insert(bad.end(), {rows - 1, rows / 2, 0});
      for (const int64_t first : bad) {  // falling: each time one more
        if (first >= 0) codes[static_cast<size_t>(first * width + width - 1)] = 0x20;
        OnDevice<uint8_t> there(codes, 3);
        OnDevice<int64_t> room(1);
        const auto ask = [&](int length) {
          return gpu::first_spare(there.data(), rows, width, length, 0, nullptr, room.data());
        };
        if (ask(bits) != first) fail("row %lld", static_cast<long long>(ask(bits)));
        if (ask(8 * width) != -1) fail("there are no spare bits");
      }
    }
  }
}

namespace {

// A number for what an array holds (FNV-1a).
template <class T>
uint64_t hash(const OnDevice<T>& array) {
  uint64_t value = 14695981039346656037u;
  for (const T& item : array.values()) {
    value = (value ^ static_cast<uint64_t>(item)) * 1099511628211u;
  }
  return value;
}

// Runs a search again and again, with one call of the runtime after another failing, until none is
// left to fail. The search returns a number for its results.
template <class Search>
void check_every_failure(const char* what, const Search& search) {
  const uint64_t expected = search();  // what is kept for good is there from now on
  const emulator::Live before = emulator::live();
  for (int64_t number = 0;; ++number) {
    begin_case("%s, call %lld fails", what, static_cast<long long>(number));
    emulator::fail_call(number);
    bool thrown = false;
    try {
      // a wait on the way out may fail without a word: the results are there
      if (search() != expected) fail("no error, and other results");
    } catch (const std::runtime_error& error) {
      thrown = true;
      if (std::string(error.what()).find("CUDA: ") == std::string::npos) fail("%s", error.what());
    }
    const bool failed = emulator::has_failed();
    emulator::fail_call(-1);
    if (cudaGetLastError() != cudaSuccess) fail("an error is left for others to find");
    if (search() != expected)
      fail(
          "other results behind it");  // works again, and gets anew what the failure may have freed
    const emulator::Live after = emulator::live();
    if (!(after == before)) {
      fail("streams %lld, events %lld, allocations %lld more than before",
           static_cast<long long>(after.streams - before.streams),
           static_cast<long long>(after.events - before.events),
           static_cast<long long>(after.allocations - before.allocations));
    }
    if (!failed) {
      if (number < 10) fail("after %lld calls", static_cast<long long>(number));
      break;
    }
    if (!thrown && number == 0) fail("no error");
  }
}

}  // namespace

void check_failures(bool short_run) {
  const int64_t chunk = 512;
  Problem problem(8, Kind::kClustered, {{600, 1}, {3 * chunk, 0.5, 0, true}}, short_run ? 3 : 35);
  const int64_t k = 5, count = problem.count, rows = problem.rows();
  OnDevice<int32_t> distances(count * k);
  OnDevice<int64_t> places(count * k);
  const auto caller_for = [](gpu::Workspace workspace, gpu::Path path) {
    return std::make_unique<Caller>(workspace, false, path);
  };
  const gpu::Workspace sizes[] = {gpu::topk_workspace(count, 8, k, true),
                                  gpu::range_workspace(count, 8, true),
                                  gpu::histogram_workspace(count, 8, true)};
  const auto topk = caller_for(sizes[0], gpu::Path::kPopc);
  check_every_failure("topk", [&] {
    gpu::topk(problem.database, problem.queries->data(), count, k, topk->call(), distances.data(),
              places.data());
    return hash(distances) ^ hash(places);
  });
  const auto range = caller_for(sizes[1], gpu::Path::kPopc);
  std::vector<int64_t> counts(static_cast<size_t>(count)), limits;
  gpu::range_count(problem.database, problem.queries->data(), count, 64, range->call(),
                   counts.data());
  limits.push_back(0);
  for (const int64_t each : counts) limits.push_back(limits.back() + each);
  OnDevice<uint64_t> keys(limits.back());
  OnDevice<int32_t> near(limits.back());
  OnDevice<int64_t> near_places(limits.back());
  check_every_failure("range", [&] {
    gpu::range_count(problem.database, problem.queries->data(), count, 64, range->call(),
                     counts.data());
    gpu::range_fill(problem.database, problem.queries->data(), count, 64, range->call(),
                    limits.data(), keys.data(), near.data(), near_places.data());
    return hash(near) ^ hash(near_places);
  });
  const auto plain = caller_for(sizes[2], gpu::Path::kPopc);
  OnDevice<int64_t> total(count * 65);
  check_every_failure("histogram", [&] {
    gpu::histogram(problem.database, problem.queries->data(), count, nullptr, 65, plain->call(),
                   total.data(), nullptr);
    return hash(total);
  });
  OnDevice<int32_t> table(count * rows);
  check_every_failure("distances", [&] {
    gpu::distances(problem.database, problem.queries->data(), count, plain->call(), table.data());
    return hash(table);
  });
  check_topk(problem, 9, gpu::Path::kPopc);

  // A path that could not be tried is tried again; one that is not there is not.
  begin_case("paths that cannot be tried");
  emulator::fail_call(0);
  const std::string why = gpu::try_path(gpu::Path::kMma, 1);
  emulator::fail_call(-1);
  if (why.find("CUDA: ") != 0) fail("%s", why.c_str());
  if (!gpu::try_path(gpu::Path::kMma, 1).empty()) fail("an error was taken for an answer");
}

void check_changes() {
  begin_case("codes that change during a range search");
  const int64_t rows = 6000, count = 3;
  for (const bool more : {true, false}) {
    for (const bool least : {true, false}) {  // the least workspace: one query at a time
      Problem problem(8, Kind::kRandom, {{rows, 1}}, count);
      Caller caller(gpu::range_workspace(count, 8, false), least, gpu::Path::kPopc);
      // query 0 has more than are kept, the others fewer
      uint8_t* codes = problem.device_codes[0]->data();
      const uint8_t* asked = problem.queries->data();
      for (int64_t row = 0; row < 2000; ++row) std::memcpy(codes + 8 * row, asked, 8);
      std::vector<int64_t> counts(static_cast<size_t>(count)), limits = {0};
      gpu::range_count(problem.database, asked, count, 3, caller.call(), counts.data());
      for (const int64_t each : counts) limits.push_back(limits.back() + each);
      if (counts[0] < 2000 || counts[1] > 1000) fail("not the case that is meant");
      // what lies behind the results must not be written
      constexpr uint64_t kUntouched = 0x1234567812345678;
      const int64_t behind = 9000;
      OnDevice<uint64_t> keys(limits.back() + behind);
      OnDevice<int32_t> distances(limits.back());
      OnDevice<int64_t> places(limits.back());
      std::fill_n(keys.data() + limits.back(), behind, kUntouched);
      const int64_t touched = more ? rows : 1000;
      for (int64_t row = 0; row < touched; ++row) {
        std::memcpy(codes + 8 * row, asked, 8);
        if (!more) codes[8 * row] ^= 0xff;
      }
      bool thrown = false;
      try {
        gpu::range_fill(problem.database, asked, count, 3, caller.call(), limits.data(),
                        keys.data(), distances.data(), places.data());
      } catch (const std::runtime_error& error) {
        thrown = std::string(error.what()).find("codes were changed") != std::string::npos;
      }
      if (!thrown) fail("nobody says so");
      for (int64_t i = 0; i < behind; ++i) {
        if (keys.data()[limits.back() + i] != kUntouched) fail("written behind the results");
      }
    }
  }
}

void check_devices() {
  begin_case("devices");
  emulator::machine().devices = 4;
  cudaSetDevice(3);
  for (const int device : {2, 3}) {
    void* memory = gpu::allocate(device, 100);
    int now = -1;
    cudaGetDevice(&now);
    if (now != 3) fail("device %d is current", now);
    if (gpu::pointer_device(reinterpret_cast<uintptr_t>(memory)) != device) fail("another device");
    gpu::release(device, memory);
  }
  cudaSetDevice(0);
  // a device that is current and that nobody uses gets no context
  emulator::forget_contexts();
  gpu::release(2, gpu::allocate(2, 100));
  if (emulator::has_context(0) || !emulator::has_context(2)) fail("a context on a wrong device");
  bool refused = false;
  try {
    gpu::memory(7);
  } catch (const std::runtime_error&) {
    refused = true;
  }
  if (!refused) fail("there is no device 7");
  emulator::machine().devices = 2;
}

}  // namespace check
