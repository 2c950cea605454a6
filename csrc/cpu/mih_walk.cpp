#include "mih_walk.h"

#include <limits>

#include "blocks.h"
#include "mih_cost.h"

namespace coophash {
namespace {

// When to give up. A query may spend a trial without being asked. To go on it must be likely to
// finish for less than a flat search costs; that forecast is good within some ten per cent, and a
// query that proves dearer is ended before it has cost half as much again.
constexpr double kTrial = 0.05, kWorth = 0.85, kMost = 1.5;

constexpr int64_t kList = 256;        // buckets whose offsets are read before their codes
constexpr int64_t kRoom = 2048;       // entries between two looks at the cut, at most
constexpr int64_t kPart = kRoom / 2;  // a longer bucket is cut into parts

}  // namespace

Walker::Walker(const std::vector<const MultiIndex*>& indexes, const Places& places,
               const Kernels& kernels)
    : indexes_(indexes),
      places_(places),
      kernels_(kernels),
      probe_(probe_for(kernels)),
      width_(indexes.empty() ? 1 : indexes[0]->width),
      scan_(kernels.for_width(width_)) {}

bool Walker::walk(const uint8_t* query, int64_t k, double budget, Nearest& nearest) {
  query_ = query;
  k_ = k;
  nearest_ = &nearest;
  budget_ = budget;
  spent_ = 0;
  for (size_t i = 0; i < indexes_.size(); ++i) {
    if (!indexes_[i]->tables.empty()) {
      if (!walk_tables(i)) return false;
    } else {
      spent_ += sweep_ns(indexes_[i]->groups, width_, kernels_);
      if (spent_ > budget_) return false;
      sweep(i);
    }
  }
  return true;
}

// Tables take turns, and each turn one goes on to the next radius. A code that was not seen differs
// in more bits than was probed for in every substring; substrings share no bits, so its distance is
// at least the sum of these numbers. Once that is beyond the cut the result is proven.
bool Walker::walk_tables(size_t number) {
  const MultiIndex& index = *indexes_[number];
  const size_t count = index.tables.size();
  done_.assign(count, -1);
  values_.resize(count);
  for (size_t j = 0; j < count; ++j) {
    values_[j] = substring_of(query_, width_, index.tables[j].part);
  }
  bool worth = false;
  for (size_t turn = 0; nearest_->cut() >= unseen_from(index); ++turn) {
    const size_t j = turn % count;
    const int radius = static_cast<int>(turn / count);
    if (radius > index.tables[j].masks->radius()) return false;
    const double next = expected(index, index.tables[j], radius);
    if (!worth && spent_ + next > kTrial * budget_) {
      const auto [place, is_new] = shares_.try_emplace({number, done_});
      if (is_new) place->second = seen_shares(index, done_);
      const int likely = nearest_->likely_cut(place->second);
      const double to_come = remaining(index, likely) + results_ns();
      if (spent_ + to_come > kWorth * budget_) return false;
      worth = true;
    }
    if (spent_ + next > kMost * budget_) return false;
    probe(number, j, radius);
    done_[j] = radius;
  }
  return true;
}

// To list the results. How many a range search has is not known.
double Walker::results_ns() const {
  return k_ == std::numeric_limits<int64_t>::max() ? 0 : static_cast<double>(k_) * result_ns();
}

int Walker::unseen_from(const MultiIndex& index) const {
  int sum = 0;
  for (size_t j = 0; j < done_.size(); ++j) {
    if (done_[j] == index.tables[j].part.bits) return std::numeric_limits<int>::max();
    sum += done_[j] + 1;
  }
  return sum;
}

// What is still to pay if the cut ends at `radius`; more than the budget, if it is more.
double Walker::remaining(const MultiIndex& index, int radius) const {
  std::vector<int> done = done_;
  double sum = 0;
  int unseen = unseen_from(index);
  while (unseen <= radius && sum <= budget_) {
    const size_t j = static_cast<size_t>(std::min_element(done.begin(), done.end()) - done.begin());
    const Table& table = index.tables[j];
    if (++done[j] > table.masks->radius()) return std::numeric_limits<double>::infinity();
    sum += expected(index, table, done[j]);
    if (done[j] == table.part.bits) break;
    ++unseen;
  }
  return sum;
}

// From a sample of the buckets: those of learned codes are of very different sizes.
double Walker::expected(const MultiIndex& index, const Table& table, int radius) const {
  constexpr uint32_t kSample = 24;  // all buckets at radius 0 and 1
  const uint32_t value = values_[static_cast<size_t>(&table - index.tables.data())];
  const uint32_t begin = table.masks->begin[static_cast<size_t>(radius)];
  const uint32_t count = table.masks->begin[static_cast<size_t>(radius) + 1] - begin;
  const uint32_t sample = std::min(count, kSample);
  int64_t entries = 0;
  for (uint32_t i = 0; i < sample; ++i) {
    const uint64_t at = begin + uint64_t{i} * count / sample;
    const uint32_t* bucket = table.offsets.data() + (value ^ table.masks->values[at]);
    entries += bucket[1] - bucket[0];
  }
  return probe_ns(index, table, count, static_cast<double>(entries) * count / sample);
}

// All buckets of a table at one radius. Their offsets are read some time before their codes.
void Walker::probe(size_t number, size_t table, int radius) {
  const MultiIndex& index = *indexes_[number];
  const Table& at = index.tables[table];
  const uint32_t* offsets = at.offsets.data();
  const uint32_t* masks = at.masks->values.data();
  const int64_t end = at.masks->begin[static_cast<size_t>(radius) + 1];
  int64_t mask = at.masks->begin[static_cast<size_t>(radius)];
  const int64_t first = mask;
  const int64_t before = compared_;
  while (mask < end) {
    buckets_.clear();
    for (const int64_t stop = std::min(end, mask + kList); mask < stop; ++mask) {
      const uint32_t value = values_[table] ^ masks[mask];
      uint32_t begin = offsets[value];
      for (; offsets[value + 1] - begin > kPart; begin += kPart) {
        buckets_.push_back({begin, static_cast<uint32_t>(kPart), value});
      }
      if (begin < offsets[value + 1])
        buckets_.push_back({begin, offsets[value + 1] - begin, value});
    }
    flush(number, table, radius, static_cast<int64_t>(buckets_.size()));
  }
  probes_ += end - first;
  spent_ += probe_ns(index, at, static_cast<double>(end - first),
                     static_cast<double>(compared_ - before));
}

// Whether a bucket probed earlier holds the code as well: then it was pushed from there.
template <class PartOf>
bool Walker::met_before(const MultiIndex& index, size_t table, const PartOf& part_of) const {
  for (size_t j = 0; j < done_.size(); ++j) {
    if (j == table) continue;
    const uint32_t differing = part_of(index.tables[j].part) ^ values_[j];
    if (__builtin_popcount(differing) <= done_[j]) return true;
  }
  return false;
}

// The codes of the listed buckets. Those of a bucket differ from the query in `radius` bits of the
// substring, so what is left of the cut is for the rest of the code.
void Walker::flush(size_t number, size_t table, int radius, int64_t count) {
  if (indexes_[number]->codes.size()) {
    look_up(number, table, count);
    return;
  }
  const MultiIndex& index = *indexes_[number];
  const Table& at = index.tables[table];
  const uint64_t query = at.part.strip(load_word(query_, width_));
  if (probe_hits_.empty()) probe_hits_ = Buffer<ProbeHit>(kRoom);
  for (int64_t b = 0; b < count;) {
    int64_t stop = b, entries = 0;
    for (; stop < count; ++stop) {
      if (entries + buckets_[static_cast<size_t>(stop)].length > kRoom) break;
      entries += buckets_[static_cast<size_t>(stop)].length;
    }
    compared_ += entries;
    const Bucket* list = buckets_.data() + b;
    const int limit = nearest_->cut() - radius + 1;
    if (limit <= 0) return;
    const int64_t hits = probe_(at.entries.data(), at.entry_bytes, list, stop - b, count - b, query,
                                limit, probe_hits_.data());
    for (int64_t i = 0; i < hits; ++i) {
      const ProbeHit& hit = probe_hits_[i];
      const int distance = static_cast<int>(hit.distance) + radius;
      if (distance > nearest_->cut()) continue;
      const uint8_t* entry = at.entries.data() + int64_t{hit.entry} * at.entry_bytes;
      const uint64_t word = at.part.join(load_word(entry, at.entry_bytes), list[hit.bucket].value);
      const auto part_of = [word](Substring part) { return part.of(word); };
      if (met_before(index, table, part_of)) continue;
      push(number, static_cast<uint32_t>(distance), word, false);
    }
    b = stop;
  }
}

// Wide codes are brought together and compared as a block of a flat search.
void Walker::look_up(size_t number, size_t table, int64_t count) {
  constexpr size_t kBlock = 512;
  constexpr size_t kAhead = 16;
  const MultiIndex& index = *indexes_[number];
  const Table& at = index.tables[table];
  const size_t width = static_cast<size_t>(width_);
  codes_.resize(kBlock * width);
  hits_.resize(kBlock + kHitSlack);
  const auto compare = [&] {
    compared_ += static_cast<int64_t>(ranks_.size());
    const uint8_t* codes = index.codes.data();
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (i + kAhead < ranks_.size()) __builtin_prefetch(codes + ranks_[i + kAhead] * width);
      std::memcpy(codes_.data() + i * width, codes + ranks_[i] * width, width);
    }
    const int64_t hits = scan_.scan(codes_.data(), static_cast<int64_t>(ranks_.size()), width_,
                                    query_, nearest_->cut() + 1, hits_.data());
    for (int64_t i = 0; i < hits; ++i) {
      const Hit& hit = hits_[static_cast<size_t>(i)];
      if (static_cast<int>(hit.distance) > nearest_->cut()) continue;
      const uint8_t* code = codes_.data() + hit.row * width;
      const auto part_of = [=](Substring part) { return substring_of(code, width_, part); };
      if (met_before(index, table, part_of)) continue;
      push(number, hit.distance, ranks_[hit.row], true);
    }
    ranks_.clear();
  };
  ranks_.clear();
  for (int64_t b = 0; b < count; ++b) {
    const Bucket& bucket = buckets_[static_cast<size_t>(b)];
    for (uint32_t i = 0; i < bucket.length; ++i) {
      uint32_t rank;
      std::memcpy(&rank, at.entries.data() + (int64_t{bucket.begin} + i) * at.entry_bytes,
                  sizeof(rank));
      ranks_.push_back(rank);
      if (ranks_.size() == kBlock) compare();
    }
  }
  if (!ranks_.empty()) compare();
}

// No tables: all groups, block by block.
void Walker::sweep(size_t number) {
  const MultiIndex& index = *indexes_[number];
  const int64_t block = block_rows(width_);
  hits_.resize(static_cast<size_t>(block + kHitSlack));
  int64_t rows = 256;  // small blocks first, as in a flat search
  for (int64_t rank = 0; rank < index.groups; rank += rows, rows = std::min(block, 2 * rows)) {
    rows = std::min(rows, index.groups - rank);
    const int64_t hits = scan_.scan(index.codes.data() + rank * width_, rows, width_, query_,
                                    nearest_->cut() + 1, hits_.data());
    compared_ += rows;
    for (int64_t i = 0; i < hits; ++i) {
      const Hit& hit = hits_[static_cast<size_t>(i)];
      if (static_cast<int>(hit.distance) > nearest_->cut()) continue;
      push(number, hit.distance, static_cast<uint64_t>(rank + hit.row), true);
    }
  }
}

// Whether a group counts with all its rows. That takes its rank, which is some work; without it a
// group counts as one row, which is right too but lowers the cut later. Filters must be looked at.
bool Walker::counts_rows(const MultiIndex& index) const {
  if (k_ == std::numeric_limits<int64_t>::max()) return false;
  return places_.filtered() || 8 * index.groups < 7 * index.rows.size();
}

void Walker::push(size_t number, uint32_t distance, uint64_t key, bool is_rank) {
  const MultiIndex& index = *indexes_[number];
  spent_ += found_ns();
  int64_t rows = 1;
  if (counts_rows(index)) {
    if (!is_rank) key = static_cast<uint64_t>(index.rank_of(key));
    is_rank = true;
    const int64_t begin = index.group_begin(static_cast<int64_t>(key));
    const int64_t end = index.group_end(static_cast<int64_t>(key));
    rows = std::min(k_, end - begin);
    if (places_.filtered()) {
      rows = 0;
      int64_t row = begin;
      for (; rows < k_ && (row = next_row(places_, index, row, end)) < end; ++row) ++rows;
      spent_ += rows_ns(static_cast<double>(row - begin));
      if (rows == 0) return;
    }
  }
  nearest_->push({static_cast<int32_t>(distance), static_cast<int16_t>(number), is_rank, key},
                 rows);
}

}  // namespace coophash
