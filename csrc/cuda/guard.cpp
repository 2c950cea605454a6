// The device that is current, changed for a while.
//
// From CUDA 12 on cudaSetDevice() makes a context: on the way back from another device, one of some
// 500 MB on a device that nobody uses. So the primary context of the device, which is the one that
// the runtime works in, is pushed and popped by the driver's own functions. Where these cannot be
// had, cudaSetDevice() it is.

#include "portable.h"

#ifndef COOPHASH_CUDA_EMULATOR
#include <cuda.h>
#endif

namespace coophash::gpu {
namespace {

template <class Function>
bool find(const char* name, Function& function) {
  void* found = nullptr;
#if CUDART_VERSION >= 12050
  cudaDriverEntryPointQueryResult result;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault);
#endif
  if (error != cudaSuccess) cudaGetLastError();
  function = reinterpret_cast<Function>(found);
  return error == cudaSuccess && found;
}

struct Driver {
  CUresult (*init)(unsigned);
  CUresult (*retain)(CUcontext*, CUdevice);
  CUresult (*push)(CUcontext);
  CUresult (*pop)(CUcontext*);
  bool there;

  Driver() {
    there = find("cuInit", init) && find("cuDevicePrimaryCtxRetain", retain) &&
            find("cuCtxPushCurrent", push) && find("cuCtxPopCurrent", pop) &&
            init(0) == CUDA_SUCCESS;
  }
};

const Driver& driver() {
  static const Driver one;
  return one;
}

// Whether the device is current now, by its primary context. The context is never released: it is
// the runtime's, and must not go while memory is in it.
bool push(int device) {
  CUcontext context = nullptr;
  if (!driver().there || driver().retain(&context, device) != CUDA_SUCCESS) return false;
  if (driver().push(context) != CUDA_SUCCESS) return false;
  int now = -1;
  if (cudaGetDevice(&now) == cudaSuccess && now == device) return true;
  cudaGetLastError();
  driver().pop(&context);
  return false;
}

}  // namespace

DeviceGuard::DeviceGuard(int device) {
  int before = -1;
  check(cudaGetDevice(&before), "asking for the current device");
  if (before == device) return;
  pushed_ = push(device);
  if (pushed_) return;
  check(cudaSetDevice(device), "choosing the device");
  before_ = before;
}

DeviceGuard::~DeviceGuard() {
  CUcontext context = nullptr;
  if (pushed_) driver().pop(&context);
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace coophash::gpu
