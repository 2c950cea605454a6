// Errors of the CUDA runtime as C++ exceptions, and the device that is current.

#ifndef COOPHASH_CUDA_ERRORS_H_
#define COOPHASH_CUDA_ERRORS_H_

#ifndef COOPHASH_CUDA_EMULATOR
#include <cuda_runtime.h>
#endif

#include <new>
#include <stdexcept>
#include <string>

namespace coophash::gpu {

// Throws std::runtime_error, naming what was being done, unless `error` is success. An error that
// CUDA remembers is taken from it, so that no later call finds it.
inline void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("CUDA: ") + doing + ": " + cudaGetErrorString(error));
}

// Makes `device` current for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != device) check(cudaSetDevice(device), "choosing the device");
    changed_ = before_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_ERRORS_H_
