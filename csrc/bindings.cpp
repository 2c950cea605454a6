// The Python module coophash._C. Arrays are checked here for type, layout and size; everything that
// a user can get wrong is checked with a proper message in coophash/, before.

#include "bindings.h"
#include "bindings_cuda.h"

#include <pthread.h>

#include "build_info.h"
#include "cpu/costs.h"

namespace coophash {
namespace {

// Python runs signal handlers in its main thread alone. In a forked child that is the one that
// forked.
unsigned long main_thread = 0;

void remember_main_thread() {
  const py::object thread = py::module_::import("threading").attr("main_thread")();
  main_thread = thread.attr("ident").cast<unsigned long>();
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
}

Path to_path(const std::string& name) {
  if (name == "rows") return Path::kRows;
  if (name == "slices") return Path::kSlices;
  if (name == "rank") return Path::kRank;
  require(name.empty(), "path must be '', 'rows', 'slices' or 'rank'");
  return Path::kAuto;
}

py::tuple py_topk(const std::vector<SpanTuple>& spans, int width, bool increasing,
                  const Array<uint8_t>& codes, int64_t k, int threads, const std::string& isa,
                  const std::string& path) {
  const Database database = to_database(spans, width, increasing);
  const Queries queries = to_queries(codes, width);
  require(k >= 0, "k must not be negative");
  const Kernels& chosen = kernels(isa);
  const Path way = to_path(path);
  Array<int32_t> distances({queries.count, k});
  Array<int64_t> ids({queries.count, k});
  int32_t* out_distances = distances.mutable_data();
  int64_t* out_ids = ids.mutable_data();
  without_gil([&] { topk(database, queries, k, threads, chosen, out_distances, out_ids, way); });
  return py::make_tuple(distances, ids);
}

// `admit` is called with the number of results before there is memory for them, and may raise.
py::tuple py_range(const std::vector<SpanTuple>& spans, int width, bool increasing,
                   const Array<uint8_t>& codes, int radius, int threads, const std::string& isa,
                   const py::function& admit) {
  const Database database = to_database(spans, width, increasing);
  const Queries queries = to_queries(codes, width);
  require(radius >= 0, "radius must not be negative");
  const Kernels& chosen = kernels(isa);
  std::optional<RangeSearch> search;
  without_gil([&] { search.emplace(database, queries, radius, threads, chosen); });
  const int64_t hits = search->limits().back();
  admit(hits);
  Array<int64_t> limits(static_cast<py::ssize_t>(search->limits().size()), search->limits().data());
  Array<int32_t> distances(hits);
  Array<int64_t> ids(hits);
  int32_t* out_distances = distances.mutable_data();
  int64_t* out_ids = ids.mutable_data();
  without_gil([&] { search->fill(out_distances, out_ids); });
  return py::make_tuple(limits, distances, ids);
}

// (row_classes (rows,), query_classes (queries,)) or (row_labels (words, rows), query_labels
// (queries, words)).
using ClassPair = std::pair<Array<int32_t>, Array<int32_t>>;
using LabelPair = std::pair<Array<uint16_t>, Array<uint16_t>>;

Relevance to_relevance(const std::optional<ClassPair>& classes,
                       const std::optional<LabelPair>& labels, int64_t rows, int64_t queries) {
  Relevance relevance;
  relevance.rows = rows;
  if (classes) {
    require(classes->first.ndim() == 1 && classes->first.size() == rows &&
                classes->second.ndim() == 1 && classes->second.size() == queries,
            "classes must be (rows,) and (queries,)");
    relevance.row_classes = classes->first.data();
    relevance.query_classes = classes->second.data();
  } else {
    const auto& [theirs, ours] = *labels;
    require(theirs.ndim() == 2 && ours.ndim() == 2 && theirs.shape(1) == rows &&
                ours.shape(0) == queries && theirs.shape(0) == ours.shape(1),
            "labels must be (words, rows) and (queries, words)");
    relevance.row_labels = theirs.data();
    relevance.query_labels = ours.data();
    relevance.words = static_cast<int>(ours.shape(1));
  }
  return relevance;
}

py::object py_histogram(const std::vector<SpanTuple>& spans, int width, const Array<uint8_t>& codes,
                        int bins, const std::optional<ClassPair>& classes,
                        const std::optional<LabelPair>& labels, int grades, int threads,
                        const std::string& isa) {
  const Database database = to_database(spans, width, false);
  const Queries queries = to_queries(codes, width);
  require(bins >= 1 && bins <= 8 * width + 1, "bins must be 1 to 8 * width + 1");
  const Kernels& chosen = kernels(isa);
  Array<int64_t> total({queries.count, static_cast<int64_t>(bins)});
  const bool split = classes || labels;
  require(grades >= 2 && (grades == 2 || labels) && int64_t{bins} * grades <= 65536,
          "grades must be 2, or with labels at most 65536 / bins");
  std::vector<py::ssize_t> shape{split ? queries.count : 0, bins};
  if (grades > 2) shape.push_back(grades - 1);
  Array<int64_t> relevant(shape);
  Relevance relevance;
  if (split) {
    int64_t rows = 0;
    for (const Span& span : database.spans) {
      require(!span.ids && span.first_id == rows, "with labels, ids must be 0 .. rows - 1");
      rows += span.rows;
    }
    relevance = to_relevance(classes, labels, rows, queries.count);
    relevance.grades = grades;
  }
  int64_t* out_total = total.mutable_data();
  int64_t* out_relevant = relevant.mutable_data();
  without_gil([&] {
    histogram(database, queries, split ? &relevance : nullptr, bins, threads, chosen, out_total,
              out_relevant);
  });
  if (!split) return std::move(total);
  return py::make_tuple(total, relevant);
}

Array<int32_t> py_distances(const Array<uint8_t>& a, const Array<uint8_t>& b, int threads,
                            const std::string& isa) {
  require(a.ndim() == 2 && a.shape(1) >= 1 && a.shape(1) <= kMaxWidth,
          "codes must be (rows, width)");
  const int width = static_cast<int>(a.shape(1));
  const Queries queries = to_queries(a, width);
  to_queries(b, width);
  const Kernels& chosen = kernels(isa);
  Array<int32_t> out({a.shape(0), b.shape(0)});
  int32_t* to = out.mutable_data();
  without_gil([&] { distances(b.data(), b.shape(0), queries, width, threads, chosen, to); });
  return out;
}

py::dict py_build_info() {
  py::dict isa_status;
  for (const IsaStatus& isa : isas()) isa_status[py::str(isa.name)] = isa.missing;
  py::dict info;
  const BuildInfo& build = build_info();
  info["version"] = build.version;
  info["compiler"] = build.compiler;
  info["isas"] = isa_status;
  info["cuda"] = build.cuda;
  info["cuda_reason"] = build.cuda_reason;
  info["nvcc_version"] = build.nvcc_version;
  info["cuda_archs"] = build.cuda_archs;
  return info;
}

}  // namespace

bool on_main_thread() { return PyThread_get_thread_ident() == main_thread; }

}  // namespace coophash

PYBIND11_MODULE(_C, m) {
  using namespace coophash;
  remember_main_thread();
  m.doc() = "Packed-bit Hamming search. The public interface is coophash.search.";
  m.def("build_info", &py_build_info,
        "Versions, instruction sets with why each is missing or '', and the state of CUDA.");
  m.def("topk", &py_topk, py::arg("spans"), py::arg("width"), py::arg("increasing"),
        py::arg("queries").noconvert(), py::arg("k"), py::arg("threads"), py::arg("isa"),
        py::arg("path") = "");
  m.def("range", &py_range, py::arg("spans"), py::arg("width"), py::arg("increasing"),
        py::arg("queries").noconvert(), py::arg("radius"), py::arg("threads"), py::arg("isa"),
        py::arg("admit"));
  m.def("histogram", &py_histogram, py::arg("spans"), py::arg("width"),
        py::arg("queries").noconvert(), py::arg("bins"), py::arg("classes"), py::arg("labels"),
        py::arg("grades"), py::arg("threads"), py::arg("isa"));
  m.def("distances", &py_distances, py::arg("a").noconvert(), py::arg("b").noconvert(),
        py::arg("threads"), py::arg("isa"));
  m.def(
      "flat_costs",
      [](int width, const std::string& isa) {
        require(width >= 1 && width <= kMaxWidth, "width must be 1 to 512 bytes");
        const FlatCosts costs = flat_costs(kernels(isa), width);
        return py::make_tuple(costs.row, costs.build, costs.slice);
      },
      py::arg("width"), py::arg("isa"),
      "Nanoseconds that the search reckons with: row scan, bit slices a row, bit slices a pair.");
  m.def(
      "read_memory",
      [](const Array<uint64_t>& words, int threads) {
        const uint64_t* from = words.data();
        const int64_t count = words.size();
        py::gil_scoped_release release;
        return read_memory(from, count, threads);
      },
      py::arg("words").noconvert(), py::arg("threads"),
      "The XOR of all words: how long it takes is how fast memory is.");
  bind_multi_index(m);
  bind_cuda(m);
}
