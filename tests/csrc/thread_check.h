#ifndef COOPHASH_TESTS_THREAD_CHECK_H_
#define COOPHASH_TESTS_THREAD_CHECK_H_

#include "../../csrc/hamming.h"

namespace check {

// Searches from many threads at once on the shared pool, searches that are stopped, and the pool by
// itself: exceptions, and calls within calls. Ends the program with a message if a result differs.
void check_threads(const coophash::Kernels& isa, bool short_run);

}  // namespace check

#endif  // COOPHASH_TESTS_THREAD_CHECK_H_
