// Ending a search before it is done, because its caller was asked to: by Ctrl-C, for one.

#ifndef COOPHASH_CPU_STOP_H_
#define COOPHASH_CPU_STOP_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>

namespace coophash {

// Thrown at a stop point, and so by the search that it stands in.
struct Stopped {};

// While one lives, the searches of the thread that made it can be stopped. That thread calls
// `asked` about every 50 ms while it searches or waits for those who help it; once `asked` has
// returned true, all threads at work for it leave with Stopped at their next stop point. Searches
// of other threads go on. `asked` may search itself, and must not throw. Scopes of one thread nest,
// and only the innermost counts.
class StopScope {
 public:
  explicit StopScope(std::function<bool()> asked);
  ~StopScope();
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

  // For threads.cpp and StopPoints: the scope that the calling thread works for, or null; whether
  // the thread made it. Only then may it call `ask`, which calls `asked` if that is due.
  static StopScope* current();
  static bool is_own();
  void ask();
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  friend class StopMember;

  struct Worker {
    StopScope* scope = nullptr;
    bool own = false;
  };
  static Worker& worker();

  std::function<bool()> asked_;
  std::chrono::steady_clock::time_point last_asked_;
  bool asking_ = false;
  std::atomic<bool> stopped_{false};
  Worker before_;  // of the thread that made this
};

// For threads.cpp: while it lives, the calling thread works for a scope of another, or for none.
class StopMember {
 public:
  explicit StopMember(StopScope* scope);
  ~StopMember();
  StopMember(const StopMember&) = delete;
  StopMember& operator=(const StopMember&) = delete;

 private:
  StopScope::Worker before_;
};

// The stop points of a loop: made by the thread that runs it.
class StopPoints {
 public:
  // To be called after each block of rows or the like. Throws Stopped if the search is to end.
  // `work` is how much was done, in any unit, such as bytes: after how much of it the clock is
  // looked at again follows from the time that the last stretch took.
  void after(int64_t work) {
    work_ += work;
    if (work_ >= step_) look();
  }

 private:
  void look();

  int64_t work_ = 0, step_ = 1;
  std::chrono::steady_clock::time_point looked_ = std::chrono::steady_clock::now();
};

}  // namespace coophash

#endif  // COOPHASH_CPU_STOP_H_
