// A group of queries on its way through a database, and the kernels that select.

#ifndef COOPHASH_CUDA_GROUP_H_
#define COOPHASH_CUDA_GROUP_H_

#include <cstdint>
#include <vector>

#include "device.h"
#include "keys.h"
#include "layout.h"
#include "portable.h"
#include "queries.h"
#include "sinks.h"

namespace coophash::gpu {

// Memory of the workspace, handed out piece by piece.
class Arena {
 public:
  Arena(void* memory, int64_t bytes) : at_(static_cast<unsigned char*>(memory)), left_(bytes) {}
  template <class T>
  T* take(int64_t items) {
    const int64_t bytes = rounded(items * static_cast<int64_t>(sizeof(T)));
    if (bytes > left_) throw std::runtime_error("CUDA: the workspace is too small");
    T* piece = reinterpret_cast<T*>(at_);
    at_ += bytes;
    left_ -= bytes;
    return piece;
  }
  int64_t left() const { return left_; }
  static int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

 private:
  unsigned char* at_;
  int64_t left_;
};

// Device memory of a group. Of a query: its first kept[q] candidates come before all others seen so
// far, and keys that are not below bounds[q] need not be looked at any more.
struct Group {
  uint4* vectors;              // (size, lanes_of(width))
  Key* buffer;                 // (size, capacity)
  unsigned long long* counts;  // (size,) candidates, those that did not fit among them
  Key* bounds;                 // (size,)
  int32_t* kept;               // (size,)
  int32_t* overflowed;         // (size + 1,) whether candidates did not fit; [size]: of how many
  int64_t capacity;
  int size;
  const int64_t* offsets = nullptr;  // (size + 1,) or null: see Collect
};

inline Collect collect_of(const Group& group) {
  return {group.buffer, group.counts, group.bounds, group.capacity, group.offsets};
}

inline int64_t group_bytes(int64_t size, int64_t capacity, int width) {
  const int64_t lanes = lanes_of(width);
  return Arena::rounded(16 * lanes * size) + Arena::rounded(8 * capacity * size) +
         2 * Arena::rounded(8 * size) + 2 * Arena::rounded(4 * (size + 1));
}

inline Group take_group(Arena& arena, int size, int64_t capacity, int width) {
  Group group;
  group.vectors = arena.take<uint4>(int64_t{size} * lanes_of(width));
  group.buffer = arena.take<Key>(size * capacity);
  group.counts = arena.take<unsigned long long>(size);
  group.bounds = arena.take<Key>(size);
  group.kept = arena.take<int32_t>(size + 1);
  group.overflowed = arena.take<int32_t>(size + 1);
  group.capacity = capacity;
  group.size = size;
  return group;
}

// The most queries of a group: as many as `bytes` hold, and no more than a grid can count.
inline constexpr int64_t kMostQueries = 16384;

// Rows that lie in device memory at once.
struct Unit {
  std::vector<Rows> spans;  // begin 0, end count
  int64_t first_place = 0;
  int64_t rows = 0;
};

// Multiprocessors and compute capability of the device that is current.
struct Machine {
  int multiprocessors;
  int capability;  // 90 for 9.0
};
Machine current_machine();

// No candidates, and `bound` for all.
void begin_group(const Group& group, Key bound, cudaStream_t stream);

// Reduces the candidates of each query (of a subset, or of all if it is null) to its k first, and
// sets the bounds; a query whose candidates did not fit is marked, goes back to what it had kept,
// and takes nothing more.
void settle(const Group& group, const int32_t* subset, int count, int64_t k, cudaStream_t stream);

// Results of all queries, sorted; kNoDistance and kNoId where there are fewer than k.
void finish(const Group& group, int64_t k, int32_t* distances, int64_t* places,
            cudaStream_t stream);

// Scans rows for candidates: by tensor cores where `path` says so, or where it says nothing and
// they are faster. Returns whether it took them.
bool scan(const Rows& rows, const Asked& asked, const Group& group, const Machine& machine,
          Path path, cudaStream_t stream);

// For the queries of `subset` (on the device), of which more rows of the unit came into question
// than there was room for: the exact k first of what they had kept and of the unit.
int64_t overflow_bytes(int width);  // of workspace
void resolve_overflow(const Unit& unit, const Group& group, const std::vector<int32_t>& queries,
                      int64_t k, int width, const Machine& machine, Arena arena,
                      cudaStream_t stream);

// The candidates of each query to keys + limits[q], where they are limits[q + 1] - limits[q] and
// all were kept. limits is on the device.
void gather(const Group& group, const int64_t* limits, Key* keys, cudaStream_t stream);

// Keys torn into distances and places.
void split(const Key* keys, int64_t count, int32_t* distances, int64_t* places,
           cudaStream_t stream);

// Sorts each segment limits[i] .. limits[i + 1] - 1 of keys, ascending. limits is on the host.
void sort_segments(Key* keys, const int64_t* limits, int64_t segments, Arena arena,
                   cudaStream_t stream);

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_GROUP_H_
