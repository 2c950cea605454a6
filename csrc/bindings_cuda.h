// The CUDA part of the Python module.

#ifndef COOPHASH_BINDINGS_CUDA_H_
#define COOPHASH_BINDINGS_CUDA_H_

#include <pybind11/pybind11.h>

namespace coophash {

void bind_cuda(pybind11::module_& m);

}  // namespace coophash

#endif  // COOPHASH_BINDINGS_CUDA_H_
