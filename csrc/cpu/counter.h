// Counting small numbers: the inner loop of a histogram.

#ifndef COOPHASH_CPU_COUNTER_H_
#define COOPHASH_CPU_COUNTER_H_

#include <cstdint>
#include <vector>

namespace coophash {

// Counts values 0 .. bins - 1.
//
// One value a cycle is the limit: each is a store. Neighbours often are equal, and a counter that
// was just written must not be read at once, so each of four neighbours has counters of its own.
class Counter {
 public:
  explicit Counter(int bins) : bins_(bins), counts_(static_cast<size_t>(kLanes * bins), 0) {}

  // At most 2^31 values between two calls of take().
  void add(const uint16_t* values, int64_t count) {
    uint32_t* first = counts_.data();
    uint32_t* second = first + bins_;
    uint32_t* third = second + bins_;
    uint32_t* fourth = third + bins_;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      ++first[values[i]];
      ++second[values[i + 1]];
      ++third[values[i + 2]];
      ++fourth[values[i + 3]];
    }
    for (; i < count; ++i) ++first[values[i]];
  }

  // The count of one value since it was last taken.
  int64_t take(int value) {
    int64_t sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      uint32_t& count = counts_[static_cast<size_t>(lane * bins_ + value)];
      sum += count;
      count = 0;
    }
    return sum;
  }

 private:
  static constexpr int kLanes = 4;

  int bins_;
  std::vector<uint32_t> counts_;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_COUNTER_H_
