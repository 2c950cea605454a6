// Large arrays of plain numbers, on huge pages where the system has them: tables are read at random
// places, and with small pages each place would be a miss of the address cache as well.

#ifndef COOPHASH_CPU_MEMORY_H_
#define COOPHASH_CPU_MEMORY_H_

#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace coophash {

// An array that is not initialized and cannot grow. Throws std::bad_alloc.
template <class T>
class Buffer {
  static_assert(std::is_trivial<T>::value, "numbers only");

 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : size_(size) {
    constexpr size_t kHuge = size_t{2} << 20;
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    if (bytes == 0) return;
    const size_t unit = bytes < kHuge ? 64 : kHuge;
    data_ = static_cast<T*>(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (unit == kHuge) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace coophash

#endif  // COOPHASH_CPU_MEMORY_H_
