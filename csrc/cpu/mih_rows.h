// From groups of equal codes to rows: filters, ids, order.

#ifndef COOPHASH_CPU_MIH_ROWS_H_
#define COOPHASH_CPU_MIH_ROWS_H_

#include <cstdint>
#include <vector>

#include "../hamming.h"
#include "mih_layout.h"
#include "mih_nearest.h"
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

// The first of the rows row .. end - 1 of an index that is allowed, or end.
inline int64_t next_row(const Places& places, const MultiIndex& index, int64_t row, int64_t end) {
  while (row < end && !places.allows(index.first + index.rows[row])) ++row;
  return row;
}

using Indexes = std::vector<const MultiIndex*>;

// How many rows were found.
int64_t count_rows(const Indexes& indexes, const Places& places, const std::vector<Found>& found);

// The rows of what was found, by (distance, id), up to k of them. `found` is in order of distance.
void list_rows(const Indexes& indexes, const Places& places, const std::vector<Found>& found,
               int64_t k, std::vector<Entry>& rows);

}  // namespace coophash

#endif  // COOPHASH_CPU_MIH_ROWS_H_
