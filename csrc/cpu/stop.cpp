#include "stop.h"

#include <utility>

namespace coophash {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kAskEvery{50};
// A look at the clock takes some 25 ns; a thread that is to end does so after about kSlow.
constexpr milliseconds kFast{2}, kSlow{10};

}  // namespace

StopScope::Worker& StopScope::worker() {
  thread_local Worker worker;
  return worker;
}

StopScope* StopScope::current() { return worker().scope; }

bool StopScope::is_own() { return worker().own; }

StopScope::StopScope(std::function<bool()> asked)
    : asked_(std::move(asked)), last_asked_(Clock::now()), before_(worker()) {
  worker() = {this, true};
}

StopScope::~StopScope() { worker() = before_; }

void StopScope::ask() {
  // Not from a search that `asked` itself has begun.
  if (asking_ || stopped() || Clock::now() - last_asked_ < kAskEvery) return;
  asking_ = true;
  if (asked_()) stopped_.store(true, std::memory_order_relaxed);
  asking_ = false;
  last_asked_ = Clock::now();
}

StopMember::StopMember(StopScope* scope) : before_(StopScope::worker()) {
  if (scope != before_.scope) StopScope::worker() = {scope, false};  // else it is the caller's own
}

StopMember::~StopMember() { StopScope::worker() = before_; }

void StopPoints::look() {
  work_ = 0;
  const Clock::time_point now = Clock::now();
  const auto took = now - looked_;
  looked_ = now;
  if (took < kFast) {
    step_ *= 2;
  } else if (took > kSlow) {
    step_ = step_ / (std::chrono::ceil<milliseconds>(took) / kSlow + 1) + 1;
  }
  StopScope* const scope = StopScope::current();
  if (!scope) return;
  if (StopScope::is_own()) scope->ask();
  if (scope->stopped()) throw Stopped{};
}

}  // namespace coophash
