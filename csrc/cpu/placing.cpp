#include "placing.h"

#include <algorithm>

#include "costs.h"

namespace coophash {

std::vector<Part> cut_parts(const Database& database, int64_t count) {
  int64_t rows = 0;
  for (const Span& span : database.spans) rows += span.rows;
  const int64_t share =
      ((rows + count - 1) / count + 511) / 512 * 512;  // words of a filter, slices
  std::vector<Part> parts(1);
  int64_t room = share;
  for (const Span& span : database.spans) {
    for (int64_t begin = 0; begin < span.rows;) {
      if (room == 0) {
        parts.emplace_back();
        room = share;
      }
      const int64_t end = std::min(span.rows, begin + room);
      parts.back().push_back({&span, begin, end});
      room -= end - begin;
      begin = end;
    }
  }
  return parts;
}

Grid::Grid(const Database& database, int64_t queries_, int threads_) : queries(queries_) {
  const Plan plan = make_plan(database, queries, 0, threads_);
  threads = plan.threads;
  // Queries that are too few to be shared out: several parts a thread, so that all end together.
  parts = cut_parts(database, plan.split_database ? 4 * plan.threads : 1);
  tile = plan.split_database ? std::max<int64_t>(1, queries) : plan.tile;
}

namespace {

// Writes hits to their places, which are known to be before the end, in a block without a filter.
template <bool OwnIds>
void place_all(const Block& block, int64_t first, const Hit* hits, int64_t count,
               const Target& target) {
  int64_t* const places = target.places;
  int64_t* const ids = target.ids;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = first + hits[i].row;
    ids[places[hits[i].distance]++] = OwnIds ? block.ids[row] : block.first_id + row;
  }
}

void place_hits(const Block& block, int64_t first, const Hit* hits, int64_t count,
                const Target& target) {
  // Only the last distance can reach the end.
  if (!block.allow && target.places[target.radius] + count <= target.end) {
    block.ids ? place_all<true>(block, first, hits, count, target)
              : place_all<false>(block, first, hits, count, target);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = first + hits[i].row;
    if (!block.allows(row)) continue;
    const int64_t place = target.places[hits[i].distance]++;
    if (place < target.end) target.ids[place] = block.id(row);
  }
}

}  // namespace

void place(const Part& part, int width, const Kernels& kernels,
           const std::vector<Target>& targets) {
  const int64_t queries = static_cast<int64_t>(targets.size());
  BlockReader reader(width, gather_below(kernels, width, queries));
  HitFinder finder(width, kernels.for_width(width));
  for (const Piece& piece : part) {
    reader.read(piece, rows_in_cache(width), [&](const Block& block) {
      for (const Target& target : targets) {
        finder.find(block, target.query, target.radius,
                    [&](int64_t first, const Hit* hits, int64_t count) {
                      place_hits(block, first, hits, count, target);
                    });
      }
    });
  }
}

void sort_ids(const int32_t* distances, int64_t count, int64_t* ids) {
  for (int64_t begin = 0; begin < count;) {
    const int64_t end =
        std::upper_bound(distances + begin, distances + count, distances[begin]) - distances;
    std::sort(ids + begin, ids + end);
    begin = end;
  }
}

}  // namespace coophash
