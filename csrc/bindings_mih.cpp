// Multi-index hashing in Python: coophash._C.MultiIndex.

#include "bindings.h"

namespace coophash {
namespace {

using Index = std::shared_ptr<const MultiIndex>;

// Python holds an index by a pointer that it cannot look through: the class is not in the contract.
struct Handle {
  Index index;
};

std::vector<const MultiIndex*> pointers(const std::vector<Handle*>& handles) {
  std::vector<const MultiIndex*> list;
  for (const Handle* handle : handles) list.push_back(handle->index.get());
  return list;
}

py::tuple to_tuple(const MultiSearchCounts& counts) {
  return py::make_tuple(counts.queries, counts.flat, counts.buckets, counts.compared);
}

Handle build(const std::vector<SpanTuple>& spans, int width, bool increasing, int64_t first,
             int64_t last, int bits, int substrings, int threads, const std::string& isa) {
  const Database database = to_database(spans, width, increasing);
  int64_t rows = 0;
  for (const Span& span : database.spans) rows += span.rows;
  require(0 <= first && first <= last && last <= rows, "first and last must be places");
  require(last - first < int64_t{1} << 32, "an index has fewer than 2^32 rows");
  require((bits + 7) / 8 == width, "bits and width must belong together");
  const Kernels& chosen = kernels(isa);
  Handle handle;
  without_gil([&] {
    handle.index = build_multi_index(database, first, last, bits, substrings, threads, chosen);
  });
  return handle;
}

py::tuple py_topk(const std::vector<Handle*>& handles, const std::vector<SpanTuple>& spans,
                  int width, bool increasing, const Array<uint8_t>& codes, int64_t k, int threads,
                  const std::string& isa, double scale) {
  const Database database = to_database(spans, width, increasing);
  const Queries queries = to_queries(codes, width);
  require(k >= 0, "k must not be negative");
  const Kernels& chosen = kernels(isa);
  const std::vector<const MultiIndex*> indexes = pointers(handles);
  Array<int32_t> distances({queries.count, k});
  Array<int64_t> ids({queries.count, k});
  int32_t* out_distances = distances.mutable_data();
  int64_t* out_ids = ids.mutable_data();
  MultiSearchCounts counts;
  without_gil([&] {
    topk(database, indexes, queries, k, threads, chosen, scale, out_distances, out_ids, counts);
  });
  return py::make_tuple(distances, ids, to_tuple(counts));
}

// `admit` is called with the number of results before there is memory for them, and may raise.
py::tuple py_range(const std::vector<Handle*>& handles, const std::vector<SpanTuple>& spans,
                   int width, bool increasing, const Array<uint8_t>& codes, int radius, int threads,
                   const std::string& isa, double scale, const py::function& admit) {
  const Database database = to_database(spans, width, increasing);
  const Queries queries = to_queries(codes, width);
  const Kernels& chosen = kernels(isa);
  const std::vector<const MultiIndex*> indexes = pointers(handles);
  std::unique_ptr<MultiRangeSearch> search;
  MultiSearchCounts counts;
  without_gil([&] {
    search = std::make_unique<MultiRangeSearch>(database, indexes, queries, radius, threads, chosen,
                                                scale, counts);
  });
  const int64_t hits = search->limits().back();
  admit(hits);
  Array<int64_t> limits(static_cast<py::ssize_t>(search->limits().size()), search->limits().data());
  Array<int32_t> distances(hits);
  Array<int64_t> ids(hits);
  int32_t* out_distances = distances.mutable_data();
  int64_t* out_ids = ids.mutable_data();
  without_gil([&] { search->fill(out_distances, out_ids); });
  return py::make_tuple(limits, distances, ids, to_tuple(counts));
}

py::dict info(const Handle& handle) {
  const MultiIndexInfo described = describe(*handle.index);
  py::dict out;
  out["bytes"] = described.bytes;
  out["rows"] = described.rows;
  out["groups"] = described.groups;
  out["substrings"] = described.substrings;
  return out;
}

}  // namespace

void bind_multi_index(py::module_& m) {
  py::class_<Handle>(m, "MultiIndex", "Tables over a stretch of rows; never changes.")
      .def("info", &info, "bytes, rows, groups (different codes), substrings (bits of each).");
  m.def("multi_build", &build, py::arg("spans"), py::arg("width"), py::arg("increasing"),
        py::arg("first"), py::arg("last"), py::arg("bits"), py::arg("substrings"),
        py::arg("threads"), py::arg("isa"));
  m.def("multi_topk", &py_topk, py::arg("indexes"), py::arg("spans"), py::arg("width"),
        py::arg("increasing"), py::arg("queries").noconvert(), py::arg("k"), py::arg("threads"),
        py::arg("isa"), py::arg("scale"));
  m.def("multi_range", &py_range, py::arg("indexes"), py::arg("spans"), py::arg("width"),
        py::arg("increasing"), py::arg("queries").noconvert(), py::arg("radius"),
        py::arg("threads"), py::arg("isa"), py::arg("scale"), py::arg("admit"));
}

}  // namespace coophash
