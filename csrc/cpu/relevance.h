// Which rows of a block are relevant to a query.

#ifndef COOPHASH_CPU_RELEVANCE_H_
#define COOPHASH_CPU_RELEVANCE_H_

#include <cstdint>
#include <vector>

#include "../hamming.h"
#include "blocks.h"
#include "kernels.h"

namespace coophash {

// For a tile of queries: the labels of the rows of one block after another.
class TileRelevance {
 public:
  // Each query may have a class of its own, and these are numbered in 16 bits.
  static constexpr int64_t kMostQueries = 65000;

  TileRelevance(const Relevance& all, int64_t first_query, int64_t queries);

  // The block that `mark` and `mark_bits` are about.
  void look_at(const Block& block);

  // Turns numbers of rows first .. first + rows - 1 into grades * number + grade.
  void mark(int64_t query, int64_t first, int64_t rows, uint16_t* numbers);

  // A bit for each of these rows, set if it is relevant; rows is a multiple of 64.
  void mark_bits(int64_t query, int64_t first, int64_t rows, const SlicedCounting& kernels,
                 uint64_t* bits) const;

 private:
  static constexpr uint16_t kNoQuery = 0xffff;  // the class of a row that no query of the tile has
  static constexpr uint16_t kNothing = 0xfffe;  // the class of a query that no row has

  void grade(const uint16_t* wanted, int64_t first, int64_t rows, uint16_t* numbers);

  const Relevance& all_;
  int64_t first_query_;
  std::vector<uint16_t> numbers_;        // of classes: those that the queries have, from 0 on
  std::vector<uint16_t> query_classes_;  // (queries,)
  std::vector<uint16_t> classes_;        // of the block's rows
  const uint16_t* labels_ = nullptr;     // of the block: word w of row r at w * stride_ + r
  int64_t stride_ = 0;
  std::vector<uint16_t> gathered_;  // labels, where the block is gathered
  std::vector<uint16_t> shared_;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_RELEVANCE_H_
