// The k nearest rows to one query, taken from a stream of rows without sorting the stream.
//
// Distances are small integers, so a histogram of what was kept gives the k-th smallest at any
// time; rows farther than that are never kept. As the scan goes on the limit falls and hardly any
// row passes it.

#ifndef COOPHASH_CPU_SELECTOR_H_
#define COOPHASH_CPU_SELECTOR_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "../hamming.h"

namespace coophash {

struct Entry {
  int64_t id;
  int32_t distance;

  bool operator<(const Entry& other) const {
    return distance != other.distance ? distance < other.distance : id < other.id;
  }
};

class Selector {
 public:
  // increasing: ids come in increasing order. k >= 1.
  Selector(int64_t k, int width, bool increasing)
      : k_(k), increasing_(increasing), cut_(8 * width), counts_(8 * width + 1, 0) {}

  // Rows at distance < limit() may enter the result.
  //
  // Once k rows lie within the cut, a row at the cut itself can only win by a smaller id, which no
  // later row has if ids increase.
  int limit() const {
    if (kept_ < k_) return static_cast<int>(counts_.size());
    return increasing_ ? cut_ : cut_ + 1;
  }

  void push(int32_t distance, int64_t id) {
    if (distance == cut_ && id > last_id_) return;
    entries_.push_back({id, distance});
    ++counts_[static_cast<size_t>(distance)];
    ++kept_;
  }

  // Lowers the limit by what was pushed since the last call. To be called after each block.
  void settle() {
    while (cut_ > 0 && kept_ - counts_[static_cast<size_t>(cut_)] >= k_) {
      kept_ -= counts_[static_cast<size_t>(cut_)];
      --cut_;
      last_id_ = INT64_MAX;
    }
    if (static_cast<int64_t>(entries_.size()) >= 2 * k_ + 1024) prune();
  }

  // The candidates: the k smallest of all that was pushed are among them. In the order in which
  // they came.
  std::vector<Entry> take() { return std::move(entries_); }

  // The k smallest, sorted; fewer if fewer were pushed. Not to be used afterwards.
  std::vector<Entry> finish() {
    if (!increasing_) {
      sort_smallest(entries_, k_);
      return std::move(entries_);
    }
    // Of equal distances the first to come has the smallest id, so counting sorts them.
    if (kept_ > k_) prune();
    std::vector<int64_t> places(counts_.size(), 0);
    for (size_t d = 1; d < places.size(); ++d) places[d] = places[d - 1] + counts_[d - 1];
    std::vector<Entry> sorted(static_cast<size_t>(std::min(k_, kept_)));
    for (const Entry& entry : entries_) {
      if (entry.distance > cut_) continue;
      sorted[static_cast<size_t>(places[static_cast<size_t>(entry.distance)]++)] = entry;
    }
    return sorted;
  }

  // Leaves the k smallest entries, sorted; fewer if there are fewer.
  static void sort_smallest(std::vector<Entry>& entries, int64_t k) {
    if (static_cast<int64_t>(entries.size()) > k) {
      std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end());
      entries.resize(static_cast<size_t>(k));
    }
    std::sort(entries.begin(), entries.end());
  }

 private:
  // Keeps the k smallest, so that the memory stays within about 3 k + a block.
  void prune() {
    if (increasing_) {
      prune_in_order();
      return;
    }
    const auto last = entries_.begin() + (k_ - 1);
    std::nth_element(entries_.begin(), last, entries_.end());
    cut_ = last->distance;
    last_id_ = last->id;
    entries_.resize(static_cast<size_t>(k_));
    std::fill(counts_.begin(), counts_.end(), 0);
    for (const Entry& entry : entries_) ++counts_[static_cast<size_t>(entry.distance)];
    kept_ = k_;
  }

  // All below the cut, and at the cut those that came first.
  void prune_in_order() {
    const size_t cut = static_cast<size_t>(cut_);
    int64_t room = std::min(counts_[cut], k_ - (kept_ - counts_[cut]));
    kept_ -= counts_[cut] - room;
    counts_[cut] = room;
    std::fill(counts_.begin() + cut_ + 1, counts_.end(), 0);
    size_t end = 0;
    for (const Entry& entry : entries_) {
      const bool keep = entry.distance < cut_ || (entry.distance == cut_ && room-- > 0);
      entries_[end] = entry;
      end += keep;
    }
    entries_.resize(end);
  }

  int64_t k_;
  bool increasing_;
  int32_t cut_;                  // the k-th smallest distance, or the greatest possible
  int64_t last_id_ = INT64_MAX;  // the largest id that may still enter at the cut
  int64_t kept_ = 0;             // entries at distance <= cut_
  std::vector<int64_t> counts_;  // entries by distance
  std::vector<Entry> entries_;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_SELECTOR_H_
