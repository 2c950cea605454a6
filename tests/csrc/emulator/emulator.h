// CUDA on the host, for checks on a machine without a GPU: the kernels of csrc/cuda, unchanged.
//
// A block's threads are fibers. They run one at a time, in an order drawn at random, and change at
// barriers and where a warp's lanes exchange values; blocks run in random order, too. Streams are
// queues that are worked off at random, as far as events allow, and only when something waits for
// them, so that a missing wait is found. Memory begins as garbage. What is not like a GPU: only one
// thread of one block runs at a time, and only what csrc/cuda uses is there.
//
// A thread that waits for others that will never come ends the program, as does a warp whose lanes
// exchange values in different ways.

#ifndef COOPHASH_TESTS_EMULATOR_H_
#define COOPHASH_TESTS_EMULATOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }

// ---- the runtime --------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorUnknown = 999,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
#define CUDART_VERSION 13000

namespace emulator {
struct Stream;
struct Event;
}  // namespace emulator
using cudaStream_t = emulator::Stream*;
using cudaEvent_t = emulator::Event*;

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  size_t totalGlobalMem;
  int multiProcessorCount;
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};

// The driver's functions, of those that csrc/cuda asks for.
enum CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_CONTEXT = 201
};
using CUdevice = int;
using CUcontext = int*;
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 };
enum { cudaEnableDefault = 0 };
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);

// ---- a thread -----------------------------------------------------------------------------------

namespace emulator {

// What every machine of the emulator has.
struct Machine {
  int devices = 2;
  int major = 9, minor = 0;
  int multiprocessors = 3;
  size_t memory_bytes = size_t{8} << 30;
  uint64_t seed = 1;
};
Machine& machine();

// Contexts that were made, by device: as on a device, by whatever works there, and by
// cudaSetDevice().
bool has_context(int device);
void forget_contexts();

// What there is that must be given back.
struct Live {
  int64_t streams, events, allocations;
  bool operator==(const Live& other) const {
    return streams == other.streams && events == other.events && allocations == other.allocations;
  }
};
Live live();

// From now on the call of the runtime at this number, from 0, fails, of those that can; -1 for
// none. Whether that has happened.
void fail_call(int64_t number);
bool has_failed();
cudaError_t launching();  // a kernel

// What ran so far: to check that what should run did.
struct Counts {
  int64_t kernels, mma, wgmma, copies;
};
Counts& counts();

struct Place {
  dim3 grid, block, thread, size;
};
Place& here();  // of the thread that runs

void queue(cudaStream_t stream, std::function<void()> work);
void run_kernel(dim3 grid, int threads, size_t shared, const std::function<void()>& body);
unsigned char* shared_memory();

// Waits until all threads of the block, or of the warp, are at such a place.
void block_barrier();
inline constexpr size_t kSlotBytes = 32;
enum Exchange { kShuffle, kBallot, kMatch, kMma, kWarpBarrier };
// All lanes of a warp give kSlotBytes and get those of all: 32 slots, valid until the next
// exchange.
const unsigned char* exchange(Exchange kind, const void* value, size_t bytes);

template <class T>
T slot_of(const unsigned char* slots, int lane) {
  T value;
  std::memcpy(&value, slots + static_cast<size_t>(lane) * kSlotBytes, sizeof(T));
  return value;
}
[[noreturn]] void fail(const char* what);

}  // namespace emulator

#define threadIdx (emulator::here().thread)
#define blockIdx (emulator::here().block)
#define gridDim (emulator::here().grid)
#define blockDim (emulator::here().size)

inline void require_all_lanes(unsigned mask) {
  if (mask != 0xffffffffu) emulator::fail("only whole warps exchange values");
}
inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  require_all_lanes(mask);
  emulator::exchange(emulator::kWarpBarrier, nullptr, 0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  require_all_lanes(mask);
  const int value = predicate != 0;
  const unsigned char* slots = emulator::exchange(emulator::kBallot, &value, sizeof(value));
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    votes |= static_cast<unsigned>(emulator::slot_of<int>(slots, lane)) << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  require_all_lanes(mask);
  return emulator::slot_of<T>(emulator::exchange(emulator::kShuffle, &value, sizeof(T)), lane & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ flip);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int from = lane - static_cast<int>(delta);
  return __shfl_sync(mask, value, from < 0 ? lane : from);
}
inline unsigned __match_any_sync(unsigned mask, int value) {
  require_all_lanes(mask);
  const unsigned char* slots = emulator::exchange(emulator::kMatch, &value, sizeof(value));
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane) {
    same |= static_cast<unsigned>(emulator::slot_of<int>(slots, lane) == value) << lane;
  }
  return same;
}
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
template <class T, class U>
T atomicAdd(T* to, U value) {
  const T before = *to;
  *to = static_cast<T>(before + static_cast<T>(value));
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  if (value < before) *to = value;
  return before;
}
template <class T>
T min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

namespace coophash::gpu {

inline void check(cudaError_t error, const char* doing);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
            cudaStream_t stream, const Arguments&... arguments) {
  check(emulator::launching(), "starting a kernel");
  std::tuple<Parameters...> kept(static_cast<Parameters>(arguments)...);
  emulator::queue(stream, [=] {
    emulator::run_kernel(grid, threads, shared, [&] { std::apply(kernel, kept); });
  });
}
inline unsigned char* dynamic_shared() { return emulator::shared_memory(); }

}  // namespace coophash::gpu

#endif  // COOPHASH_TESTS_EMULATOR_H_
