// Search on CUDA devices in Python: the functions cuda_* of coophash._C and the class CudaMemory.
// Device memory comes as addresses: coophash/_device_arrays.py takes them from the caller's
// library.

#include "bindings_cuda.h"

#include <memory>

#include "bindings.h"
#include "cuda/device.h"

namespace coophash {
namespace {

using gpu::Workspace;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// (codes, allow or 0, rows, on_host)
using SpanTuple = std::tuple<uintptr_t, uintptr_t, int64_t, bool>;
// (device, stream, workspace, workspace_bytes, path, threads, chunk_bytes)
using CallTuple = std::tuple<int, uintptr_t, uintptr_t, int64_t, std::string, int, int64_t>;

gpu::Path to_path(const std::string& name) {
  if (name == "popc") return gpu::Path::kPopc;
  if (name == "mma") return gpu::Path::kMma;
  if (name == "wgmma") return gpu::Path::kWgmma;
  require(name.empty(), "path must be '', 'popc', 'mma' or 'wgmma'");
  return gpu::Path::kAuto;
}

gpu::Database to_database(const std::vector<SpanTuple>& spans, int width) {
  require(width >= 1 && width <= kMaxWidth, "width must be 1 to 512 bytes");
  gpu::Database database{{}, width};
  for (const auto& [codes, allow, rows, on_host] : spans) {
    require(rows >= 0, "rows must not be negative");
    database.spans.push_back({at<const uint8_t>(codes), at<const uint64_t>(allow), rows, on_host});
  }
  return database;
}

gpu::Call to_call(const CallTuple& call) {
  const auto& [device, stream, workspace, bytes, path, threads, chunk] = call;
  require(workspace % 16 == 0, "the workspace must be aligned");
  return {device, at<void>(stream), at<void>(workspace), bytes, to_path(path), threads, chunk};
}

py::tuple to_tuple(const Workspace& workspace) {
  return py::make_tuple(workspace.wanted, workspace.least);
}

py::list py_devices() {
  py::list list;
  for (const gpu::Device& device : gpu::devices()) {
    py::dict row;
    row["name"] = device.name;
    row["compute_capability"] = py::make_tuple(device.major, device.minor);
    row["memory_bytes"] = device.memory_bytes;
    row["multiprocessors"] = device.multiprocessors;
    list.append(row);
  }
  return list;
}

py::dict py_topk(const std::vector<SpanTuple>& spans, int width, uintptr_t queries, int64_t count,
                 int64_t k, const CallTuple& call, uintptr_t distances, uintptr_t places) {
  const gpu::Database database = to_database(spans, width);
  const gpu::Call how = to_call(call);
  gpu::Counts done;
  without_gil([&] {
    done = gpu::topk(database, at<const uint8_t>(queries), count, k, how, at<int32_t>(distances),
                     at<int64_t>(places));
  });
  py::dict out;
  out["rounds"] = done.rounds;
  out["overflowed"] = done.overflowed;
  out["tensor"] = done.tensor;
  return out;
}

Array<int64_t> py_range_count(const std::vector<SpanTuple>& spans, int width, uintptr_t queries,
                              int64_t count, int radius, const CallTuple& call) {
  const gpu::Database database = to_database(spans, width);
  const gpu::Call how = to_call(call);
  require(radius >= 0 && radius <= 8 * width, "radius must be 0 to 8 * width");
  Array<int64_t> counts(count);
  int64_t* out = counts.mutable_data();
  without_gil(
      [&] { gpu::range_count(database, at<const uint8_t>(queries), count, radius, how, out); });
  return counts;
}

void py_range_fill(const std::vector<SpanTuple>& spans, int width, uintptr_t queries, int64_t count,
                   int radius, const CallTuple& call, const Array<int64_t>& limits, uintptr_t keys,
                   uintptr_t distances, uintptr_t places) {
  const gpu::Database database = to_database(spans, width);
  const gpu::Call how = to_call(call);
  require(limits.ndim() == 1 && limits.size() == count + 1, "limits must be (count + 1,)");
  const int64_t* from = limits.data();
  without_gil([&] {
    gpu::range_fill(database, at<const uint8_t>(queries), count, radius, how, from,
                    at<uint64_t>(keys), at<int32_t>(distances), at<int64_t>(places));
  });
}

// (row_classes, query_classes, row_labels, query_labels, words, grades, rows)
using LabelsTuple = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, int, int, int64_t>;

void py_histogram(const std::vector<SpanTuple>& spans, int width, uintptr_t queries, int64_t count,
                  const std::optional<LabelsTuple>& labels, int bins, const CallTuple& call,
                  uintptr_t total, uintptr_t relevant) {
  const gpu::Database database = to_database(spans, width);
  const gpu::Call how = to_call(call);
  require(bins >= 1 && bins <= 8 * width + 1, "bins must be 1 to 8 * width + 1");
  gpu::Labels given;
  if (labels) {
    const auto& [rows, asked, row_words, query_words, words, grades, number] = *labels;
    given = {at<const int32_t>(rows),
             at<const int32_t>(asked),
             at<const uint16_t>(row_words),
             at<const uint16_t>(query_words),
             words,
             grades,
             number};
    require(grades >= 2, "grades must be 2 or more");
  }
  without_gil([&] {
    gpu::histogram(database, at<const uint8_t>(queries), count, labels ? &given : nullptr, bins,
                   how, at<int64_t>(total), at<int64_t>(relevant));
  });
}

void py_distances(const std::vector<SpanTuple>& spans, int width, uintptr_t queries, int64_t count,
                  const CallTuple& call, uintptr_t out) {
  const gpu::Database database = to_database(spans, width);
  const gpu::Call how = to_call(call);
  without_gil(
      [&] { gpu::distances(database, at<const uint8_t>(queries), count, how, at<int32_t>(out)); });
}

// A piece of device memory that lives as long as the Python object.
class DeviceMemory {
 public:
  DeviceMemory(int device, int64_t bytes) : device_(device), bytes_(bytes) {
    require(bytes >= 0, "bytes must not be negative");
    memory_ = gpu::allocate(device, bytes);
    if (!memory_) throw std::bad_alloc();
  }
  ~DeviceMemory() {
    // freeing waits for the device, where a callback may want the interpreter
    py::gil_scoped_release release;
    try {
      gpu::release(device_, memory_);
    } catch (const std::exception&) {  // the driver may have shut down before Python did
    }
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  uintptr_t pointer() const { return reinterpret_cast<uintptr_t>(memory_); }
  int device() const { return device_; }
  int64_t bytes() const { return bytes_; }

 private:
  int device_;
  int64_t bytes_;
  void* memory_;
};

void py_upload(int device, uintptr_t to, const py::array& from) {
  require(from.flags() & py::array::c_style, "the array must be contiguous");
  const void* data = from.data();
  const int64_t bytes = from.nbytes();
  py::gil_scoped_release release;
  if (bytes) gpu::upload(device, at<void>(to), data, bytes);
}

void py_download(int device, py::array to, uintptr_t from) {
  require((to.flags() & py::array::c_style) && to.writeable(),
          "the array must be contiguous and writeable");
  void* data = to.mutable_data();
  const int64_t bytes = to.nbytes();
  py::gil_scoped_release release;
  if (bytes) gpu::download(device, data, at<const void>(from), bytes);
}

}  // namespace

void bind_cuda(py::module_& m) {
  using py::arg;
  const auto released = py::call_guard<py::gil_scoped_release>();
  m.def("cuda_status", &gpu::status, "'' if a CUDA device can be used, or why none can.");
  m.def("cuda_devices", &py_devices);
  m.def("cuda_memory", [](int device) {
    gpu::FreeMemory memory;
    {
      py::gil_scoped_release release;  // the first call of a process makes a context
      memory = gpu::memory(device);
    }
    return py::make_tuple(memory.free, memory.total);
  });
  m.def("cuda_most_neighbours", [] { return gpu::kMostNeighbours; }, "The largest k.");
  m.def(
      "cuda_try_path",
      [](const std::string& path, int device) { return gpu::try_path(to_path(path), device); },
      arg("path"), arg("device"), released, "'' if a path works on a device, or why not.");
  m.def("cuda_topk_workspace", [](int64_t queries, int width, int64_t k, bool streamed) {
    return to_tuple(gpu::topk_workspace(queries, width, k, streamed));
  });
  m.def("cuda_range_workspace", [](int64_t queries, int width, bool streamed) {
    return to_tuple(gpu::range_workspace(queries, width, streamed));
  });
  m.def("cuda_histogram_workspace", [](int64_t queries, int width, bool streamed) {
    return to_tuple(gpu::histogram_workspace(queries, width, streamed));
  });
  m.def("cuda_distances_workspace", [](int64_t queries, int width, bool streamed) {
    return to_tuple(gpu::distances_workspace(queries, width, streamed));
  });
  m.def("cuda_distances", &py_distances, arg("spans"), arg("width"), arg("queries"), arg("count"),
        arg("call"), arg("out"));
  m.def(
      "cuda_first_spare",
      [](int device, uintptr_t stream, uintptr_t codes, int64_t rows, int width, int bits,
         uintptr_t room) {
        return gpu::first_spare(at<const uint8_t>(codes), rows, width, bits, device,
                                at<void>(stream), at<int64_t>(room));
      },
      arg("device"), arg("stream"), arg("codes"), arg("rows"), arg("width"), arg("bits"),
      arg("room"), released, "The first row with a spare bit that is not 0, or -1.");
  m.def("cuda_topk", &py_topk, arg("spans"), arg("width"), arg("queries"), arg("count"), arg("k"),
        arg("call"), arg("distances"), arg("places"));
  m.def("cuda_range_count", &py_range_count, arg("spans"), arg("width"), arg("queries"),
        arg("count"), arg("radius"), arg("call"));
  m.def("cuda_range_fill", &py_range_fill, arg("spans"), arg("width"), arg("queries"), arg("count"),
        arg("radius"), arg("call"), arg("limits").noconvert(), arg("keys"), arg("distances"),
        arg("places"));
  m.def("cuda_histogram", &py_histogram, arg("spans"), arg("width"), arg("queries"), arg("count"),
        arg("labels"), arg("bins"), arg("call"), arg("total"), arg("relevant"));
  m.def("cuda_upload", &py_upload, arg("device"), arg("to"), arg("array"));
  m.def("cuda_download", &py_download, arg("device"), arg("array"), arg("source"));
  m.def(
      "cuda_copy",
      [](int device, uintptr_t to, uintptr_t from, int64_t bytes) {
        gpu::copy_within(device, at<void>(to), at<const void>(from), bytes);
      },
      arg("device"), arg("to"), arg("source"), arg("bytes"), released);
  m.def(
      "cuda_wait", [](int device, uintptr_t stream) { gpu::wait(device, at<void>(stream)); },
      arg("device"), arg("stream"), released);
  m.def("cuda_pointer_device", &gpu::pointer_device, arg("address"),
        "The device that an address of device memory belongs to, or -1.");
  py::class_<DeviceMemory>(m, "CudaMemory", "Device memory of a number of bytes.")
      .def(py::init<int, int64_t>(), arg("device"), arg("bytes"), released)
      .def_property_readonly("pointer", &DeviceMemory::pointer)
      .def_property_readonly("device", &DeviceMemory::device)
      .def_property_readonly("bytes", &DeviceMemory::bytes);
}

}  // namespace coophash
