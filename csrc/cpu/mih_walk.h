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
#include "mih_rows.h"

namespace coophash {

// Searches query after query; one for each thread.
class Walker {
 public:
  Walker(const std::vector<const MultiIndex*>& indexes, const Places& places,
         const Kernels& kernels);

  // Adds to `nearest` what all indexes hold within its cut. False if finishing would cost more than
  // `budget`, in nanoseconds: then `nearest` is of no use. k: how many rows are asked for.
  bool walk(const uint8_t* query, int64_t k, double budget, Nearest& nearest);

  int64_t probes() const { return probes_; }      // buckets looked at
  int64_t compared() const { return compared_; }  // codes

 private:
  bool walk_tables(size_t number);
  double results_ns() const;
  double remaining(const MultiIndex& index, int radius) const;
  double expected(const MultiIndex& index, const Table& table, int radius) const;
  int unseen_from(const MultiIndex& index) const;
  void probe(size_t number, size_t table, int radius);
  void flush(size_t number, size_t table, int radius, int64_t buckets);
  void look_up(size_t number, size_t table, int64_t buckets);
  void sweep(size_t number);
  template <class PartOf>
  bool met_before(const MultiIndex& index, size_t table, const PartOf& part_of) const;
  bool counts_rows(const MultiIndex& index) const;
  void push(size_t number, uint32_t distance, uint64_t key, bool is_rank);

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
