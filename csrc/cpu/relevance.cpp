#include "relevance.h"

#include <algorithm>

namespace coophash {
namespace {

// How many bits are set in each of some words, added to `counts`: in 16-bit lanes, whatever the
// instruction set.
void count_shared(const uint16_t* theirs, uint16_t ours, int64_t rows, uint16_t* counts) {
  for (int64_t i = 0; i < rows; ++i) {
    unsigned x = theirs[i] & ours;
    x -= (x >> 1) & 0x5555u;
    x = (x & 0x3333u) + ((x >> 2) & 0x3333u);
    x = (x + (x >> 4)) & 0x0f0fu;
    counts[i] = static_cast<uint16_t>(counts[i] + ((x + (x >> 8)) & 0x1fu));
  }
}

}  // namespace

TileRelevance::TileRelevance(const Relevance& all, int64_t first_query, int64_t queries)
    : all_(all), first_query_(first_query) {
  if (!all.row_classes) return;
  const int32_t* const classes = all.query_classes + first_query;
  const int32_t largest = queries ? *std::max_element(classes, classes + queries) : -1;
  numbers_.assign(static_cast<size_t>(largest + 1), kNoQuery);
  uint16_t count = 0;
  for (int64_t i = 0; i < queries; ++i) {
    if (classes[i] < 0) {
      query_classes_.push_back(kNothing);
      continue;
    }
    uint16_t& number = numbers_[static_cast<size_t>(classes[i])];
    if (number == kNoQuery) number = count++;
    query_classes_.push_back(number);
  }
}

void TileRelevance::look_at(const Block& block) {
  const size_t rows = static_cast<size_t>(block.rows);
  if (all_.row_classes) {
    classes_.resize(rows);
    for (size_t i = 0; i < rows; ++i) {
      const int32_t theirs = all_.row_classes[block.id(static_cast<int64_t>(i))];
      const bool known = theirs >= 0 && static_cast<size_t>(theirs) < numbers_.size();
      classes_[i] = known ? numbers_[static_cast<size_t>(theirs)] : kNoQuery;
    }
    return;
  }
  if (!block.ids) {
    labels_ = all_.row_labels + block.first_id;
    stride_ = all_.rows;
    return;
  }
  gathered_.resize(rows * static_cast<size_t>(all_.words));
  for (size_t word = 0; word < static_cast<size_t>(all_.words); ++word) {
    const uint16_t* from = all_.row_labels + static_cast<int64_t>(word) * all_.rows;
    for (size_t i = 0; i < rows; ++i) gathered_[word * rows + i] = from[block.ids[i]];
  }
  labels_ = gathered_.data();
  stride_ = block.rows;
}

void TileRelevance::mark(int64_t query, int64_t first, int64_t rows, uint16_t* numbers) {
  if (all_.row_classes) {
    const uint16_t wanted = query_classes_[static_cast<size_t>(query)];
    const uint16_t* classes = classes_.data() + first;
    for (int64_t i = 0; i < rows; ++i) {
      numbers[i] = static_cast<uint16_t>(2 * numbers[i] + (classes[i] == wanted));
    }
    return;
  }
  const uint16_t* wanted = all_.query_labels + (first_query_ + query) * all_.words;
  if (all_.grades > 2) {
    grade(wanted, first, rows, numbers);
    return;
  }
  shared_.assign(static_cast<size_t>(rows), 0);
  uint16_t* const shared = shared_.data();
  for (int word = 0; word < all_.words; ++word) {
    const uint16_t ours = wanted[word];
    if (!ours) continue;  // a query has few labels: most of its words are 0
    const uint16_t* theirs = labels_ + word * stride_ + first;
    for (int64_t i = 0; i < rows; ++i) shared[i] |= theirs[i] & ours;
  }
  for (int64_t i = 0; i < rows; ++i) {
    numbers[i] = static_cast<uint16_t>(2 * numbers[i] + (shared[i] != 0));
  }
}

void TileRelevance::grade(const uint16_t* wanted, int64_t first, int64_t rows, uint16_t* numbers) {
  shared_.assign(static_cast<size_t>(rows), 0);
  for (int word = 0; word < all_.words; ++word) {
    if (!wanted[word]) continue;
    count_shared(labels_ + word * stride_ + first, wanted[word], rows, shared_.data());
  }
  const uint16_t highest = static_cast<uint16_t>(all_.grades - 1);
  const uint16_t step = static_cast<uint16_t>(all_.grades);
  for (int64_t i = 0; i < rows; ++i) {
    const uint16_t grade = std::min(shared_[static_cast<size_t>(i)], highest);
    numbers[i] = static_cast<uint16_t>(step * numbers[i] + grade);
  }
}

void TileRelevance::mark_bits(int64_t query, int64_t first, int64_t rows,
                              const SlicedCounting& kernels, uint64_t* bits) const {
  if (all_.row_classes) {
    kernels.mark_classes(classes_.data() + first, rows, query_classes_[static_cast<size_t>(query)],
                         bits);
  } else {
    kernels.mark_labels(labels_ + first, stride_,
                        all_.query_labels + (first_query_ + query) * all_.words, all_.words, rows,
                        bits);
  }
}

}  // namespace coophash
