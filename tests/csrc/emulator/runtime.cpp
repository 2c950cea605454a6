// Memory, streams and events of the emulator.

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "emulator.h"

namespace emulator {

// What streams wait for lives on when the event was destroyed.
struct EventState {
  int recorded = 0, completed = 0;
};
struct Event {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

struct Work {
  std::function<void()> run;
  std::shared_ptr<EventState> wait;  // with `number`: not before the event was recorded as often
  int number = 0;
};

struct Stream {
  std::deque<Work> work;
};

namespace {

struct Allocation {
  size_t bytes;
  int device;  // -1: pinned host memory
  void* memory;
};

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
Stream default_stream;
std::set<Stream*> streams = {&default_stream};
std::map<uintptr_t, Allocation> allocations;
thread_local int chosen = 0;
thread_local std::vector<int> pushed;
bool contexts[64];
int64_t until_failure = -1;
bool failed = false;
int64_t events = 0;
thread_local cudaError_t last = cudaSuccess;
size_t used = 0;

cudaError_t give(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

int current() { return pushed.empty() ? chosen : pushed.back(); }

// At the beginning of a call that works on the current device: whether it is to fail.
cudaError_t enter() {
  const Lock lock(mutex);
  contexts[current()] = true;
  if (until_failure < 0 || until_failure-- > 0) return cudaSuccess;
  failed = true;
  return give(cudaErrorUnknown);
}
#define COOPHASH_ENTER() \
  if (const cudaError_t error = enter()) return error

// 1 and 2 are cudaStreamLegacy and cudaStreamPerThread.
Stream* of(cudaStream_t stream) {
  return reinterpret_cast<uintptr_t>(stream) <= 2 ? &default_stream : stream;
}

bool is_ready(const Stream* stream) {
  if (stream->work.empty()) return false;
  const Work& next = stream->work.front();
  return !next.wait || next.wait->completed >= next.number;
}

// Runs what streams have queued, in any order that events allow, until `done`.
template <class Done>
void run_until(const Done& done) {
  static std::mt19937_64 random(machine().seed);
  while (!done()) {
    std::vector<Stream*> ready;
    for (Stream* stream : streams) {
      if (is_ready(stream)) ready.push_back(stream);
    }
    if (ready.empty()) fail("streams wait for events that nothing will record");
    Stream* stream = ready[random() % ready.size()];
    const Work work = std::move(stream->work.front());
    stream->work.pop_front();
    if (work.run) work.run();
  }
}

cudaError_t allocate(void** pointer, size_t bytes, int device) {
  COOPHASH_ENTER();
  const Lock lock(mutex);
  if (device >= 0 && used + bytes > machine().memory_bytes) {
    return give(cudaErrorMemoryAllocation);
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes ? bytes : 1)) return give(cudaErrorMemoryAllocation);
  unsigned char* begin = static_cast<unsigned char*>(memory);
  std::memset(begin, 0xa5, bytes);
  allocations[reinterpret_cast<uintptr_t>(begin)] = {bytes, device, memory};
  if (device >= 0) used += bytes;
  *pointer = begin;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  const Lock lock(mutex);
  if (!pointer) return cudaSuccess;
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == allocations.end()) return give(cudaErrorInvalidValue);
  // as cudaFree does: what was queued is done first
  run_until([] {
    for (Stream* stream : streams) {
      if (!stream->work.empty()) return false;
    }
    return true;
  });
  if (found->second.device >= 0) used -= found->second.bytes;
  std::free(found->second.memory);
  allocations.erase(found);
  return cudaSuccess;
}

}  // namespace

Machine& machine() {
  static Machine kept;
  return kept;
}

Counts& counts() {
  static Counts kept = {};
  return kept;
}

bool has_context(int device) { return contexts[device]; }
void forget_contexts() { std::fill(std::begin(contexts), std::end(contexts), false); }

Live live() {
  const Lock lock(mutex);
  return {static_cast<int64_t>(streams.size()), events, static_cast<int64_t>(allocations.size())};
}

void fail_call(int64_t number) {
  const Lock lock(mutex);
  until_failure = number;
  failed = false;
}
bool has_failed() { return failed; }
cudaError_t launching() { return enter(); }

void queue(cudaStream_t stream, std::function<void()> work) {
  const Lock lock(mutex);
  of(stream)->work.push_back({std::move(work), nullptr, 0});
}

}  // namespace emulator

using namespace emulator;

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory"
         : error == cudaErrorInvalidDevice  ? "invalid device ordinal"
         : error == cudaSuccess             ? "no error"
                                            : "invalid argument";
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().devices;
  return machine().devices ? cudaSuccess : give(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= machine().devices) return give(cudaErrorInvalidDevice);
  chosen = device;
  pushed.clear();
  contexts[device] = true;
  return cudaSuccess;
}

namespace {

int handles[64];  // a context is the address of that of its device

CUresult init(unsigned) { return CUDA_SUCCESS; }
CUresult retain(CUcontext* context, CUdevice device) {
  if (device < 0 || device >= machine().devices) return CUDA_ERROR_INVALID_DEVICE;
  contexts[device] = true;
  *context = &handles[device];
  return CUDA_SUCCESS;
}
CUresult push(CUcontext context) {
  pushed.push_back(static_cast<int>(context - handles));
  return CUDA_SUCCESS;
}
CUresult pop(CUcontext* context) {
  if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = &handles[pushed.back()];
  pushed.pop_back();
  return CUDA_SUCCESS;
}

}  // namespace

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const std::map<std::string, void*> known = {
      {"cuInit", reinterpret_cast<void*>(init)},
      {"cuDevicePrimaryCtxRetain", reinterpret_cast<void*>(retain)},
      {"cuCtxPushCurrent", reinterpret_cast<void*>(push)},
      {"cuCtxPopCurrent", reinterpret_cast<void*>(pop)},
  };
  const auto found = known.find(name);
  *function = found == known.end() ? nullptr : found->second;
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= machine().devices) return give(cudaErrorInvalidDevice);
  *properties = {"emulated GPU", machine().major, machine().minor, machine().memory_bytes,
                 machine().multiprocessors};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? machine().multiprocessors
           : attribute == cudaDevAttrComputeCapabilityMajor ? machine().major
                                                            : machine().minor;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const Lock lock(mutex);
  *attributes = {cudaMemoryTypeUnregistered, -2};
  auto found = allocations.upper_bound(reinterpret_cast<uintptr_t>(pointer));
  if (found == allocations.begin()) return cudaSuccess;
  --found;
  if (reinterpret_cast<uintptr_t>(pointer) - found->first < found->second.bytes) {
    const int device = found->second.device;
    *attributes = {device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice, device};
  }
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(mutex);
  *total = machine().memory_bytes;
  *free = *total > used ? *total - used : 0;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes, current()); }
cudaError_t cudaFree(void* pointer) { return release(pointer); }
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return allocate(pointer, bytes, -1);
}
cudaError_t cudaFreeHost(void* pointer) { return release(pointer); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  COOPHASH_ENTER();
  queue(stream, [=] {
    std::memcpy(to, from, bytes);
    ++counts().copies;
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  COOPHASH_ENTER();
  queue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  COOPHASH_ENTER();
  const Lock lock(mutex);
  *stream = new Stream;
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(mutex);
  run_until([&] { return stream->work.empty(); });
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(mutex);
  run_until([&] { return of(stream)->work.empty(); });
  return enter();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  COOPHASH_ENTER();
  const Lock lock(mutex);
  of(stream)->work.push_back({nullptr, event->state, event->state->recorded});
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  COOPHASH_ENTER();
  *event = new Event;
  const Lock lock(mutex);
  ++events;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(mutex);
  --events;
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  COOPHASH_ENTER();
  const Lock lock(mutex);
  const std::shared_ptr<EventState> state = event->state;
  const int number = ++state->recorded;
  of(stream)->work.push_back({[=] { state->completed = number; }, nullptr, 0});
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(mutex);
  const std::shared_ptr<EventState> state = event->state;
  const int number = state->recorded;
  run_until([&] { return state->completed >= number; });
  return enter();
}
