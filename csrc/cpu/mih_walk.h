// Multi-index hashing of one query: which buckets are looked at, when it stops, when it gives up.

#ifndef COOPHASH_CPU_MIH_WALK_H_
#define COOPHASH_CPU_MIH_WALK_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "../hamming.h"
#include "kernels.h"
#include "mih_layout.h"
#include "mih_nearest.h"
#include "mih_probe.h"
#include "selector.h"

namespace coophash {

// Rows of a database by place: the place of a row is its number, counted over all spans.
class Places {
 public:
  explicit Places(const Database& database) : spans_(&database.spans) {
    int64_t place = 0;
    for (const Span& span : database.spans) {
      begin_.push_back(place);
      place += span.rows;
      filtered_ = filtered_ || span.allow;
    }
  }
  bool filtered() const { return filtered_; }
  bool allows(int64_t place) const {
    const size_t i = span_of(place);
    const uint64_t* allow = (*spans_)[i].allow;
    const int64_t row = place - begin_[i];
    return !allow || (allow[row / 64] >> (row % 64) & 1);
  }
  int64_t id(int64_t place) const {
    const size_t i = span_of(place);
    const Span& span = (*spans_)[i];
    const int64_t row = place - begin_[i];
    return span.ids ? span.ids[row] : span.first_id + row;
  }

 private:
  size_t span_of(int64_t place) const {
    size_t i = begin_.size() - 1;
    while (place < begin_[i]) --i;
    return i;
  }

  const std::vector<Span>* spans_;
  std::vector<int64_t> begin_;
  bool filtered_ = false;
};

// Searches query after query; one for each thread.
class Walker {
 public:
  Walker(const std::vector<const MultiIndex*>& indexes, const Places& places,
         const Kernels& kernels);

  // Adds to `nearest` what all indexes hold within its cut. False if finishing would cost more than
  // `budget`, in nanoseconds: then `nearest` is of no use. k: how many rows are asked for.
  bool walk(const uint8_t* query, int64_t k, double budget, Nearest& nearest);

  // The rows of what was found, by (distance, id), up to k of them. Follows walk.
  void rows_of(Nearest& nearest, std::vector<Entry>& rows) const;

  int64_t probes() const { return probes_; }      // buckets looked at
  int64_t compared() const { return compared_; }  // codes

 private:
  bool walk_tables(size_t number);
  bool worth_it(const MultiIndex& index);
  double remaining(const MultiIndex& index, int radius) const;
  double expected(const MultiIndex& index, const Table& table, int radius) const;
  int unseen_from(const MultiIndex& index) const;
  void probe(size_t number, size_t table, int radius);
  void flush(size_t number, size_t table, int radius, int64_t buckets);
  void look_up(size_t number, size_t table, int64_t buckets);
  void sweep(size_t number);
  bool met_before(const MultiIndex& index, const uint8_t* code, size_t table) const;
  bool counts_rows(const MultiIndex& index) const;
  void push(size_t number, uint32_t distance, uint64_t key, bool is_rank);
  int64_t next_row(const MultiIndex& index, int64_t row, int64_t end) const;

  const std::vector<const MultiIndex*>& indexes_;
  const Places& places_;
  const Kernels& kernels_;
  ProbeFn probe_;
  int width_;
  WidthKernels scan_;

  // Of the query in hand.
  const uint8_t* query_ = nullptr;
  int64_t k_ = 0;
  Nearest* nearest_ = nullptr;
  double budget_ = 0;
  double spent_ = 0;
  std::vector<int> done_;         // for each table the largest radius probed, or -1
  std::vector<uint32_t> values_;  // the query's substrings

  std::map<std::pair<size_t, std::vector<int>>, std::vector<double>> shares_;
  std::vector<Bucket> buckets_;
  Buffer<ProbeHit> probe_hits_;
  std::vector<Hit> hits_;
  std::vector<uint32_t> ranks_;
  std::vector<uint8_t> codes_;

  int64_t probes_ = 0;
  int64_t compared_ = 0;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_WALK_H_
