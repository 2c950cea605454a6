// Building a multi-index: rows are sorted by code, equal codes become a group, and each table is a
// counting sort of the groups by one substring.

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "mih_cost.h"
#include "mih_layout.h"
#include "radix_sort.h"
#include "stop.h"
#include "threads.h"

namespace coophash {
namespace {

constexpr int64_t kStretch = 1 << 16;  // rows of a task; a multiple of 64

// Calls body(begin, end) for stretches of 0 .. count - 1, in parallel.
template <class Body>
void in_stretches(int64_t count, int threads, const Body& body) {
  parallel_for((count + kStretch - 1) / kStretch, threads,
               [&](int64_t i) { body(i * kStretch, std::min(count, (i + 1) * kStretch)); });
}

// 64 bits that depend on every byte, for codes that are longer: equal codes meet in a sort by it.
uint64_t hash_of(const uint8_t* code, int width) {
  uint64_t hash = 0x9e3779b97f4a7c15u;
  for (int i = 0; i < width; i += 8) {
    hash ^= load_word(code + i, std::min(8, width - i));
    hash *= 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  }
  return hash;
}

// The rows at places first .. last - 1 that are allowed, and how to reach them by number.
class Source {
 public:
  Source(const Database& database, int64_t first, int64_t last) : width_(database.width) {
    int64_t place = 0;
    for (const Span& span : database.spans) {
      const int64_t begin = std::max(first, place), end = std::min(last, place + span.rows);
      if (begin < end) parts_.push_back({&span, place, begin - first, end - first, first});
      place += span.rows;
    }
  }

  const uint8_t* code(uint32_t row) const {
    const Part& part = part_of(row);
    return part.span->codes + part.local(row) * width_;
  }
  int64_t id(uint32_t row) const {
    const Part& part = part_of(row);
    const int64_t local = part.local(row);
    return part.span->ids ? part.span->ids[local] : part.span->first_id + local;
  }

  // The allowed rows, in order.
  Buffer<uint32_t> rows(int threads) const {
    std::vector<Part> tasks;
    for (const Part& part : parts_) {
      for (int64_t begin = part.begin; begin < part.end; begin += kStretch) {
        tasks.push_back(
            {part.span, part.place, begin, std::min(part.end, begin + kStretch), part.first});
      }
    }
    std::vector<int64_t> places(tasks.size() + 1, 0);
    const auto each = [&](int64_t task, const auto& body) {
      const Part& part = tasks[static_cast<size_t>(task)];
      for (int64_t row = part.begin; row < part.end; ++row) {
        const int64_t local = part.local(row);
        const uint64_t* allow = part.span->allow;
        if (!allow || (allow[local / 64] >> (local % 64) & 1)) body(static_cast<uint32_t>(row));
      }
    };
    const int64_t count = static_cast<int64_t>(tasks.size());
    parallel_for(count, threads, [&](int64_t task) {
      each(task, [&](uint32_t) { ++places[static_cast<size_t>(task) + 1]; });
    });
    std::partial_sum(places.begin(), places.end(), places.begin());
    Buffer<uint32_t> out(places.back());
    parallel_for(count, threads, [&](int64_t task) {
      int64_t to = places[static_cast<size_t>(task)];
      each(task, [&](uint32_t row) { out[to++] = row; });
    });
    return out;
  }

 private:
  struct Part {
    const Span* span;
    int64_t place;       // of the span's first row
    int64_t begin, end;  // rows, counted from `first`
    int64_t first;
    int64_t local(int64_t row) const { return row + first - place; }
  };
  const Part& part_of(int64_t row) const {
    size_t i = 0;
    while (row >= parts_[i].end) ++i;
    return parts_[i];
  }

  std::vector<Part> parts_;
  int width_;
};

// Rows with one hash are nearly always rows with one code. Where they are not, they are sorted.
void separate(const Source& source, int width, const Buffer<uint64_t>& keys, uint32_t* rows,
              int64_t begin, int64_t end) {
  const auto compare = [&](uint32_t a, uint32_t b) {
    return std::memcmp(source.code(a), source.code(b), static_cast<size_t>(width));
  };
  for (int64_t i = begin; i < end;) {
    int64_t j = i + 1;
    bool alike = true;
    for (; j < keys.size() && keys[j] == keys[i]; ++j) alike &= compare(rows[i], rows[j]) == 0;
    if (!alike) {
      std::stable_sort(rows + i, rows + j,
                       [&](uint32_t a, uint32_t b) { return compare(a, b) < 0; });
    }
    i = j;
  }
}

// Where each group begins among the sorted rows, and the end.
Buffer<uint32_t> group_starts(const Source& source, int width, const Buffer<uint64_t>& keys,
                              const Buffer<uint32_t>& rows) {
  const int64_t n = keys.size();
  const auto begins = [&](int64_t i) {
    if (i == 0 || keys[i] != keys[i - 1]) return true;
    return width > kNarrow && std::memcmp(source.code(rows[i]), source.code(rows[i - 1]),
                                          static_cast<size_t>(width)) != 0;
  };
  int64_t groups = 0;
  for (int64_t i = 0; i < n; ++i) groups += begins(i);
  Buffer<uint32_t> starts(groups + 1);
  int64_t group = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (begins(i)) starts[group++] = static_cast<uint32_t>(i);
  }
  starts[group] = static_cast<uint32_t>(n);
  return starts;
}

// A counting sort by substring: value_of and write take a rank.
template <class Value, class Write>
void fill(Table& table, int64_t groups, const Value& value_of, const Write& write) {
  const int64_t values = int64_t{1} << table.part.bits;
  table.offsets = Buffer<uint32_t>(values + 1);
  table.entries = Buffer<uint8_t>(groups * table.entry_bytes + kSlack);
  uint32_t* offsets = table.offsets.data();
  std::fill(offsets, offsets + values + 1, 0u);
  StopPoints stop;
  for (int64_t rank = 0; rank < groups; ++rank) ++offsets[value_of(rank)];
  stop.after(groups);
  uint32_t sum = 0;
  for (int64_t v = 0; v <= values; ++v) sum += std::exchange(offsets[v], sum);
  // While entries are written an offset moves from the begin of its bucket to the end ...
  for (int64_t rank = 0; rank < groups; ++rank) {
    if (rank % kStretch == 0) stop.after(kStretch);
    write(rank, table.entries.data() + int64_t{offsets[value_of(rank)]++} * table.entry_bytes);
  }
  // ... which is the begin of the next.
  std::memmove(offsets + 1, offsets, static_cast<size_t>(values) * sizeof(uint32_t));
  offsets[0] = 0;
  std::memset(table.entries.data() + groups * table.entry_bytes, 0, kSlack);
}

void store_word(uint64_t word, int bytes, uint8_t* to) {
  for (int i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(word >> (8 * i));
}

Masks make_masks(int bits) {
  constexpr size_t kMost = 1 << 18;
  Masks masks;
  for (int radius = 0; radius <= bits; ++radius) {
    masks.begin.push_back(static_cast<uint32_t>(masks.values.size()));
    uint32_t value = (uint32_t{1} << radius) - 1;
    while (value < uint32_t{1} << bits) {
      if (masks.values.size() == kMost) {  // this radius does not fit: leave it out
        masks.values.resize(masks.begin.back());
        return masks;
      }
      masks.values.push_back(value);
      if (value == 0) break;
      // The next larger number with as many bits set: the lowest run of ones moves up by one place,
      // the rest of it down.
      const uint32_t moved = value + (value & -value);
      value = moved | ((value ^ moved) / (value & -value)) >> 2;
    }
  }
  masks.begin.push_back(static_cast<uint32_t>(masks.values.size()));
  return masks;
}

}  // namespace

const Masks& masks_of(int bits) {
  static std::mutex mutex;
  static std::unique_ptr<const Masks> made[kMostSubstringBits + 1];
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<const Masks>& masks = made[bits];
  if (!masks) masks = std::make_unique<const Masks>(make_masks(bits));
  return *masks;
}

int64_t MultiIndex::bytes() const {
  int64_t sum = codes.bytes() + starts.bytes() + rows.bytes();
  for (const Table& table : tables) sum += table.offsets.bytes() + table.entries.bytes();
  return sum;
}

MultiIndexInfo describe(const MultiIndex& index) {
  MultiIndexInfo info = {index.bytes(), index.rows.size(), index.groups, {}};
  for (const Table& table : index.tables) info.substrings.push_back(table.part.bits);
  return info;
}

int64_t MultiIndex::rank_of(uint64_t word) const {
  const Table& table = tables[0];
  const uint64_t rest = table.part.strip(word);
  const uint32_t value = table.part.of(word);
  int64_t begin = table.offsets[value], end = table.offsets[value + 1];
  while (begin + 1 < end) {
    const int64_t middle = (begin + end) / 2;
    const uint8_t* entry = table.entries.data() + middle * table.entry_bytes;
    (load_word(entry, table.entry_bytes) <= rest ? begin : end) = middle;
  }
  return begin;
}

std::shared_ptr<const MultiIndex> build_multi_index(const Database& database, int64_t first,
                                                    int64_t last, int bits, int substrings,
                                                    int threads, const Kernels& kernels) {
  auto index = std::make_shared<MultiIndex>();
  index->bits = bits;
  index->width = database.width;
  index->first = first;
  index->last = last;
  const int width = database.width;
  const Source source(database, first, last);

  // Rows by id, so that those of a group are in the order in which they win ties.
  Buffer<uint32_t> rows = source.rows(threads);
  const int64_t n = rows.size();
  Buffer<uint64_t> keys(n);
  if (!database.increasing) {
    in_stretches(n, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) keys[i] = static_cast<uint64_t>(source.id(rows[i]));
    });
    radix_sort(keys, rows, 63, threads);
  }
  in_stretches(n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* code = source.code(rows[i]);
      keys[i] = index->narrow() ? load_word(code, width) : hash_of(code, width);
    }
  });
  radix_sort(keys, rows, index->narrow() ? 8 * width : 64, threads);
  if (!index->narrow()) separate(source, width, keys, rows.data(), 0, n);

  Buffer<uint32_t> starts = group_starts(source, width, keys, rows);
  index->groups = starts.size() - 1;
  const std::vector<Substring> parts =
      choose_substrings(index->groups, n, bits, substrings, kernels);
  // Without tables all groups are compared with, and that pays only where they are few.
  if (n == 0 || (parts.empty() && substrings < 0 && 4 * index->groups > n)) return index;

  const int64_t groups = index->groups;
  const auto key = [&](int64_t rank) { return keys[starts[rank]]; };
  if (!index->narrow() || parts.empty()) {
    index->codes = Buffer<uint8_t>(groups * width + kSlack);
    in_stretches(groups, threads, [&](int64_t begin, int64_t end) {
      for (int64_t rank = begin; rank < end; ++rank) {
        std::memcpy(index->codes.data() + rank * width, source.code(rows[starts[rank]]),
                    static_cast<size_t>(width));
      }
    });
    std::memset(index->codes.data() + groups * width, 0, kSlack);
  }
  index->tables.resize(parts.size());
  for (size_t j = 0; j < parts.size(); ++j) {
    const int rest = std::max(1, (bits - parts[j].bits + 7) / 8);
    index->tables[j].part = parts[j];
    index->tables[j].entry_bytes = index->narrow() ? rest : 4;
    index->tables[j].masks = &masks_of(parts[j].bits);
  }
  parallel_for(static_cast<int64_t>(parts.size()), threads, [&](int64_t j) {
    Table& table = index->tables[static_cast<size_t>(j)];
    if (index->narrow()) {
      fill(
          table, groups, [&](int64_t rank) { return table.part.of(key(rank)); },
          [&](int64_t rank, uint8_t* to) {
            store_word(table.part.strip(key(rank)), table.entry_bytes, to);
          });
    } else {
      const uint8_t* codes = index->codes.data();
      fill(
          table, groups,
          [&](int64_t rank) { return substring_of(codes + rank * width, width, table.part); },
          [&](int64_t rank, uint8_t* to) {
            const uint32_t number = static_cast<uint32_t>(rank);
            std::memcpy(to, &number, sizeof(number));
          });
    }
  });
  if (groups < n) index->starts = std::move(starts);
  index->rows = std::move(rows);
  return index;
}

}  // namespace coophash
