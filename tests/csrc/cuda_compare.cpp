// Each search of csrc/cuda once, compared with an oracle that counts bit by bit and sorts.

#include <algorithm>

#include "cuda_check.h"
#include "cuda_problem.h"

namespace check {

gpu::Counts check_topk(Problem& problem, int64_t k, gpu::Path path, bool least,
                       int64_t chunk_bytes) {
  begin_case("topk, width %d, %lld rows, %lld queries, k %lld, %s%s", problem.width,
             static_cast<long long>(problem.rows()), static_cast<long long>(problem.count),
             static_cast<long long>(k), name(path), least ? ", least workspace" : "");
  Caller caller(gpu::topk_workspace(problem.count, problem.width, k, problem.streamed()), least,
                path, chunk_bytes);
  OnDevice<int32_t> distances(problem.count * k);
  OnDevice<int64_t> places(problem.count * k);
  const gpu::Counts done = gpu::topk(problem.database, problem.queries->data(), problem.count, k,
                                     caller.call(), distances.data(), places.data());
  for (int64_t q = 0; q < problem.count; ++q) {
    const std::vector<Row> expected = problem.sorted(q);
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = q * k + i;
      Row wanted = {coophash::kNoDistance, coophash::kNoId};
      if (i < static_cast<int64_t>(expected.size())) wanted = expected[static_cast<size_t>(i)];
      if (distances.data()[at] != wanted.distance || places.data()[at] != wanted.place) {
        fail("query %lld, rank %lld: (%d, %lld), expected (%d, %lld)", static_cast<long long>(q),
             static_cast<long long>(i), distances.data()[at],
             static_cast<long long>(places.data()[at]), wanted.distance,
             static_cast<long long>(wanted.place));
      }
    }
  }
  return done;
}

void check_range(Problem& problem, int radius, gpu::Path path, bool least) {
  begin_case("range, width %d, %lld rows, %lld queries, radius %d, %s%s", problem.width,
             static_cast<long long>(problem.rows()), static_cast<long long>(problem.count), radius,
             name(path), least ? ", least workspace" : "");
  Caller caller(gpu::range_workspace(problem.count, problem.width, problem.streamed()), least,
                path);
  std::vector<int64_t> counts(static_cast<size_t>(problem.count), -1), limits = {0};
  gpu::range_count(problem.database, problem.queries->data(), problem.count, radius, caller.call(),
                   counts.data());
  for (const int64_t count : counts) limits.push_back(limits.back() + count);
  OnDevice<uint64_t> keys(limits.back());
  OnDevice<int32_t> distances(limits.back());
  OnDevice<int64_t> places(limits.back());
  gpu::range_fill(problem.database, problem.queries->data(), problem.count, radius, caller.call(),
                  limits.data(), keys.data(), distances.data(), places.data());
  for (int64_t q = 0; q < problem.count; ++q) {
    std::vector<Row> expected = problem.sorted(q);
    while (!expected.empty() && expected.back().distance > radius) expected.pop_back();
    if (counts[static_cast<size_t>(q)] != static_cast<int64_t>(expected.size())) {
      fail("query %lld: %lld rows, expected %zu", static_cast<long long>(q),
           static_cast<long long>(counts[static_cast<size_t>(q)]), expected.size());
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      const size_t at = static_cast<size_t>(limits[static_cast<size_t>(q)]) + i;
      if (distances.data()[at] != expected[i].distance || places.data()[at] != expected[i].place) {
        fail("query %lld, entry %zu: (%d, %lld), expected (%d, %lld)", static_cast<long long>(q), i,
             distances.data()[at], static_cast<long long>(places.data()[at]), expected[i].distance,
             static_cast<long long>(expected[i].place));
      }
    }
  }
}

void check_distances(Problem& problem, bool least) {
  begin_case("distances, width %d, %lld rows, %lld queries", problem.width,
             static_cast<long long>(problem.rows()), static_cast<long long>(problem.count));
  OnDevice<int32_t> out(problem.count * problem.rows());
  Caller caller(gpu::distances_workspace(problem.count, problem.width, problem.streamed()), least,
                gpu::Path::kAuto);
  gpu::distances(problem.database, problem.queries->data(), problem.count, caller.call(),
                 out.data());
  for (int64_t q = 0; q < problem.count; ++q) {
    const std::vector<int> expected = problem.distances(q);
    if (!std::equal(expected.begin(), expected.end(), out.data() + q * problem.rows())) {
      fail("query %lld", static_cast<long long>(q));
    }
  }
}

void check_histogram(Problem& problem, int labels, int grades) {
  begin_case("histogram, width %d, %lld rows, %lld queries, labels %d, grades %d", problem.width,
             static_cast<long long>(problem.rows()), static_cast<long long>(problem.count), labels,
             grades);
  const int bins = 8 * problem.width + 1;
  const int64_t rows = problem.rows(), count = problem.count;
  constexpr int kWords = 2;
  Random random(5);
  std::vector<int32_t> row_classes, query_classes;
  std::vector<uint16_t> row_labels, query_labels;
  for (int64_t i = 0; i < rows; ++i) row_classes.push_back(random.below(3));
  for (int64_t i = 0; i < count; ++i) query_classes.push_back(random.below(3));
  for (int64_t i = 0; i < kWords * rows; ++i) {
    row_labels.push_back(static_cast<uint16_t>(random.next() & random.next()));
  }
  for (int64_t i = 0; i < kWords * count; ++i) {
    query_labels.push_back(static_cast<uint16_t>(random.next() & random.next()));
  }
  OnDevice<int32_t> a(row_classes), b(query_classes);
  OnDevice<uint16_t> c(row_labels), d(query_labels);
  gpu::Labels given;
  given.rows = rows;
  given.grades = grades;
  if (labels == 1) {
    given.row_classes = a.data();
    given.query_classes = b.data();
  } else if (labels == 2) {
    given.row_labels = c.data();
    given.query_labels = d.data();
    given.words = kWords;
  }
  const int64_t cells = labels ? int64_t{bins} * (grades - 1) : 0;
  OnDevice<int64_t> total(count * bins), relevant(count * cells);
  Caller caller(gpu::histogram_workspace(count, problem.width, problem.streamed()), false,
                gpu::Path::kAuto);
  gpu::histogram(problem.database, problem.queries->data(), count, labels ? &given : nullptr, bins,
                 caller.call(), total.data(), relevant.data());
  for (int64_t q = 0; q < count; ++q) {
    std::vector<int64_t> all(static_cast<size_t>(bins)), good(static_cast<size_t>(cells));
    const std::vector<int> distances = problem.distances(q);
    for (size_t row = 0; row < distances.size(); ++row) {
      if (!problem.allowed[row]) continue;
      ++all[static_cast<size_t>(distances[row])];
      int grade = 0;
      if (labels == 1) grade = row_classes[row] == query_classes[static_cast<size_t>(q)];
      for (int w = 0; labels == 2 && w < kWords; ++w) {
        grade += __builtin_popcount(row_labels[static_cast<size_t>(w * rows) + row] &
                                    query_labels[static_cast<size_t>(q * kWords + w)]);
      }
      grade = std::min(grade, grades - 1);
      if (grade) ++good[static_cast<size_t>(distances[row] * (grades - 1) + grade - 1)];
    }
    for (int i = 0; i < bins; ++i) {
      if (total.data()[q * bins + i] != all[static_cast<size_t>(i)]) fail("total at %d", i);
    }
    for (int64_t i = 0; i < cells; ++i) {
      if (relevant.data()[q * cells + i] != good[static_cast<size_t>(i)]) {
        fail("relevant, cell %lld", static_cast<long long>(i));
      }
    }
  }
}

}  // namespace check
