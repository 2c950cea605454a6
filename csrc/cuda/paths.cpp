// Which way a scan goes, and whether tensor cores do on this device what they should.

#include "tensor.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "group.h"

namespace coophash::gpu {
namespace {

const char* missing(Path path, int capability) {
  return path == Path::kMma ? mma_missing(capability) : wgmma_missing(capability);
}

// A stream of numbers that is the same everywhere (splitmix64).
uint32_t draw(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
}

// Candidates of a small problem by one path: of each query how many, and the sum and XOR of them.
struct Summary {
  std::vector<unsigned long long> counts;
  Key sum = 0, parity = 0;
  bool operator==(const Summary& other) const {
    return counts == other.counts && sum == other.sum && parity == other.parity;
  }
};

Summary solve(Path path, int width, const Machine& machine, int64_t rows, int queries,
              const std::vector<uint8_t>& codes, const std::vector<Key>& bounds) {
  const int64_t code_bytes = static_cast<int64_t>(codes.size());
  const int64_t bytes = Arena::rounded(code_bytes) + group_bytes(queries, rows, width) + 1024;
  Summary summary;
  std::vector<Key> keys(static_cast<size_t>(queries * rows));
  summary.counts.resize(static_cast<size_t>(queries));
  const Memory memory(static_cast<size_t>(bytes));
  const Stream stream;
  const Finished finished(stream);
  Arena arena(memory.get(), bytes);
  uint8_t* on_device = arena.take<uint8_t>(code_bytes);
  const Group group = take_group(arena, queries, rows, width);
  const auto copy = [&](void* to, const void* from, size_t size) {
    check(cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream), "copying");
  };
  copy(on_device, codes.data(), codes.size());
  prepare_queries(on_device + rows * width, queries, width, group.vectors, stream);
  begin_group(group, 0, stream);
  copy(group.bounds, bounds.data(), sizeof(Key) * bounds.size());
  scan({on_device, nullptr, rows, 0, rows, 0, width}, {group.vectors, nullptr, queries, 0}, group,
       machine, path, stream);
  copy(summary.counts.data(), group.counts, sizeof(Key) * summary.counts.size());
  copy(keys.data(), group.buffer, sizeof(Key) * keys.size());
  check(cudaStreamSynchronize(stream), "trying tensor cores");
  for (int q = 0; q < queries; ++q) {
    for (int64_t i = 0; i < static_cast<int64_t>(summary.counts[static_cast<size_t>(q)]); ++i) {
      if (i >= rows) break;
      const Key key = keys[static_cast<size_t>(q * rows + i)];
      summary.sum += key;
      summary.parity ^= key * 0x9e3779b97f4a7c15u;
    }
  }
  return summary;
}

// Whether a path finds what counting bits finds: near and far rows, all limits.
bool agrees(Path path, int width, const Machine& machine) {
  constexpr int64_t kRows = 300;
  constexpr int kQueries = 140;
  uint64_t state = static_cast<uint64_t>(width);
  std::vector<uint8_t> codes(static_cast<size_t>((kRows + kQueries) * width));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(draw(state));
  std::vector<Key> bounds;
  for (int q = 0; q < kQueries; ++q) {
    uint8_t* query = &codes[static_cast<size_t>((kRows + q) * width)];
    if (q % 2) {  // near to one row
      std::copy_n(&codes[static_cast<size_t>(q * width)], width, query);
      query[q % width] ^= static_cast<uint8_t>(draw(state));
    }
    bounds.push_back(
        bound_below(static_cast<int>(draw(state) % (8u * static_cast<unsigned>(width) + 2))));
  }
  return solve(path, width, machine, kRows, kQueries, codes, bounds) ==
         solve(Path::kPopc, width, machine, kRows, kQueries, codes, bounds);
}

struct Tried {
  int device;
  Path path;
  std::string answer;
};

}  // namespace

std::string try_path(Path path, int device) {
  static std::mutex mutex;
  static auto* tried = new std::vector<Tried>;
  if (path == Path::kAuto || path == Path::kPopc) return "";
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Tried& known : *tried) {
    if (known.device == device && known.path == path) return known.answer;
  }
  const DeviceGuard guard(device);
  const Machine machine = current_machine();
  std::string answer = missing(path, machine.capability);
  for (const int width : {4, 8, 16, 32, 64}) {
    if (!answer.empty()) break;
    try {
      if (!agrees(path, width, machine)) {
        answer = "on this device it gave a wrong result for " + std::to_string(8 * width) +
                 " bits when it was tried";
      }
    } catch (const std::runtime_error& error) {
      return error.what();  // too little memory, say: not an answer for good, so it is not kept
    }
  }
  tried->push_back({device, path, answer});
  return answer;
}

Path choose_path(Path asked, int device, const Rows& rows, int queries) {
  if (asked == Path::kPopc) return asked;
  if (asked != Path::kAuto) {
    const std::string why = try_path(asked, device);
    if (!why.empty()) throw std::invalid_argument("this path cannot be taken: " + why);
    return asked;
  }
  if (queries < kTensorQueries || rows.end - rows.begin < kTensorRows || !tensor_suits(rows)) {
    return Path::kPopc;
  }
  for (const Path path : {Path::kWgmma, Path::kMma}) {
    if (try_path(path, device).empty()) return path;
  }
  return Path::kPopc;
}

}  // namespace coophash::gpu
