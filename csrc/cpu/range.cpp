#include <atomic>

#include "../hamming.h"
#include "blocks.h"
#include "kernels.h"
#include "selector.h"
#include "threads.h"

namespace coophash {
namespace {

using Found = std::vector<std::vector<Entry>>;  // by query

void collect(const Database& database, const Queries& queries, int64_t first, int64_t count,
             int radius, const WidthKernels& kernels, const Piece& piece, BlockReader& reader,
             std::vector<Hit>& hits, Found& found) {
  const int width = database.width;
  reader.read(piece, block_rows(width), [&](const Block& block) {
    for (int64_t q = 0; q < count; ++q) {
      const int64_t passed =
          kernels.scan(block.codes, block.rows, width, queries.codes + (first + q) * width,
                       radius + 1, hits.data());
      std::vector<Entry>& entries = found[static_cast<size_t>(q)];
      for (int64_t i = 0; i < passed; ++i) {
        const Hit hit = hits[static_cast<size_t>(i)];
        if (block.allows(hit.row)) {
          entries.push_back({block.id(hit.row), static_cast<int32_t>(hit.distance)});
        }
      }
    }
  });
}

}  // namespace

RangeResult range(const Database& database, const Queries& queries, int radius, int threads,
                  const Kernels& isa) {
  const WidthKernels kernels = isa.for_width(database.width);
  const Plan plan = make_plan(database, queries.count, 0, threads);
  const std::vector<Piece> pieces = cut(database, plan.piece_rows);
  const size_t room = static_cast<size_t>(block_rows(database.width) + kHitSlack);

  // Candidates of each worker: by query, or of its own queries.
  std::vector<Found> found(static_cast<size_t>(plan.split_database ? plan.threads : 1));
  found[0].resize(static_cast<size_t>(queries.count));
  if (plan.split_database) {
    std::atomic<size_t> next{0};
    parallel_for(plan.threads, plan.threads, [&](int64_t thread) {
      Found mine(static_cast<size_t>(queries.count));
      BlockReader reader(database.width);
      std::vector<Hit> hits(room);
      for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
        collect(database, queries, 0, queries.count, radius, kernels, pieces[i], reader, hits,
                mine);
      }
      found[static_cast<size_t>(thread)] = std::move(mine);
    });
  } else {
    const int64_t tiles = (queries.count + plan.tile - 1) / plan.tile;
    parallel_for(tiles, plan.threads, [&](int64_t tile) {
      const int64_t first = tile * plan.tile;
      const int64_t count = std::min(plan.tile, queries.count - first);
      Found mine(static_cast<size_t>(count));
      BlockReader reader(database.width);
      std::vector<Hit> hits(room);
      for (const Piece& piece : pieces) {
        collect(database, queries, first, count, radius, kernels, piece, reader, hits, mine);
      }
      for (int64_t q = 0; q < count; ++q) {
        found[0][static_cast<size_t>(first + q)] = std::move(mine[static_cast<size_t>(q)]);
      }
    });
  }

  RangeResult result;
  result.limits.assign(static_cast<size_t>(queries.count) + 1, 0);
  for (size_t q = 0; q < static_cast<size_t>(queries.count); ++q) {
    int64_t count = 0;
    for (const Found& part : found) count += static_cast<int64_t>(part[q].size());
    result.limits[q + 1] = result.limits[q] + count;
  }
  result.distances.resize(static_cast<size_t>(result.limits.back()));
  result.ids.resize(static_cast<size_t>(result.limits.back()));
  parallel_for(queries.count, plan.threads, [&](int64_t query) {
    const size_t q = static_cast<size_t>(query);
    std::vector<Entry> entries = std::move(found[0][q]);
    for (size_t part = 1; part < found.size(); ++part) {
      entries.insert(entries.end(), found[part][q].begin(), found[part][q].end());
      std::vector<Entry>().swap(found[part][q]);
    }
    std::sort(entries.begin(), entries.end());
    size_t place = static_cast<size_t>(result.limits[q]);
    for (const Entry& entry : entries) {
      result.distances[place] = entry.distance;
      result.ids[place] = entry.id;
      ++place;
    }
  });
  return result;
}

}  // namespace coophash
