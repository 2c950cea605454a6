// Streaming a database from host memory.

#include "feeder.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "../cpu/stop.h"
#include "../cpu/threads.h"

namespace coophash::gpu {
namespace {

// Pinned host memory, kept for the next search: to pin it takes longer than to fill it.
class Staging {
 public:
  static std::unique_ptr<Staging> take(int64_t bytes) {
    std::unique_ptr<Staging> found;
    {
      const std::lock_guard<std::mutex> lock(mutex());
      if (kept()) found = std::move(kept());
    }
    if (!found || found->bytes_ < bytes) found.reset(new Staging(bytes));
    return found;
  }
  static void give_back(std::unique_ptr<Staging> staging) {
    const std::lock_guard<std::mutex> lock(mutex());
    if (!kept()) kept() = std::move(staging);
  }
  ~Staging() { cudaFreeHost(memory_); }
  uint8_t* half(int i) { return static_cast<uint8_t*>(memory_) + i * bytes_ / 2; }

 private:
  explicit Staging(int64_t bytes) : bytes_(bytes) {
    check(cudaHostAlloc(&memory_, static_cast<size_t>(bytes), cudaHostAllocDefault),
          "pinning host memory");
  }
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static std::unique_ptr<Staging>& kept() {
    static auto* one = new std::unique_ptr<Staging>;  // never freed: the driver may be gone first
    return *one;
  }
  void* memory_ = nullptr;
  int64_t bytes_;
};

// Of a unit, for StopPoints: a unit takes long enough that the clock is looked at after each.
constexpr int64_t kUnitWork = int64_t{1} << 40;

struct Chunk {
  const Span* span;
  int64_t begin, rows, first_place;
};

std::vector<Chunk> chunks_of(const Database& database, int64_t most) {
  std::vector<Chunk> chunks;
  int64_t place = 0;
  for (const Span& span : database.spans) {
    for (int64_t at = 0; span.on_host && at < span.rows; at += most) {
      chunks.push_back({&span, at, std::min(most, span.rows - at), place + at});
    }
    place += span.rows;
  }
  return chunks;
}

bool is_pinned(const void* pointer) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeHost;
}

class Feeder {
 public:
  Feeder(const Database& database, const Call& call, Arena& arena)
      : width_(database.width),
        threads_(call.threads),
        stream_(static_cast<cudaStream_t>(call.stream)),
        rows_(chunk_rows(width_, call.chunk_bytes)),
        chunks_(chunks_of(database, rows_)) {
    staging_ = Staging::take(2 * (rows_ * width_ + rows_ / 8));
    for (Buffer& buffer : buffers_) {
      buffer.codes = arena.take<uint8_t>(rows_ * width_);
      buffer.allow = arena.take<uint64_t>(rows_ / 64);
    }
    // the workspace may still be in use by what the caller queued before
    check(cudaEventRecord(buffers_[0].used, stream_), "an event");
    check(cudaStreamWaitEvent(copies_, buffers_[0].used, 0), "waiting for an event");
  }
  ~Feeder() {
    wait_quietly(copies_);
    Staging::give_back(std::move(staging_));
  }
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

  size_t chunks() const { return chunks_.size(); }

  // Sends chunk i on its way; not before the work on chunk i - 2 was queued.
  void send(size_t i) {
    if (i >= chunks_.size()) return;
    const Chunk& chunk = chunks_[i];
    Buffer& buffer = buffers_[i % 2];
    const size_t bytes = static_cast<size_t>(chunk.rows * width_);
    const uint8_t* codes = chunk.span->codes + chunk.begin * width_;
    uint8_t* staged = staging_->half(static_cast<int>(i % 2));
    if (buffer.sent) check(cudaEventSynchronize(buffer.copied), "waiting for a copy");
    if (!is_pinned(codes)) {
      copy(staged, codes, bytes);
      codes = staged;
    }
    staged += rows_ * width_;
    if (buffer.sent) check(cudaStreamWaitEvent(copies_, buffer.used, 0), "waiting for an event");
    to_device(buffer.codes, codes, bytes);
    if (chunk.span->allow) {
      const size_t filter = static_cast<size_t>((chunk.rows + 63) / 64 * 8);
      std::memcpy(staged, chunk.span->allow + chunk.begin / 64, filter);
      to_device(buffer.allow, staged, filter);
    }
    check(cudaEventRecord(buffer.copied, copies_), "an event");
    buffer.sent = true;
  }

  // Chunk i as a unit, for work on the search's stream.
  Unit receive(size_t i) {
    const Chunk& chunk = chunks_[i];
    Buffer& buffer = buffers_[i % 2];
    check(cudaStreamWaitEvent(stream_, buffer.copied, 0), "waiting for an event");
    Unit unit;
    unit.first_place = chunk.first_place;
    unit.rows = chunk.rows;
    unit.spans = {{buffer.codes, chunk.span->allow ? buffer.allow : nullptr, chunk.rows, 0,
                   chunk.rows, chunk.first_place, width_}};
    return unit;
  }

  // All work on chunk i has been queued.
  void done(size_t i) { check(cudaEventRecord(buffers_[i % 2].used, stream_), "an event"); }

 private:
  struct Buffer {
    uint8_t* codes = nullptr;
    uint64_t* allow = nullptr;
    Event copied, used;
    bool sent = false;
  };

  void to_device(void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, copies_), "copying codes");
  }
  void copy(uint8_t* to, const uint8_t* from, size_t bytes) {
    constexpr size_t kPiece = 4 << 20;
    const int64_t pieces = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
    parallel_for(pieces, threads_, [&](int64_t piece) {
      const size_t at = static_cast<size_t>(piece) * kPiece;
      std::memcpy(to + at, from + at, std::min(kPiece, bytes - at));
    });
  }

  int width_, threads_;
  cudaStream_t stream_;
  Stream copies_;
  int64_t rows_;  // of a chunk
  std::vector<Chunk> chunks_;
  std::unique_ptr<Staging> staging_;
  Buffer buffers_[2];
};

}  // namespace

void for_each_unit(const Database& database, const Call& call, Arena arena, const UnitWork& work) {
  Unit there;
  int64_t place = 0;
  for (const Span& span : database.spans) {
    if (!span.on_host && span.rows) {
      // a row that is looked at later must come later, or ties would go to the wrong one
      if (place != there.rows) throw std::invalid_argument("spans on the device must come first");
      there.spans.push_back(
          {span.codes, span.allow, span.rows, 0, span.rows, place, database.width});
      there.rows += span.rows;
    }
    place += span.rows;
  }
  StopPoints stop;
  stop.after(kUnitWork);
  if (!is_streamed(database)) {
    if (there.rows) work(there, [] {});
    return;
  }
  Feeder feeder(database, call, arena);
  feeder.send(0);
  if (there.rows) work(there, [] {});
  for (size_t i = 0; i < feeder.chunks(); ++i) {
    const Unit unit = feeder.receive(i);
    work(unit, [&] { feeder.send(i + 1); });
    feeder.done(i);
    stop.after(kUnitWork);
  }
}

}  // namespace coophash::gpu
