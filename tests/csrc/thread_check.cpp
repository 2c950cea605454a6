#include "thread_check.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "../../csrc/cpu/stop.h"
#include "../../csrc/cpu/threads.h"
#include "check_support.h"

namespace check {
namespace {

using coophash::parallel_for;

struct Results {
  std::vector<int32_t> distances;
  std::vector<int64_t> ids, counts;
  coophash::RangeResult within;

  bool operator==(const Results& other) const {
    return distances == other.distances && ids == other.ids && counts == other.counts &&
           within.limits == other.within.limits && within.distances == other.within.distances &&
           within.ids == other.within.ids;
  }
};

Results search(const coophash::Database& database, const coophash::Queries& queries, int threads,
               const coophash::Kernels& isa) {
  constexpr int64_t k = 9;
  const int bins = 8 * database.width + 1;
  Results found;
  found.distances.resize(static_cast<size_t>(queries.count * k));
  found.ids.resize(found.distances.size());
  found.counts.resize(static_cast<size_t>(queries.count * bins));
  coophash::topk(database, queries, k, threads, isa, found.distances.data(), found.ids.data());
  coophash::histogram(database, queries, nullptr, bins, threads, isa, found.counts.data(), nullptr);
  found.within = coophash::range(database, queries, 2 * database.width, threads, isa);
  return found;
}

// Several threads, each with numbers of queries that share out the work in either way.
void check_searches(const coophash::Kernels& isa, int callers, int rounds) {
  constexpr int kWidth = 8;
  constexpr int64_t kRows = 30001, kQueries = 40;
  std::vector<uint8_t> codes(kRows * kWidth), asked(kQueries * kWidth);
  fill_codes(Kind::kClustered, 2, kRows, kWidth, codes.data());
  fill_codes(Kind::kClustered, 3, kQueries, kWidth, asked.data());
  const coophash::Database database = {{{codes.data(), nullptr, nullptr, kRows, 0}}, kWidth, true};
  const coophash::Queries few = {asked.data(), 3}, many = {asked.data(), kQueries};
  const Results few_expected = search(database, few, 1, isa);
  const Results many_expected = search(database, many, 1, isa);

  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&, caller] {
      for (int round = 0; round < rounds; ++round) {
        const int helpers = 1 + (caller + round) % 4;
        const bool few_now = (caller + round) % 3;
        const Results found = search(database, few_now ? few : many, helpers, isa);
        if (!(found == (few_now ? few_expected : many_expected))) {
          fail("thread %d, round %d: results differ with %d threads", caller, round, helpers);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Each task runs once, and never more than `threads` of one call at a time.
void check_pool(int callers, int rounds) {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&, caller] {
      for (int round = 0; round < rounds; ++round) {
        const int allowed = 1 + (caller + round) % 5;
        std::vector<int> done(100, 0);
        std::atomic<int> at_once{0}, most{0};
        parallel_for(100, allowed, [&](int64_t task) {
          const int now = at_once.fetch_add(1) + 1;
          int before = most.load();
          while (now > before && !most.compare_exchange_weak(before, now)) {
          }
          ++done[static_cast<size_t>(task)];
          at_once.fetch_sub(1);
        });
        if (most > allowed) fail("%d tasks at once, %d allowed", most.load(), allowed);
        for (const int times : done) {
          if (times != 1) fail("a task ran %d times", times);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The first exception comes back, no task runs after parallel_for has returned, the pool lives on.
void check_exceptions(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::atomic<int> running{0};
    bool caught = false;
    try {
      parallel_for(50, 4, [&](int64_t task) {
        ++running;
        if (task % 7 == 3) {
          --running;
          throw std::runtime_error("task");
        }
        --running;
      });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()) == "task";
    }
    if (!caught) fail("round %d: the exception of a task did not come back", round);
    if (running) fail("round %d: %d tasks still ran", round, running.load());
  }
  std::atomic<int> inner{0};
  parallel_for(4, 4, [&](int64_t) { parallel_for(10, 3, [&](int64_t) { ++inner; }); });
  if (inner != 40) fail("%d tasks of calls within calls, expected 40", inner.load());
}

// A search that is asked to stop ends, on all its threads and soon; searches of other threads, in
// the same pool, do not.
void check_stops(const coophash::Kernels& isa, int rounds) {
  using Clock = std::chrono::steady_clock;
  constexpr int kWidth = 8;
  constexpr int64_t kRows = 1 << 18, kQueries = 1 << 16;  // seconds at the least
  std::vector<uint8_t> codes(kRows * kWidth), asked(kQueries * kWidth);
  fill_codes(Kind::kRandom, 2, kRows, kWidth, codes.data());
  fill_codes(Kind::kRandom, 3, kQueries, kWidth, asked.data());
  const coophash::Database database = {{{codes.data(), nullptr, nullptr, kRows, 0}}, kWidth, true};
  const coophash::Database part = {{{codes.data(), nullptr, nullptr, kRows / 16, 0}}, kWidth, true};
  const coophash::Queries all = {asked.data(), kQueries}, few = {asked.data(), 40};
  const Results expected = search(part, few, 1, isa);
  std::atomic<bool> ended{false};
  std::thread other([&] {
    const coophash::StopScope scope([] { return false; });
    do {
      if (!(search(part, few, 3, isa) == expected)) fail("a search beside a stopped one differs");
    } while (!ended);
  });
  for (int round = 0; round < rounds; ++round) {
    for (const int threads : {1, 3}) {
      const Clock::time_point begin = Clock::now();
      bool stopped = false;
      int times_asked = 0;
      try {
        const coophash::StopScope scope([&] {
          if (!(search(part, few, 2, isa) == expected)) fail("a search within a search differs");
          return ++times_asked == 2;
        });
        search(database, all, threads, isa);
      } catch (const coophash::Stopped&) {
        stopped = true;
      }
      if (!stopped || times_asked != 2) fail("not stopped, asked %d times", times_asked);
      if (Clock::now() - begin > std::chrono::seconds(20)) fail("it took too long to stop");
      if (!(search(part, few, threads, isa) == expected)) fail("a search after a stop differs");
    }
  }
  ended = true;
  other.join();
}

}  // namespace

void check_threads(const coophash::Kernels& isa, bool short_run) {
  begin_case("threads");
  check_searches(isa, short_run ? 4 : 8, short_run ? 4 : 24);
  check_pool(4, short_run ? 20 : 300);
  check_exceptions(short_run ? 20 : 300);
  check_stops(isa, short_run ? 1 : 5);
}

}  // namespace check
