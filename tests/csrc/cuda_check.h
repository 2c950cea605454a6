// The parts of cuda_check.

#ifndef COOPHASH_TESTS_CUDA_CHECK_H_
#define COOPHASH_TESTS_CUDA_CHECK_H_

#include <memory>
#include <vector>

#include "../../csrc/cuda/device.h"
#include "../../csrc/hamming.h"

namespace check {

void check_encoding(bool short_run);   // cuda_encode_check.cpp
void check_selection(bool short_run);  // cuda_select_check.cpp

}  // namespace check

#endif  // COOPHASH_TESTS_CUDA_CHECK_H_
