// What devices there are, and their memory.

#include "group.h"

namespace coophash::gpu {

std::string status() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();  // an error here must not be found by a later call
  if (error == cudaErrorInsufficientDriver) {
    return "no NVIDIA driver, or one older than CUDA " + std::to_string(CUDART_VERSION / 1000) +
           " needs";
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) return "no NVIDIA GPU";
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

std::vector<Device> devices() {
  std::vector<Device> list;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    list.push_back({properties.name, properties.major, properties.minor,
                    static_cast<int64_t>(properties.totalGlobalMem),
                    properties.multiProcessorCount});
  }
  cudaGetLastError();
  return list;
}

FreeMemory memory(int device) {
  const DeviceGuard guard(device);
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for memory");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

Machine current_machine() {
  int device = 0, multiprocessors = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  const auto ask = [&](int* value, cudaDeviceAttr attribute) {
    check(cudaDeviceGetAttribute(value, attribute, device), "asking for a device's properties");
  };
  ask(&multiprocessors, cudaDevAttrMultiProcessorCount);
  ask(&major, cudaDevAttrComputeCapabilityMajor);
  ask(&minor, cudaDevAttrComputeCapabilityMinor);
  return {multiprocessors, 10 * major + minor};
}

void* allocate(int device, int64_t bytes) {
  const DeviceGuard guard(device);
  void* pointer = nullptr;
  const cudaError_t error = cudaMalloc(&pointer, static_cast<size_t>(bytes < 1 ? 1 : bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(error, "allocating memory");
  return pointer;
}

void release(int device, void* pointer) {
  const DeviceGuard guard(device);
  check(cudaFree(pointer), "freeing memory");
}

namespace {

void copy(int device, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  const DeviceGuard guard(device);
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, nullptr), "copying");
  check(cudaStreamSynchronize(nullptr), "copying");
}

}  // namespace

void upload(int device, void* to, const void* from, int64_t bytes) {
  copy(device, to, from, bytes, cudaMemcpyHostToDevice);
}
void download(int device, void* to, const void* from, int64_t bytes) {
  copy(device, to, from, bytes, cudaMemcpyDeviceToHost);
}
void copy_within(int device, void* to, const void* from, int64_t bytes) {
  copy(device, to, from, bytes, cudaMemcpyDeviceToDevice);
}
void wait(int device, void* stream) {
  const DeviceGuard guard(device);
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "waiting");
}
int pointer_device(uintptr_t address) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, reinterpret_cast<void*>(address)) != cudaSuccess) {
    cudaGetLastError();
    return -1;
  }
  return attributes.type == cudaMemoryTypeDevice ? attributes.device : -1;
}

}  // namespace coophash::gpu
