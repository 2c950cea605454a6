// A batch of queries searched by bit slices: the driver of what sliced_impl.h computes.

#ifndef COOPHASH_CPU_SLICED_H_
#define COOPHASH_CPU_SLICED_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "kernels.h"
#include "stop.h"

namespace coophash {

// Memory for vectors: aligned to 64 bytes, uninitialised.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t bytes)
      : bytes_(static_cast<uint8_t*>(
            ::operator new(static_cast<size_t>(bytes), std::align_val_t{64}))) {}
  uint8_t* data() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* bytes) const { ::operator delete(bytes, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t, Free> bytes_;
};

// Queries with a limit each. One that cannot have another hit is finished and costs nothing more.
class SlicedBatch {
 public:
  // queries (count, width)
  SlicedBatch(const SlicedKernels& kernels, int width, const uint8_t* queries, int64_t count)
      : kernels_(kernels),
        width_(width),
        queries_(queries),
        table_(kernels.table_bytes),
        records_(kernels.record_bytes * count),
        limits_(static_cast<size_t>(count)),
        record_limits_(static_cast<size_t>(count)),
        order_(static_cast<size_t>(count)),
        hit_queries_(static_cast<size_t>(count)),
        hit_rows_(static_cast<size_t>(count * (kernels.rows / 64))),
        hits_(static_cast<size_t>(kernels.rows + kHitSlack)) {}

  int rows() const { return kernels_.rows; }
  int64_t active() const { return active_; }

  // Starts over. limit(query) is 0 .. 8 * width for each query: 0 for one that is finished.
  template <class Limit>
  void start(const Limit& limit) {
    active_ = 0;
    for (int64_t query = 0; query < static_cast<int64_t>(order_.size()); ++query) {
      const int value = limit(query);
      limits_[static_cast<size_t>(query)] = value;
      if (value <= 0) continue;
      uint8_t* record = record_at(active_);
      kernels_.prepare(queries_ + query * width_, width_, record);
      kernels_.set_limit(record, width_, value);
      record_limits_[static_cast<size_t>(active_)] = value;
      order_[static_cast<size_t>(active_++)] = static_cast<uint32_t>(query);
    }
  }

  // Lowers the limit of a query, or leaves it as it is.
  void lower(int64_t query, int limit) { limits_[static_cast<size_t>(query)] = limit; }

  // Looks for the rows of a group at distance < limit: calls visit(query, hits, count) for each
  // query that has some, with rows from 0 in increasing order, and takes the query's new limit from
  // what it returns, which must not be larger than the old one. `ahead` bytes lie behind the group
  // and are scanned next.
  template <class Visit>
  void scan(const uint8_t* codes, int64_t ahead, const Visit& visit) {
    const int words = kernels_.rows / 64;
    const int64_t group = int64_t{kernels_.rows} * width_;
    kernels_.build(codes, width_, std::min(ahead, group), table_.data());
    const int64_t found = kernels_.scan(table_.data(), records_.data(), active_, width_,
                                        {hit_queries_.data(), hit_rows_.data()});
    // From the last on: where a query leaves, the last takes its place.
    for (int64_t i = found - 1; i >= 0; --i) {
      const size_t slot = hit_queries_[static_cast<size_t>(i)];
      const int64_t query = order_[slot];
      int& limit = limits_[static_cast<size_t>(query)];
      const int64_t count = kernels_.resolve(codes, width_, queries_ + query * width_,
                                             hit_rows_.data() + i * words, limit, hits_.data());
      if (count) limit = visit(query, hits_.data(), count);
      if (limit == record_limits_[slot]) continue;
      if (limit > 0) {
        kernels_.set_limit(record_at(static_cast<int64_t>(slot)), width_, limit);
        record_limits_[slot] = limit;
      } else {
        leave(slot);
      }
    }
    stop_.after(active_);
  }

 private:
  uint8_t* record_at(int64_t slot) const { return records_.data() + slot * kernels_.record_bytes; }

  void leave(size_t slot) {
    const size_t last = static_cast<size_t>(--active_);
    if (slot == last) return;
    std::memcpy(record_at(static_cast<int64_t>(slot)), record_at(active_),
                static_cast<size_t>(kernels_.record_bytes));
    order_[slot] = order_[last];
    record_limits_[slot] = record_limits_[last];
  }

  SlicedKernels kernels_;
  int width_;
  const uint8_t* queries_;
  AlignedBytes table_, records_;
  std::vector<int> limits_;         // of each query
  std::vector<int> record_limits_;  // of each slot, the place of a record: may be one from before
  std::vector<uint32_t> order_;     // the query of each slot
  int64_t active_ = 0;
  StopPoints stop_;
  std::vector<uint32_t> hit_queries_;
  std::vector<uint64_t> hit_rows_;
  std::vector<Hit> hits_;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_SLICED_H_
