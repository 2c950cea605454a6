// The threads of a block as fibers.

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include <ucontext.h>

#include "emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define COOPHASH_SWITCH_BEGIN(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define COOPHASH_SWITCH_END(save) __sanitizer_finish_switch_fiber(save, nullptr, nullptr)
#else
#define COOPHASH_SWITCH_BEGIN(save, bottom, size) (void)0
#define COOPHASH_SWITCH_END(save) (void)0
#endif

namespace emulator {
namespace {

constexpr size_t kStackBytes = 128 << 10;

// Where threads meet. Values are kept twice: a thread that goes on to the next meeting must not
// overwrite what another has still to read.
struct Meeting {
  std::vector<unsigned char> slots;
  std::vector<int> waiting;  // threads
  int members = 0, arrived = 0, round = 0;
  Exchange kind = kShuffle;
};

struct Fiber {
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  ucontext_t context;
  jmp_buf at;
  bool begun = false, done = false;
  void* fake_stack = nullptr;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting all;
  std::vector<int> ready;
  std::vector<unsigned char> shared;
  std::vector<Place> places;
  const std::function<void()>* body = nullptr;
  int running = -1, left = 0;
  jmp_buf scheduler;
  ucontext_t scheduler_context;
  void* scheduler_fake = nullptr;
  const void* scheduler_bottom = nullptr;
  size_t scheduler_size = 0;
};

thread_local Block* block = nullptr;

void to_scheduler(bool finished) {
  Fiber& fiber = block->fibers[static_cast<size_t>(block->running)];
  fiber.done = finished;
  if (finished || !_setjmp(fiber.at)) {
    COOPHASH_SWITCH_BEGIN(finished ? nullptr : &fiber.fake_stack, block->scheduler_bottom,
                          block->scheduler_size);
    _longjmp(block->scheduler, 1);
  }
  COOPHASH_SWITCH_END(fiber.fake_stack);
}

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block->scheduler_bottom, &block->scheduler_size);
#endif
  (*block->body)();
  to_scheduler(true);
}

void resume(int thread) {
  block->running = thread;
  Fiber& fiber = block->fibers[static_cast<size_t>(thread)];
  if (!_setjmp(block->scheduler)) {
    COOPHASH_SWITCH_BEGIN(&block->scheduler_fake, fiber.stack.get(), kStackBytes);
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
  }
  COOPHASH_SWITCH_END(block->scheduler_fake);
}

const unsigned char* meet(Meeting& meeting, int member, Exchange kind, const void* value,
                          size_t bytes) {
  if (bytes > kSlotBytes) fail("an exchanged value is too large");
  if (meeting.arrived == 0) meeting.kind = kind;
  if (meeting.kind != kind) fail("threads meet in different ways");
  const size_t half = static_cast<size_t>(meeting.members) * kSlotBytes;
  unsigned char* slots = meeting.slots.data() + (meeting.round & 1 ? half : 0);
  if (bytes) std::memcpy(slots + static_cast<size_t>(member) * kSlotBytes, value, bytes);
  if (++meeting.arrived < meeting.members) {
    meeting.waiting.push_back(block->running);
    to_scheduler(false);
    return slots;
  }
  meeting.arrived = 0;
  ++meeting.round;
  block->ready.insert(block->ready.end(), meeting.waiting.begin(), meeting.waiting.end());
  meeting.waiting.clear();
  block->ready.push_back(block->running);
  to_scheduler(false);  // any of them may go on first
  return slots;
}

void open(Meeting& meeting, int members) {
  meeting.members = members;
  meeting.arrived = meeting.round = 0;
  meeting.waiting.clear();
  meeting.slots.assign(2 * kSlotBytes * static_cast<size_t>(members), 0xcd);
}

void run_block(const Place& first, int threads, size_t shared, std::mt19937_64& random) {
  block->shared.assign(shared + 32, 0xcd);
  open(block->all, threads);
  block->warps.resize(static_cast<size_t>(threads) / 32);
  for (Meeting& warp : block->warps) open(warp, 32);
  block->ready.clear();
  block->places.assign(static_cast<size_t>(threads), first);
  for (int thread = 0; thread < threads; ++thread) {
    Fiber& fiber = block->fibers[static_cast<size_t>(thread)];
    fiber.begun = fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    block->places[static_cast<size_t>(thread)].thread = dim3(static_cast<unsigned>(thread), 0, 0);
    block->ready.push_back(thread);
  }
  block->left = threads;
  while (block->left) {
    if (block->ready.empty()) fail("threads wait for others that have ended or wait elsewhere");
    const size_t pick = random() % block->ready.size();
    const int thread = block->ready[pick];
    block->ready[pick] = block->ready.back();
    block->ready.pop_back();
    resume(thread);
    if (block->fibers[static_cast<size_t>(thread)].done) --block->left;
  }
}

}  // namespace

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "FAILED: emulator: %s", what);
  if (block && block->running >= 0) {
    const Place& at = block->places[static_cast<size_t>(block->running)];
    std::fprintf(stderr, " (block %u, %u of %u, %u; thread %u of %u)", at.block.x, at.block.y,
                 at.grid.x, at.grid.y, at.thread.x, at.size.x);
  }
  std::fputc('\n', stderr);
  std::abort();
}

Place& here() { return block->places[static_cast<size_t>(block->running)]; }

unsigned char* shared_memory() {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(block->shared.data());
  return reinterpret_cast<unsigned char*>((begin + 15) / 16 * 16);
}

void block_barrier() { meet(block->all, 0, kWarpBarrier, nullptr, 0); }

const unsigned char* exchange(Exchange kind, const void* value, size_t bytes) {
  const unsigned thread = here().thread.x;
  return meet(block->warps[thread / 32], static_cast<int>(thread % 32), kind, value, bytes);
}

void run_kernel(dim3 grid, int threads, size_t shared, const std::function<void()>& body) {
  if (threads % 32 || threads < 32 || threads > 1024) fail("threads must be whole warps");
  if (shared > (48 << 10)) fail("more than 48 KiB of shared memory");
  if (grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z) fail("a wrong grid");
  static thread_local Block mine;
  static thread_local std::mt19937_64 random(machine().seed);
  if (mine.fibers.size() < static_cast<size_t>(threads)) {
    mine.fibers.resize(static_cast<size_t>(threads));
  }
  block = &mine;
  mine.body = &body;
  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < uint64_t{grid.x} * grid.y * grid.z; ++i) order.push_back(i);
  std::shuffle(order.begin(), order.end(), random);
  for (const uint64_t i : order) {
    Place place;
    place.grid = grid;
    place.size = dim3(static_cast<unsigned>(threads));
    place.block =
        dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
             static_cast<unsigned>(i / grid.x / grid.y));
    run_block(place, threads, shared, random);
  }
  block->running = -1;
  ++counts().kernels;
}

}  // namespace emulator
