#include "mih_rows.h"

#include <algorithm>

namespace coophash {
namespace {

// Rows of a group, from smaller to larger ids; or a single row that is in no table.
struct Cursor {
  int64_t id;
  const MultiIndex* index;
  int64_t row, end;
};

Cursor begin_of(const Indexes& indexes, const Found& found) {
  if (found.index < 0) return {static_cast<int64_t>(found.key), nullptr, 0, 1};
  const MultiIndex& index = *indexes[static_cast<size_t>(found.index)];
  const int64_t rank = found.is_rank ? static_cast<int64_t>(found.key) : index.rank_of(found.key);
  return {0, &index, index.group_begin(rank), index.group_end(rank)};
}

}  // namespace

int64_t count_rows(const Indexes& indexes, const Places& places, const std::vector<Found>& found) {
  int64_t count = 0;
  for (const Found& group : found) {
    const Cursor at = begin_of(indexes, group);
    if (!at.index || !places.filtered()) {
      count += at.end - at.row;
      continue;
    }
    for (int64_t row = at.row; (row = next_row(places, *at.index, row, at.end)) < at.end; ++row) {
      ++count;
    }
  }
  return count;
}

// Groups at one distance are merged by id, so that of many equal codes only those are touched that
// are asked for.
void list_rows(const Indexes& indexes, const Places& places, const std::vector<Found>& found,
               int64_t k, std::vector<Entry>& rows) {
  const auto later = [](const Cursor& a, const Cursor& b) { return a.id > b.id; };
  std::vector<Cursor> heap;
  const auto enter = [&](Cursor cursor) {
    if (cursor.index) {
      cursor.row = next_row(places, *cursor.index, cursor.row, cursor.end);
      if (cursor.row < cursor.end) {
        cursor.id = places.id(cursor.index->first + cursor.index->rows[cursor.row]);
      }
    }
    if (cursor.row == cursor.end) return false;
    heap.push_back(cursor);
    return true;
  };
  rows.clear();
  const auto full = [&] { return static_cast<int64_t>(rows.size()) >= k; };
  for (size_t i = 0; i < found.size() && !full();) {
    const int32_t distance = found[i].distance;
    heap.clear();
    for (; i < found.size() && found[i].distance == distance; ++i) {
      enter(begin_of(indexes, found[i]));
    }
    std::make_heap(heap.begin(), heap.end(), later);
    while (!heap.empty() && !full()) {
      std::pop_heap(heap.begin(), heap.end(), later);
      Cursor cursor = heap.back();
      heap.pop_back();
      rows.push_back({cursor.id, distance});
      ++cursor.row;
      if (enter(cursor)) std::push_heap(heap.begin(), heap.end(), later);
    }
  }
}

}  // namespace coophash
