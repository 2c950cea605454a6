// Errors of the CUDA runtime as C++ exceptions, what it hands out as objects, and the device that
// is current.

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

// Makes `device` current for the calling thread for as long as it lives (guard.cpp).
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  bool pushed_ = false;
  int before_ = -1;  // to be made current again by cudaSetDevice(), or -1
};

// A stream, an event and memory of the current device.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class Memory {
 public:
  explicit Memory(size_t bytes) { check(cudaMalloc(&memory_, bytes), "allocating memory"); }
  ~Memory() { cudaFree(memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

// Waits for a stream where nothing may be thrown. An error is not left for a later call to find.
inline void wait_quietly(cudaStream_t stream) {
  if (cudaStreamSynchronize(stream) != cudaSuccess) cudaGetLastError();
}

// Waits for a stream when it goes: to stand behind host memory that what is queued may still use,
// also when an error ends the work.
class Finished {
 public:
  explicit Finished(cudaStream_t stream) : stream_(stream) {}
  ~Finished() { wait_quietly(stream_); }
  Finished(const Finished&) = delete;
  Finished& operator=(const Finished&) = delete;

 private:
  cudaStream_t stream_;
};

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_ERRORS_H_
