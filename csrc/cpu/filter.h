// Row filters: a bit for each row.

#ifndef COOPHASH_CPU_FILTER_H_
#define COOPHASH_CPU_FILTER_H_

#include <cstdint>

namespace coophash {

// How many of the rows begin .. end - 1 are allowed.
int64_t count_allowed(const uint64_t* allow, int64_t begin, int64_t end);

// Lists allowed rows from `begin` on, ascending, and moves `begin` behind the rows looked at: to
// `end`, or to where there may be no room for the next 64. Returns their number.
//   rows (room,), room >= 64
int64_t list_allowed(const uint64_t* allow, int64_t& begin, int64_t end, int64_t room,
                     int64_t* rows);

// The codes of some rows: out (count, width).
void gather_codes(const uint8_t* codes, int width, const int64_t* rows, int64_t count,
                  uint8_t* out);

}  // namespace coophash

#endif  // COOPHASH_CPU_FILTER_H_
