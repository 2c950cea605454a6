// The CUDA functions of coophash._C on the emulator, as a Python module of their own.

#include <pybind11/pybind11.h>

#include "../../../csrc/bindings_cuda.h"
#include "emulator.h"

namespace py = pybind11;

namespace coophash {

// As in bindings.cpp: only Python's main thread runs signal handlers.
bool on_main_thread() {
  const py::object thread = py::module_::import("threading").attr("main_thread")();
  return PyThread_get_thread_ident() == thread.attr("ident").cast<unsigned long>();
}

}  // namespace coophash

PYBIND11_MODULE(coophash_emulated, m) {
  coophash::bind_cuda(m);
  m.def(
      "configure",
      [](int devices, int major, int minor, int64_t memory) {
        emulator::machine().devices = devices;
        emulator::machine().major = major;
        emulator::machine().minor = minor;
        emulator::machine().memory_bytes = static_cast<size_t>(memory);
      },
      py::arg("devices") = 2, py::arg("major") = 9, py::arg("minor") = 0,
      py::arg("memory") = int64_t{8} << 30);
  m.def("has_context", &emulator::has_context);
  m.def("counts", [] {
    const emulator::Counts& counts = emulator::counts();
    py::dict out;
    out["kernels"] = counts.kernels;
    out["mma"] = counts.mma;
    out["wgmma"] = counts.wgmma;
    out["copies"] = counts.copies;
    return out;
  });
}
