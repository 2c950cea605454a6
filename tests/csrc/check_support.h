// What kernel_check.cpp and thread_check.cpp stand on: codes, memory with guard pages around it,
// an oracle that counts bit by bit, and a failure that names the case.

#ifndef COOPHASH_TESTS_CHECK_SUPPORT_H_
#define COOPHASH_TESTS_CHECK_SUPPORT_H_

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/hamming.h"

namespace check {

// The case at hand, for the messages of `fail` and of a fault.
inline char current_case[256] = "no case yet";

#define CHECK_PRINTF(text, rest) __attribute__((format(printf, text, rest)))

CHECK_PRINTF(1, 2) inline void begin_case(const char* format, ...) {
  va_list values;
  va_start(values, format);
  std::vsnprintf(current_case, sizeof(current_case), format, values);
  va_end(values);
}

[[noreturn]] CHECK_PRINTF(1, 2) inline void fail(const char* format, ...) {
  std::fprintf(stderr, "FAILED: %s: ", current_case);
  va_list values;
  va_start(values, format);
  std::vfprintf(stderr, format, values);
  va_end(values);
  std::fputc('\n', stderr);
  std::fflush(stderr);
  _exit(1);  // other threads may be at work
}

// A read or write outside of its memory ends the program with the name of the case.
inline void name_the_case_of_a_fault() {
  struct sigaction action = {};
  action.sa_handler = [](int) {
    const char* parts[] = {"FAILED: ", current_case, ": memory outside of the arrays is touched\n"};
    for (const char* part : parts) {
      if (write(STDERR_FILENO, part, std::strlen(part)) < 0) break;
    }
    _exit(1);
  };
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

// Items that begin right behind one page that must not be touched, or end right before another.
template <class T>
class Guarded {
 public:
  enum class Side { kFront, kBack };

  Guarded(int64_t items, Side side) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(items) * sizeof(T);
    const size_t inside = (bytes + page - 1) / page * page;
    size_ = inside + 2 * page;
    void* memory = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for %zu bytes", size_);
    base_ = static_cast<uint8_t*>(memory);
    if (inside && mprotect(base_ + page, inside, PROT_READ | PROT_WRITE)) fail("mprotect failed");
    uint8_t* begin = base_ + page + (side == Side::kFront ? 0 : inside - bytes);
    data_ = reinterpret_cast<T*>(begin);
  }
  ~Guarded() { munmap(base_, size_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  uint8_t* base_;
  size_t size_;
  T* data_;
};

// splitmix64 (Steele, Lea and Flood, 2014): the same cases on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int count) { return static_cast<int>(next() % static_cast<uint64_t>(count)); }

 private:
  uint64_t state_;
};

enum class Kind { kRandom, kClustered, kConstant };
inline constexpr Kind kKinds[] = {Kind::kRandom, Kind::kClustered, Kind::kConstant};
inline const char* name(Kind kind) {
  return kind == Kind::kRandom ? "random" : kind == Kind::kClustered ? "clustered" : "constant";
}

// codes (rows, width). Clustered: five centres, of which a few bits are flipped, so that there are
// many ties and many copies. Constant: all bits set in odd seeds, none in even ones.
inline void fill_codes(Kind kind, uint64_t seed, int64_t rows, int width, uint8_t* codes) {
  Random random(seed), centres(width);
  std::vector<uint8_t> centre(static_cast<size_t>(5 * width));
  for (uint8_t& byte : centre) byte = static_cast<uint8_t>(centres.next());
  for (int64_t row = 0; row < rows; ++row, codes += width) {
    if (kind == Kind::kConstant) {
      std::memset(codes, seed % 2 ? 0xff : 0, static_cast<size_t>(width));
    } else if (kind == Kind::kRandom) {
      for (int i = 0; i < width; ++i) codes[i] = static_cast<uint8_t>(random.next());
    } else {
      std::memcpy(codes, &centre[static_cast<size_t>(random.below(5) * width)],
                  static_cast<size_t>(width));
      for (int flips = random.below(3); flips > 0; --flips) {
        codes[random.below(width)] ^= static_cast<uint8_t>(1 << random.below(8));
      }
    }
  }
}

// The oracle: one bit after another.
inline int naive_distance(const uint8_t* a, const uint8_t* b, int width) {
  int distance = 0;
  for (int i = 0; i < width; ++i) {
    for (unsigned bits = a[i] ^ b[i]; bits; bits >>= 1) distance += bits & 1;
  }
  return distance;
}

}  // namespace check

#endif  // COOPHASH_TESTS_CHECK_SUPPORT_H_
