// Flat exact top-k by counting, and what the machine has.
//
// Two passes over the database and no sort. The first counts, for each query and each slice of the
// database, the rows at every distance. Sums of these counts, distance by distance and within one
// distance slice by slice, give the place in the sorted result at which each slice's rows of each
// distance begin. The second pass writes the rows there, in order of row. So the result is ordered
// by (distance, id), and no order in which blocks happen to run can change it.

#include <cuda_runtime.h>

#include <cstdint>

#include "device.h"

namespace coophash {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSliceRows = 4096;   // fewest rows of a slice
constexpr int64_t kBlocks = 4096;      // blocks that fill any device
constexpr uint32_t kFar = UINT32_MAX;  // a row that cannot enter the result

// One call's sizes; all blocks get a copy.
struct Shape {
  const uint8_t* codes;
  const uint8_t* queries;
  int64_t rows;
  int64_t slice_rows;
  int64_t k;
  int64_t first_id;
  int width;
  int bins;  // 8 * width + 1
  int slices;
};

int64_t slice_count(int64_t rows, int64_t queries) {
  const int64_t most = (rows + kSliceRows - 1) / kSliceRows;
  const int64_t useful = (kBlocks + queries - 1) / queries;
  const int64_t slices = most < useful ? most : useful;
  return slices < 1 ? 1 : slices;
}

__device__ inline uint32_t bits(uint64_t x) { return __popcll(x); }
__device__ inline uint32_t bits(uint32_t x) { return __popc(x); }
__device__ inline uint32_t bits(uint8_t x) { return __popc(x); }

template <class Word>
__device__ uint32_t distance(const uint8_t* code, const uint8_t* query, int width) {
  const Word* a = reinterpret_cast<const Word*>(code);
  const Word* b = reinterpret_cast<const Word*>(query);
  uint32_t sum = 0;
  for (int i = 0; i < width / static_cast<int>(sizeof(Word)); ++i) {
    sum += bits(static_cast<Word>(a[i] ^ b[i]));
  }
  return sum;
}

// Block b serves query b / slices and slice b % slices. Shared memory: the query, then one number
// for each bin.
struct BlockPlace {
  int64_t query, slice, begin, end;
};

__device__ BlockPlace block_place(const Shape& shape) {
  BlockPlace at;
  at.query = blockIdx.x / shape.slices;
  at.slice = blockIdx.x % shape.slices;
  at.begin = at.slice * shape.slice_rows;
  at.end = at.begin + shape.slice_rows < shape.rows ? at.begin + shape.slice_rows : shape.rows;
  return at;
}

__device__ inline int query_bytes(const Shape& shape) { return (shape.width + 7) / 8 * 8; }

// counts (queries, slices, bins): how many rows of the slice lie at each distance.
template <class Word>
__global__ void __launch_bounds__(kThreads, 4) count_kernel(Shape shape, uint32_t* counts) {
  extern __shared__ uint64_t shared[];
  uint8_t* query = reinterpret_cast<uint8_t*>(shared);
  uint32_t* bin = reinterpret_cast<uint32_t*>(query + query_bytes(shape));
  const BlockPlace at = block_place(shape);
  for (int i = threadIdx.x; i < shape.width; i += kThreads) {
    query[i] = shape.queries[at.query * shape.width + i];
  }
  for (int i = threadIdx.x; i < shape.bins; i += kThreads) bin[i] = 0;
  __syncthreads();
  for (int64_t row = at.begin + threadIdx.x; row < at.end; row += kThreads) {
    atomicAdd(&bin[distance<Word>(shape.codes + row * shape.width, query, shape.width)], 1u);
  }
  __syncthreads();
  uint32_t* out = counts + static_cast<int64_t>(blockIdx.x) * shape.bins;
  for (int i = threadIdx.x; i < shape.bins; i += kThreads) out[i] = bin[i];
}

// Turns the counts of one query into places in its sorted result, and fills the places that no row
// will take.
__global__ void __launch_bounds__(kThreads, 4)
    place_kernel(Shape shape, uint32_t* counts, int32_t* distances, int64_t* ids) {
  extern __shared__ uint64_t shared[];
  uint32_t* total = reinterpret_cast<uint32_t*>(shared);
  const int64_t query = blockIdx.x;
  uint32_t* mine = counts + query * shape.slices * shape.bins;
  for (int d = threadIdx.x; d < shape.bins; d += kThreads) {
    uint32_t sum = 0;
    for (int slice = 0; slice < shape.slices; ++slice) sum += mine[slice * shape.bins + d];
    total[d] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t sum = 0;
    for (int d = 0; d < shape.bins; ++d) {
      const uint32_t here = total[d];
      total[d] = sum;
      sum += here;
    }
  }
  __syncthreads();
  for (int d = threadIdx.x; d < shape.bins; d += kThreads) {
    uint32_t sum = total[d];
    for (int slice = 0; slice < shape.slices; ++slice) {
      const uint32_t here = mine[slice * shape.bins + d];
      mine[slice * shape.bins + d] = sum;
      sum += here;
    }
  }
  for (int64_t i = shape.rows + threadIdx.x; i < shape.k; i += kThreads) {
    distances[query * shape.k + i] = INT32_MAX;
    ids[query * shape.k + i] = -1;
  }
}

// Writes the rows of one slice to their places.
template <class Word>
__global__ void __launch_bounds__(kThreads, 4)
    write_kernel(Shape shape, const uint32_t* places, int32_t* distances, int64_t* ids) {
  extern __shared__ uint64_t shared[];
  __shared__ uint32_t found[kThreads];
  __shared__ uint32_t within;  // distances below it have places left for this slice
  uint8_t* query = reinterpret_cast<uint8_t*>(shared);
  uint32_t* place = reinterpret_cast<uint32_t*>(query + query_bytes(shape));
  const BlockPlace at = block_place(shape);
  for (int i = threadIdx.x; i < shape.width; i += kThreads) {
    query[i] = shape.queries[at.query * shape.width + i];
  }
  if (threadIdx.x == 0) within = 0;
  __syncthreads();
  for (int d = threadIdx.x; d < shape.bins; d += kThreads) {
    place[d] = places[static_cast<int64_t>(blockIdx.x) * shape.bins + d];
    if (place[d] < shape.k) atomicMax(&within, static_cast<uint32_t>(d + 1));
  }
  __syncthreads();
  if (within == 0) return;
  for (int64_t chunk = at.begin; chunk < at.end; chunk += kThreads) {
    const int64_t row = chunk + threadIdx.x;
    uint32_t d = kFar;
    if (row < at.end) d = distance<Word>(shape.codes + row * shape.width, query, shape.width);
    if (d >= within) d = kFar;
    if (!__syncthreads_or(d != kFar)) continue;  // the common case, and a barrier
    found[threadIdx.x] = d;
    __syncthreads();
    if (d != kFar) {
      int64_t to = place[d];  // then one further for each earlier row at this distance
      for (unsigned i = 0; i < threadIdx.x; ++i) to += found[i] == d;
      if (to < shape.k) {
        distances[at.query * shape.k + to] = static_cast<int32_t>(d);
        ids[at.query * shape.k + to] = shape.first_id + row;
      }
    }
    __syncthreads();
    if (d != kFar) atomicAdd(&place[d], 1u);
    __syncthreads();
  }
}

template <class Word>
void launch(const Shape& shape, int64_t queries, uint32_t* counts, int32_t* distances, int64_t* ids,
            cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(queries * shape.slices);
  const size_t bins = sizeof(uint32_t) * static_cast<size_t>(shape.bins);
  const size_t bytes = bins + static_cast<size_t>((shape.width + 7) / 8 * 8);
  count_kernel<Word><<<blocks, kThreads, bytes, stream>>>(shape, counts);
  place_kernel<<<static_cast<unsigned>(queries), kThreads, bins, stream>>>(shape, counts, distances,
                                                                           ids);
  write_kernel<Word><<<blocks, kThreads, bytes, stream>>>(shape, counts, distances, ids);
}

// Makes `device` current for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess) error_ = cudaSetDevice(device);
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  cudaError_t error_;
};

bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

}  // namespace

std::string cuda_status() {
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

std::vector<CudaDevice> cuda_devices() {
  std::vector<CudaDevice> devices;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    devices.push_back({properties.name, properties.major, properties.minor,
                       static_cast<int64_t>(properties.totalGlobalMem),
                       properties.multiProcessorCount});
  }
  cudaGetLastError();
  return devices;
}

int64_t cuda_topk_workspace(int64_t rows, int width, int64_t queries) {
  if (queries == 0) return 0;
  const int64_t bins = 8 * width + 1;
  return static_cast<int64_t>(sizeof(uint32_t)) * queries * slice_count(rows, queries) * bins;
}

std::string cuda_topk(const CudaTopk& call, int device, void* stream) {
  if (call.count == 0 || call.k == 0) return "";
  if (call.rows >= kFar) return "a call takes fewer than 2^32 rows: split the database";
  if (call.workspace_bytes < cuda_topk_workspace(call.rows, call.width, call.count)) {
    return "the workspace is too small";
  }
  Shape shape;
  shape.codes = call.codes;
  shape.queries = call.queries;
  shape.rows = call.rows;
  shape.k = call.k;
  shape.first_id = call.first_id;
  shape.width = call.width;
  shape.bins = 8 * call.width + 1;
  shape.slices = static_cast<int>(slice_count(call.rows, call.count));
  shape.slice_rows = (call.rows + shape.slices - 1) / shape.slices;
  if (call.count * shape.slices > INT32_MAX) return "too many queries in one call";

  const DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return cudaGetErrorString(guard.error());
  cudaStream_t on = static_cast<cudaStream_t>(stream);
  uint32_t* counts = static_cast<uint32_t*>(call.workspace);
  if (call.width % 8 == 0 && aligned(call.codes, 8)) {
    launch<uint64_t>(shape, call.count, counts, call.distances, call.ids, on);
  } else if (call.width % 4 == 0 && aligned(call.codes, 4)) {
    launch<uint32_t>(shape, call.count, counts, call.distances, call.ids, on);
  } else {
    launch<uint8_t>(shape, call.count, counts, call.distances, call.ids, on);
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace coophash
