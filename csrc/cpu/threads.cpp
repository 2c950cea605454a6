#include "threads.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "stop.h"

namespace coophash {
namespace {

#ifdef __linux__
int this_core() { return sched_getcpu(); }

// Takes this thread off a core on which the caller is at work. Linux likes to wake a thread where
// the one that woke it runs, and where cores share no cache, as on many virtual machines, it may
// leave both there for tens of milliseconds: longer than most searches take. The affinity is put
// back at once; what remains is that the thread is elsewhere and will be woken there.
void leave_core(int core) {
  if (core < 0 || sched_getcpu() != core) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<size_t>(core), &others);
  if (CPU_COUNT(&others) == 0) return;
  if (sched_setaffinity(0, sizeof(others), &others) == 0) {
    sched_setaffinity(0, sizeof(allowed), &allowed);
  }
}
#else
int this_core() { return -1; }
void leave_core(int) {}
#endif

// One call of parallel_for. Every field is guarded by the pool's mutex: a task is a whole pass over
// some rows, so taking one is rare.
struct Job {
  const std::function<void(int64_t)>* body;
  int64_t tasks;
  int64_t next = 0;
  int64_t running = 0;
  int helpers;                              // workers that may still join
  int core = this_core();                   // where the caller is at work
  StopScope* scope = StopScope::current();  // of the caller, or null
  std::exception_ptr error;
  std::condition_variable done;
};

class Pool {
 public:
  void run(Job& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (job.helpers > 0 && job.tasks > 1) {
      grow(job.helpers);
      jobs_.push_back(&job);
      for (int i = 0; i < job.helpers; ++i) wake_.notify_one();
    }
    work(job, lock);
    forget(job);
    const auto all_left = [&] { return job.running == 0; };
    if (job.scope && StopScope::is_own()) {
      while (!job.done.wait_for(lock, kLookEvery, all_left)) {
        lock.unlock();  // what is called now may take long, or search
        job.scope->ask();
        lock.lock();
      }
    } else {
      job.done.wait(lock, all_left);
    }
  }

 private:
  static constexpr int kMostWorkers = 1024;
  static constexpr std::chrono::milliseconds kLookEvery{20};

  void grow(int workers) {
    const int wanted = std::min(workers, kMostWorkers);
    while (workers_ < wanted) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;  // the system gives no more threads: fewer help
      }
      ++workers_;
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      if (--job.helpers == 0) forget(job);
      leave_core(job.core);
      work(job, lock);
    }
  }

  // Takes tasks until none is left. Called and left with the lock held. A worker that has joined
  // finds a task or leaves without touching the job again, so the job may end meanwhile.
  void work(Job& job, std::unique_lock<std::mutex>& lock) {
    while (job.next < job.tasks) {
      const int64_t task = job.next++;
      if (job.next == job.tasks) forget(job);
      ++job.running;
      lock.unlock();
      std::exception_ptr error;
      try {
        const StopMember member(job.scope);
        (*job.body)(task);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error) {
        if (!job.error) job.error = error;
        job.next = job.tasks;
        forget(job);
      }
      if (--job.running == 0 && job.next == job.tasks) {
        job.done.notify_all();
        return;  // the caller may end the job as soon as the lock is free
      }
    }
  }

  void forget(Job& job) {
    const auto place = std::find(jobs_.begin(), jobs_.end(), &job);
    if (place != jobs_.end()) jobs_.erase(place);
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job*> jobs_;  // those that can use another worker, oldest first
  int workers_ = 0;
};

// Never freed: detached workers wait in it until the process ends.
Pool* pool = nullptr;

Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool = new Pool;
    // A child of fork has none of the threads, and a lock may have been held: start afresh.
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  });
  return *pool;
}

}  // namespace

void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& body) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t i = 0; i < tasks; ++i) body(i);
    return;
  }
  Job job;
  job.body = &body;
  job.tasks = tasks;
  job.helpers = static_cast<int>(std::min<int64_t>(threads - 1, tasks - 1));
  the_pool().run(job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace coophash
