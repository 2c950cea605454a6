// One pool of threads for the whole process.

#ifndef COOPHASH_CPU_THREADS_H_
#define COOPHASH_CPU_THREADS_H_

#include <cstdint>
#include <functional>

namespace coophash {

// Calls body(i) for i = 0 .. tasks - 1, at most `threads` of them at a time, the caller's own
// thread among them, and returns when all have returned. The first exception is thrown again here;
// tasks not yet begun are then left out.
//
// Several threads may call this at once and share the pool. A caller never waits for a worker that
// has not begun a task of its own, so calls cannot block one another, and a call in a process that
// was forked from one with a pool does its own work.
void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& body);

}  // namespace coophash

#endif  // COOPHASH_CPU_THREADS_H_
