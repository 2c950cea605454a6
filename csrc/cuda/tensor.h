// The scan for candidates by one-bit tensor cores.

#ifndef COOPHASH_CUDA_TENSOR_H_
#define COOPHASH_CUDA_TENSOR_H_

#include "device.h"
#include "layout.h"
#include "queries.h"
#include "sinks.h"

namespace coophash::gpu {

// Fewest queries and rows for which tensor cores are taken. By counts, not by measurement: a tile
// of 64 or 128 queries costs as much however few of them there are.
inline constexpr int kTensorQueries = 32;
inline constexpr int64_t kTensorRows = 8192;

// Codes of 32, 64, 128, 256 or 512 bits, at a multiple of 16 bytes.
inline bool tensor_suits(const Rows& rows) {
  const int width = rows.width;
  return (width == 4 || width == 8 || width == 16 || width == 32 || width == 64) &&
         reads_vectors(rows.codes, width);
}

// Whether a path was built, and a device has what it needs: "" if so, or why not.
const char* mma_missing(int capability);
const char* wgmma_missing(int capability);

void scan_mma(const Rows& rows, const Asked& asked, const Collect& collect, int multiprocessors,
              cudaStream_t stream);
void scan_wgmma(const Rows& rows, const Asked& asked, const Collect& collect, int multiprocessors,
                cudaStream_t stream);

// The path to take for one that the caller named, or for kAuto. Throws std::invalid_argument, with
// the reason, if the named one does not work on this device.
Path choose_path(Path asked, int device, const Rows& rows, int queries);

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_TENSOR_H_
