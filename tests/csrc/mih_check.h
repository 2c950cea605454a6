#ifndef COOPHASH_TESTS_MIH_CHECK_H_
#define COOPHASH_TESTS_MIH_CHECK_H_

#include "../../csrc/hamming.h"

namespace check {

// Multi-index hashing against the flat search, which is checked by itself: codes of `width` bytes,
// every number of substrings up to 5. Ends the program with a message if a result differs.
void check_multi_index(const coophash::Kernels& isa, int width);

}  // namespace check

#endif  // COOPHASH_TESTS_MIH_CHECK_H_
