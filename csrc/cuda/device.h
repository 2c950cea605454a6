// Search on a CUDA device, as the rest sees it: plain pointers, no CUDA header. The files beside
// this one implement it, or absent.cpp where the build has no CUDA part.
//
// The contract is that of hamming.h, with places in the stead of ids: the place of a row is its
// number counted over all spans, and results are ordered by (distance, place). Pointers are to
// memory of the device of the call, if nothing else is said. Work is queued on the stream of the
// call, behind what the caller queued before; a call returns when its results are there, and throws
// when none of its work is left to do.
//
// Errors are std::runtime_error; std::bad_alloc where the host has no memory. The current device of
// the calling thread is what it was when a call returns.

#ifndef COOPHASH_CUDA_DEVICE_H_
#define COOPHASH_CUDA_DEVICE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace coophash::gpu {

struct Device {
  std::string name;
  int major, minor;  // compute capability
  int64_t memory_bytes;
  int multiprocessors;
};

// "" if a device can be used, or why none can: no CUDA in this build, no driver, a driver that is
// too old, no device. Never throws.
std::string status();

// Empty where status() is not "".
std::vector<Device> devices();

struct FreeMemory {
  int64_t free, total;  // bytes
};
FreeMemory memory(int device);

struct Span {
  const uint8_t* codes;   // (rows, width)
  const uint64_t* allow;  // (ceil(rows / 64),) as in hamming.h, or null
  int64_t rows;
  bool on_host;  // whether both are host memory: then they are streamed through the device
};

struct Database {
  std::vector<Span> spans;
  int width;  // bytes of a code
};

// How pairs are compared. kAuto: tensor cores for batches where the device has them for single bits
// (compute capability 8.0 to 9.0), after they gave the right result on this device once; else by
// counting bits. The result is the same.
enum class Path { kAuto, kPopc, kMma, kWgmma };

struct Call {
  int device;
  void* stream;     // a cudaStream_t
  void* workspace;  // aligned to 256
  int64_t workspace_bytes;
  Path path = Path::kAuto;
  int threads = 1;                          // of the host, to copy what is streamed
  int64_t chunk_bytes = int64_t{64} << 20;  // of codes that are streamed at a time, at the most
};

inline constexpr int64_t kMostNeighbours = 16384;  // the largest k

// What a search did, for tests and benchmarks.
struct Counts {
  int64_t rounds;      // of scans, each with a selection behind it
  int64_t overflowed;  // (query, unit of rows) whose candidates did not fit, so that they were
                       // searched once more by counting all distances
  int64_t tensor;      // scans that took tensor cores
};

// Bytes of workspace for a search of this size: at the best, and at the least.
struct Workspace {
  int64_t wanted, least;
};
Workspace topk_workspace(int64_t queries, int width, int64_t k, bool streamed);

// The k nearest rows to each query, k <= kMostNeighbours.
//   queries (count, width); distances (count, k), places (count, k).
Counts topk(const Database& database, const uint8_t* queries, int64_t count, int64_t k,
            const Call& call, int32_t* distances, int64_t* places);

// All rows within a radius, in two steps with one workspace that is left alone between them.
Workspace range_workspace(int64_t queries, int width, bool streamed);

//   counts (count,): on the host, how many rows each query has.
void range_count(const Database& database, const uint8_t* queries, int64_t count, int radius,
                 const Call& call, int64_t* counts);

//   limits (count + 1,): on the host, the sums of counts; distances, places (limits[count],), and
//   keys (limits[count],): room to work in.
void range_fill(const Database& database, const uint8_t* queries, int64_t count, int radius,
                const Call& call, const int64_t* limits, uint64_t* keys, int32_t* distances,
                int64_t* places);

// As Relevance of hamming.h, in device memory: those of a row are found by its place.
struct Labels {
  const int32_t* row_classes = nullptr;    // (rows,)
  const int32_t* query_classes = nullptr;  // (queries,)
  const uint16_t* row_labels = nullptr;    // (words, rows)
  const uint16_t* query_labels = nullptr;  // (queries, words)
  int words = 0;
  int grades = 2;
  int64_t rows = 0;
};

Workspace histogram_workspace(int64_t queries, int width, bool streamed);

// total (count, bins), relevant (count, bins, grades - 1) as in hamming.h.
void histogram(const Database& database, const uint8_t* queries, int64_t count,
               const Labels* labels, int bins, const Call& call, int64_t* total, int64_t* relevant);

// All distances, out (count, rows of all spans). Filters are not looked at.
Workspace distances_workspace(int64_t queries, int width, bool streamed);
void distances(const Database& database, const uint8_t* queries, int64_t count, const Call& call,
               int32_t* out);

// The first row of which a spare bit behind `bits` is not 0, -1 if there is none. room: 8 bytes of
// device memory.
int64_t first_spare(const uint8_t* codes, int64_t rows, int width, int bits, int device,
                    void* stream, int64_t* room);

// Whether a path gives the right result on a device: "" if so, or why not. Tried until there is an
// answer: an error on the way, such as too little memory, is none.
std::string try_path(Path path, int device);

// Memory of a device, for callers that have no library of their own.
void* allocate(int device, int64_t bytes);  // null where there is not enough
void release(int device, void* pointer);
void upload(int device, void* to, const void* from, int64_t bytes);    // waits
void download(int device, void* to, const void* from, int64_t bytes);  // waits
void copy_within(int device, void* to, const void* from, int64_t bytes);
void wait(int device, void* stream);    // until the stream has done its work
int pointer_device(uintptr_t address);  // whose memory it is, -1 if it is no device's

}  // namespace coophash::gpu

#endif  // COOPHASH_CUDA_DEVICE_H_
