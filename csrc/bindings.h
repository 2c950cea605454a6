// What the files of the Python module share: arrays in, arrays out, and the GIL.

#ifndef COOPHASH_BINDINGS_H_
#define COOPHASH_BINDINGS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/stop.h"
#include "hamming.h"

namespace coophash {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// Whether Python runs signal handlers in this thread: in its main thread alone.
bool on_main_thread();

// Runs a search with the GIL released. Where Python can be interrupted, so can the search: a signal
// handler runs within 50 ms or so, and if it raises, as that of Ctrl-C does, the search ends.
template <class Search>
void without_gil(const Search& search) {
  const bool interruptible = on_main_thread();
  bool raised = false;
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    if (interruptible) {
      const StopScope scope([&raised, state] {
        PyEval_RestoreThread(state);
        raised = PyErr_CheckSignals() != 0;
        PyEval_SaveThread();
        return raised;
      });
      search();
    } else {
      search();
    }
  } catch (...) {
    error = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (raised) throw py::error_already_set();
  if (error) std::rethrow_exception(error);
}

// (codes, ids or None, first_id, allow or None); `keep` holds the arrays while the scan runs.
using SpanTuple = std::tuple<Array<uint8_t>, std::optional<Array<int64_t>>, int64_t,
                             std::optional<Array<uint64_t>>>;

inline Database to_database(const std::vector<SpanTuple>& spans, int width, bool increasing) {
  require(width >= 1 && width <= kMaxWidth, "width must be 1 to 512 bytes");
  Database database{{}, width, increasing};
  for (const auto& [codes, ids, first_id, allow] : spans) {
    require(codes.ndim() == 2 && codes.shape(1) == width, "codes must be (rows, width)");
    const int64_t rows = codes.shape(0);
    require(!ids || (ids->ndim() == 1 && ids->size() == rows), "ids must be (rows,)");
    require(!allow || (allow->ndim() == 1 && allow->size() == (rows + 63) / 64),
            "allow must be (ceil(rows / 64),)");
    database.spans.push_back({codes.data(), ids ? ids->data() : nullptr,
                              allow ? allow->data() : nullptr, rows, first_id});
  }
  return database;
}

inline Queries to_queries(const Array<uint8_t>& queries, int width) {
  require(queries.ndim() == 2 && queries.shape(1) == width, "queries must be (count, width)");
  return {queries.data(), queries.shape(0)};
}

template <class T>
py::array own(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  py::capsule free_when_done(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return Array<T>(static_cast<py::ssize_t>(kept->size()), kept->data(), free_when_done);
}

void bind_multi_index(py::module_& m);  // bindings_mih.cpp

}  // namespace coophash

#endif  // COOPHASH_BINDINGS_H_
