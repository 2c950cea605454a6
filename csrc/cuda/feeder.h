// A database as units of rows that lie in device memory, in order of place: what is there already,
// which must come first, is one unit; what is on the host comes in chunks, by two buffers and a
// stream of its own, while the search is at work on the chunk before.

#ifndef COOPHASH_CUDA_FEEDER_H_
#define COOPHASH_CUDA_FEEDER_H_

#include <algorithm>
#include <functional>

#include "group.h"

namespace coophash::gpu {

// Rows of a chunk: whole rounds.
inline int64_t chunk_rows(int width, int64_t bytes) {
  return std::max<int64_t>(kRoundRows, bytes / width / kRoundRows * kRoundRows);
}
// Bytes of workspace: two of the largest chunks and their filters.
inline int64_t feeder_bytes(int width) {
  const int64_t rows = chunk_rows(width, Call().chunk_bytes);
  return 2 * (Arena::rounded(rows * width) + Arena::rounded(rows / 8));
}
inline bool is_streamed(const Database& database) {
  for (const Span& span : database.spans) {
    if (span.on_host && span.rows) return true;
  }
  return false;
}

// What is done with a unit. It must call `meanwhile` once, after it queued its work and before it
// waits for it: the next chunk is then on its way.
using UnitWork = std::function<void(const Unit& unit, const std::function<void()>& meanwhile)>;

void for_each_unit(const Database& database, const Call& call, Arena arena, const UnitWork& work);

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_FEEDER_H_
