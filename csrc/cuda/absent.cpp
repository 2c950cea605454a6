// The CUDA part of a build without CUDA.

#include "../build_info.h"
#include "device.h"

#include <stdexcept>

namespace coophash::gpu {
namespace {

[[noreturn]] void absent() { throw std::runtime_error("CUDA: " + status()); }

}  // namespace

std::string status() {
  return std::string("this build has no CUDA part: ") + build_info().cuda_reason;
}
std::vector<Device> devices() { return {}; }
FreeMemory memory(int) { absent(); }

Workspace topk_workspace(int64_t, int, int64_t, bool) { absent(); }
Counts topk(const Database&, const uint8_t*, int64_t, int64_t, const Call&, int32_t*, int64_t*) {
  absent();
}
Workspace range_workspace(int64_t, int, bool) { absent(); }
void range_count(const Database&, const uint8_t*, int64_t, int, const Call&, int64_t*) { absent(); }
void range_fill(const Database&, const uint8_t*, int64_t, int, const Call&, const int64_t*,
                uint64_t*, int32_t*, int64_t*) {
  absent();
}
Workspace histogram_workspace(int64_t, int, bool) { absent(); }
void histogram(const Database&, const uint8_t*, int64_t, const Labels*, int, const Call&, int64_t*,
               int64_t*) {
  absent();
}
Workspace distances_workspace(int64_t, int, bool) { absent(); }
void distances(const Database&, const uint8_t*, int64_t, const Call&, int32_t*) { absent(); }
int64_t first_spare(const uint8_t*, int64_t, int, int, int, void*, int64_t*) { absent(); }
std::string try_path(Path path, int) {
  return path == Path::kMma || path == Path::kWgmma ? status() : "";
}

void* allocate(int, int64_t) { absent(); }
void release(int, void*) { absent(); }
void upload(int, void*, const void*, int64_t) { absent(); }
void download(int, void*, const void*, int64_t) { absent(); }
void copy_within(int, void*, const void*, int64_t) { absent(); }
void wait(int, void*) { absent(); }
int pointer_device(uintptr_t) { return -1; }

}  // namespace coophash::gpu
