// Which instruction sets this machine runs, asked of the processor and the operating system.

#include <stdexcept>

#include "../hamming.h"
#include "kernels.h"

#if defined(__x86_64__) || defined(__i386__)
#define COOPHASH_X86 1
#else
#define COOPHASH_X86 0
#endif

namespace coophash {
namespace {

// __builtin_cpu_supports reads cpuid and, for vector registers, whether the system saves them.
std::string avx2_missing() {
#if COOPHASH_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) return "this processor has no AVX2";
  if (!__builtin_cpu_supports("popcnt")) return "this processor has no POPCNT";
  return "";
#else
  return "it is for x86 processors";
#endif
}

std::string avx512_missing() {
#if COOPHASH_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return "this processor has no AVX-512 (F, BW, VL, DQ)";
  }
  if (!__builtin_cpu_supports("avx512vbmi") || !__builtin_cpu_supports("avx512vpopcntdq") ||
      !__builtin_cpu_supports("gfni")) {
    return "this processor has AVX-512 but not its VBMI, VPOPCNTDQ and GFNI parts";
  }
  return "";
#else
  return "it is for x86 processors";
#endif
}

// Part of the baseline of 64-bit ARM: there is nothing to ask.
std::string neon_missing() {
#if defined(__aarch64__)
  return "";
#else
  return "it is for 64-bit ARM processors";
#endif
}

struct Isa {
  const char* name;
  const Kernels* kernels;
  std::string missing;
};

Isa checked(const char* name, const Kernels* kernels, const std::string& missing) {
  if (!missing.empty()) return {name, nullptr, missing};
  if (!kernels) return {name, nullptr, "the compiler of this build could not make it"};
  return {name, kernels, ""};
}

const std::vector<Isa>& known() {  // fastest first
  static const std::vector<Isa> list = {
      checked("avx512", avx512_kernels(), avx512_missing()),
      checked("avx2", avx2_kernels(), avx2_missing()),
      checked("neon", neon_kernels(), neon_missing()),
      checked("serial", serial_kernels(), ""),
  };
  return list;
}

}  // namespace

std::vector<IsaStatus> isas() {
  std::vector<IsaStatus> list;
  for (const Isa& isa : known()) list.push_back({isa.name, isa.missing});
  return list;
}

const Kernels& kernels(const std::string& name) {
  for (const Isa& isa : known()) {
    if (name.empty() ? isa.kernels != nullptr : name == isa.name) {
      if (!isa.kernels) throw std::runtime_error(isa.missing);
      return *isa.kernels;
    }
  }
  std::string names;
  for (const Isa& isa : known()) names += std::string(names.empty() ? "" : ", ") + isa.name;
  throw std::invalid_argument("no instruction set is called '" + name + "': choose one of " +
                              names);
}

}  // namespace coophash
