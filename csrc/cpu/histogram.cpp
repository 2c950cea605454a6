#include <atomic>

#include "../hamming.h"
#include "blocks.h"
#include "kernels.h"
#include "threads.h"

namespace coophash {
namespace {

// Adds the rows of one piece to counts (count, bins).
void add_counts(const Database& database, const uint8_t* queries, int64_t count, int bins,
                const WidthKernels& kernels, const Piece& piece, BlockReader& reader,
                std::vector<uint16_t>& scratch, int64_t* counts) {
  const int width = database.width;
  reader.read(piece, block_rows(width), [&](const Block& block) {
    for (int64_t q = 0; q < count; ++q) {
      kernels.distances(block.codes, block.rows, width, queries + q * width, scratch.data());
      int64_t* row_counts = counts + q * bins;
      if (block.allow) {
        for (int64_t i = 0; i < block.rows; ++i) {
          row_counts[scratch[static_cast<size_t>(i)]] += block.allows(i);
        }
      } else {
        for (int64_t i = 0; i < block.rows; ++i) ++row_counts[scratch[static_cast<size_t>(i)]];
      }
    }
  });
}

}  // namespace

void histogram(const Database& database, const Queries& queries, int bins, int threads,
               const Kernels& isa, int64_t* counts) {
  std::fill(counts, counts + queries.count * bins, 0);
  const WidthKernels kernels = isa.for_width(database.width);
  const Plan plan = make_plan(database, queries.count, 8 * bins, threads);
  const std::vector<Piece> pieces = cut(database, plan.piece_rows);
  const size_t room = static_cast<size_t>(block_rows(database.width));

  if (!plan.split_database) {
    const int64_t tiles = (queries.count + plan.tile - 1) / plan.tile;
    parallel_for(tiles, plan.threads, [&](int64_t tile) {
      const int64_t first = tile * plan.tile;
      BlockReader reader(database.width);
      std::vector<uint16_t> scratch(room);
      for (const Piece& piece : pieces) {
        add_counts(database, queries.codes + first * database.width,
                   std::min(plan.tile, queries.count - first), bins, kernels, piece, reader,
                   scratch, counts + first * bins);
      }
    });
    return;
  }
  std::vector<std::vector<int64_t>> parts(static_cast<size_t>(plan.threads));
  std::atomic<size_t> next{0};
  parallel_for(plan.threads, plan.threads, [&](int64_t thread) {
    std::vector<int64_t> mine(static_cast<size_t>(queries.count * bins), 0);
    BlockReader reader(database.width);
    std::vector<uint16_t> scratch(room);
    for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
      add_counts(database, queries.codes, queries.count, bins, kernels, pieces[i], reader, scratch,
                 mine.data());
    }
    parts[static_cast<size_t>(thread)] = std::move(mine);
  });
  for (const std::vector<int64_t>& part : parts) {
    for (size_t i = 0; i < part.size(); ++i) counts[i] += part[i];
  }
}

void distances(const uint8_t* codes, int64_t rows, const Queries& queries, int width, int threads,
               const Kernels& isa, int32_t* out) {
  const WidthKernels kernels = isa.for_width(width);
  const int64_t block = block_rows(width);
  // A thread per row of the result; a piece of the rows at a time, so that they stay in cache.
  parallel_for(queries.count, rows * width < (64 << 10) ? 1 : threads, [&](int64_t q) {
    std::vector<uint16_t> scratch(static_cast<size_t>(block));
    for (int64_t row = 0; row < rows; row += block) {
      const int64_t count = std::min(block, rows - row);
      kernels.distances(codes + row * width, count, width, queries.codes + q * width,
                        scratch.data());
      std::copy(scratch.begin(), scratch.begin() + count, out + q * rows + row);
    }
  });
}

}  // namespace coophash
