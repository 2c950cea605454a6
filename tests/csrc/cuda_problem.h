// What cuda_check searches: a database of several spans in emulated device memory or on the host,
// and how it calls.

#ifndef COOPHASH_TESTS_CUDA_PROBLEM_H_
#define COOPHASH_TESTS_CUDA_PROBLEM_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "../../csrc/cuda/device.h"
#include "../../csrc/hamming.h"
#include "check_support.h"
#include "emulator/emulator.h"

namespace check {

namespace gpu = coophash::gpu;  // as in cuda_check.h

// An array in device memory.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values, int offset = 0) : items_(values.size()) {
    const size_t bytes = items_ * sizeof(T) + static_cast<size_t>(offset);
    memory_ = gpu::allocate(0, static_cast<int64_t>(bytes));
    if (!memory_) fail("no memory");
    data_ = reinterpret_cast<T*>(static_cast<uint8_t*>(memory_) + offset);
    if (items_) std::memcpy(static_cast<void*>(data_), values.data(), items_ * sizeof(T));
  }
  explicit OnDevice(int64_t items) : OnDevice(std::vector<T>(static_cast<size_t>(items))) {}
  ~OnDevice() { gpu::release(0, memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() { return data_; }
  std::vector<T> values() const { return std::vector<T>(data_, data_ + items_); }

 private:
  size_t items_;
  void* memory_;
  T* data_;
};

struct Row {
  int distance;
  int64_t place;
  bool operator<(const Row& other) const {
    return distance != other.distance ? distance < other.distance : place < other.place;
  }
};

struct Part {
  int64_t rows;
  double allowed;  // share of the rows, 1: no filter
  int offset = 0;  // bytes past a multiple of 256
  bool on_host = false;
};

// A database of several spans, on the device or the host, and its queries.
struct Problem {
  Problem(int width_, Kind kind, const std::vector<Part>& parts, int64_t queries_)
      : width(width_), count(queries_) {
    uint64_t seed = 2;
    Random random(static_cast<uint64_t>(width));
    for (const Part& part : parts) {
      std::vector<uint8_t> own(static_cast<size_t>(part.rows * width));
      fill_codes(kind, seed += 2, part.rows, width, own.data());
      std::vector<uint64_t> words(static_cast<size_t>((part.rows + 63) / 64));
      for (int64_t row = 0; row < part.rows; ++row) {
        const bool keep = part.allowed >= 1 || random.below(10000) < part.allowed * 10000;
        if (keep) words[static_cast<size_t>(row / 64)] |= uint64_t{1} << (row % 64);
        allowed.push_back(keep);
      }
      codes.insert(codes.end(), own.begin(), own.end());
      gpu::Span span = {nullptr, nullptr, part.rows, part.on_host};
      if (part.on_host) {
        host_codes.push_back(own);
        host_words.push_back(words);
        span.codes = host_codes.back().data();
        if (part.allowed < 1) span.allow = host_words.back().data();
      } else {
        device_codes.emplace_back(new OnDevice<uint8_t>(own, part.offset));
        device_words.emplace_back(new OnDevice<uint64_t>(words));
        span.codes = device_codes.back()->data();
        if (part.allowed < 1) span.allow = device_words.back()->data();
      }
      database.spans.push_back(span);
    }
    database.width = width;
    asked.resize(static_cast<size_t>(count * width));
    fill_codes(kind, 7, count, width, asked.data());
    queries.reset(new OnDevice<uint8_t>(asked, 1));
  }

  int64_t rows() const { return static_cast<int64_t>(allowed.size()); }
  std::vector<int> distances(int64_t query) const {
    std::vector<int> all;
    for (int64_t row = 0; row < rows(); ++row) {
      all.push_back(naive_distance(&codes[static_cast<size_t>(row * width)],
                                   &asked[static_cast<size_t>(query * width)], width));
    }
    return all;
  }
  std::vector<Row> sorted(int64_t query) const {
    const std::vector<int> all = distances(query);
    std::vector<Row> found;
    for (int64_t row = 0; row < rows(); ++row) {
      if (allowed[static_cast<size_t>(row)]) found.push_back({all[static_cast<size_t>(row)], row});
    }
    std::sort(found.begin(), found.end());
    return found;
  }
  bool streamed() const { return !host_codes.empty(); }

  int width;
  int64_t count;
  gpu::Database database;
  std::vector<uint8_t> codes, asked;
  std::vector<bool> allowed;
  std::vector<std::vector<uint8_t>> host_codes;
  std::vector<std::vector<uint64_t>> host_words;
  std::vector<std::unique_ptr<OnDevice<uint8_t>>> device_codes;
  std::vector<std::unique_ptr<OnDevice<uint64_t>>> device_words;
  std::unique_ptr<OnDevice<uint8_t>> queries;
};

inline const char* name(gpu::Path path) {
  switch (path) {
    case gpu::Path::kAuto:
      return "auto";
    case gpu::Path::kPopc:
      return "popc";
    case gpu::Path::kMma:
      return "mma";
    default:
      return "wgmma";
  }
}

// Results of a search on a stream of its own, with the workspace it wants or the least it takes.
// Chunks that are streamed are the least there are, unless more bytes are given.
class Caller {
 public:
  Caller(gpu::Workspace workspace, bool least, gpu::Path path, int64_t chunk_bytes = 1)
      : bytes_(least ? workspace.least : workspace.wanted), memory_(bytes_) {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    call_ = {0, stream_, memory_.data(), bytes_, path, 2, chunk_bytes};
  }
  ~Caller() { cudaStreamDestroy(stream_); }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;
  const gpu::Call& call() const { return call_; }

 private:
  int64_t bytes_;
  OnDevice<uint8_t> memory_;
  cudaStream_t stream_ = nullptr;
  gpu::Call call_;
};

}  // namespace check

#endif  // COOPHASH_TESTS_CUDA_PROBLEM_H_
