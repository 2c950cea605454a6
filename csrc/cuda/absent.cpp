// The CUDA part of a build without CUDA.

#include "../build_info.h"
#include "device.h"

namespace coophash {

std::string cuda_status() {
  return std::string("this build has no CUDA part: ") + build_info().cuda_reason;
}

std::vector<CudaDevice> cuda_devices() { return {}; }

int64_t cuda_topk_workspace(int64_t, int, int64_t) { return 0; }

std::string cuda_topk(const CudaTopk&, int, void*) { return cuda_status(); }

}  // namespace coophash
