#ifndef COOPHASH_TESTS_SLICED_CHECK_H_
#define COOPHASH_TESTS_SLICED_CHECK_H_

#include "../../csrc/cpu/kernels.h"

namespace check {

// The loops of bit slices by themselves, on a group of codes between pages that must not be
// touched.
void check_slices(const coophash::Kernels& isa, int width, bool short_run);

}  // namespace check

#endif  // COOPHASH_TESTS_SLICED_CHECK_H_
