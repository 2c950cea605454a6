// The CUDA part, as the rest sees it: plain pointers, no CUDA header. cuda/flat.cu implements it,
// or cuda/absent.cpp where the build has no CUDA.

#ifndef COOPHASH_CUDA_DEVICE_H_
#define COOPHASH_CUDA_DEVICE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace coophash {

struct CudaDevice {
  std::string name;
  int major, minor;  // compute capability
  int64_t memory_bytes;
  int multiprocessors;
};

// "" if a device can be used, or why none can: no CUDA in this build, no driver, a driver that is
// too old, no device. Never throws.
std::string cuda_status();

// Empty where cuda_status() is not "".
std::vector<CudaDevice> cuda_devices();

// Exact top-k by (distance, id) on one device. All pointers are device memory of that device, and
// the call only queues work on the stream.
struct CudaTopk {
  const uint8_t* codes;  // (rows, width); row r has the id first_id + r
  int64_t rows;
  int width;
  int64_t first_id;
  const uint8_t* queries;  // (count, width)
  int64_t count;
  int64_t k;
  void* workspace;  // cuda_topk_workspace(...) bytes, aligned to 8
  int64_t workspace_bytes;
  int32_t* distances;  // (count, k)
  int64_t* ids;        // (count, k)
};

int64_t cuda_topk_workspace(int64_t rows, int width, int64_t queries);

// Returns "" or what went wrong. `stream` is a cudaStream_t.
std::string cuda_topk(const CudaTopk& call, int device, void* stream);

}  // namespace coophash

#endif  // COOPHASH_CUDA_DEVICE_H_
