// What multi-index hashing has found for one query: groups of equal codes, not rows yet.

#ifndef COOPHASH_CPU_MIH_NEAREST_H_
#define COOPHASH_CPU_MIH_NEAREST_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace coophash {

struct Found {
  int32_t distance;
  int16_t index;  // which multi-index, or -1: key is the id of a row
  bool is_rank;   // else key is a narrow code, whose rank was not needed yet
  uint64_t key;
};

class Nearest {
 public:
  // Counts of rows reach `k`; what is farther than `radius` is of no use.
  Nearest(int64_t k, int radius)
      : k_(k), cut_(radius), counts_(static_cast<size_t>(radius) + 1, 0) {}

  // What is farther than this cannot be in the result: the k-th smallest distance so far.
  int cut() const { return cut_; }

  // At least `rows` rows at a distance <= cut().
  void push(const Found& found, int64_t rows) {
    found_.push_back(found);
    counts_[static_cast<size_t>(found.distance)] += rows;
    within_ += rows;
    while (cut_ > 0 && within_ - counts_[static_cast<size_t>(cut_)] >= k_) {
      within_ -= counts_[static_cast<size_t>(cut_)];
      --cut_;
    }
    if (found_.size() >= most_) {
      drop();
      most_ = 2 * found_.size() + 1024;
    }
  }

  // Where the k-th distance is likely to lie in the end, if a share seen[d] of what is at distance
  // d was met so far.
  int likely_cut(const std::vector<double>& seen) const {
    double rows = 0;
    for (int d = 0; d < cut_; ++d) {
      rows += static_cast<double>(counts_[static_cast<size_t>(d)]) /
              std::max(1e-3, seen[static_cast<size_t>(d)]);
      if (rows >= static_cast<double>(k_)) return d;
    }
    return cut_;
  }

  // All that is within the cut, by distance, handed over.
  std::vector<Found> take() {
    drop();
    std::sort(found_.begin(), found_.end(),
              [](const Found& a, const Found& b) { return a.distance < b.distance; });
    return std::move(found_);
  }

 private:
  void drop() {
    found_.erase(std::remove_if(found_.begin(), found_.end(),
                                [this](const Found& f) { return f.distance > cut_; }),
                 found_.end());
  }

  int64_t k_;
  int cut_;
  int64_t within_ = 0;           // rows at distance <= cut_
  std::vector<int64_t> counts_;  // rows by distance
  std::vector<Found> found_;
  size_t most_ = 1024;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_NEAREST_H_
