#include "build_info.h"

#include "coophash_build.h"  // written by setup.py: the COOPHASH_BUILD_ macros

#define COOPHASH_TEXT(x) #x
#define COOPHASH_NUMBER(x) COOPHASH_TEXT(x)

#if defined(__clang__)
#define COOPHASH_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COOPHASH_COMPILER                                                                   \
  "gcc " COOPHASH_NUMBER(__GNUC__) "." COOPHASH_NUMBER(__GNUC_MINOR__) "." COOPHASH_NUMBER( \
      __GNUC_PATCHLEVEL__)
#else
#define COOPHASH_COMPILER "unknown"
#endif

namespace coophash {

const BuildInfo& build_info() {
  static const BuildInfo info = {COOPHASH_BUILD_VERSION,      COOPHASH_COMPILER,
                                 COOPHASH_BUILD_CUDA,         COOPHASH_BUILD_CUDA_REASON,
                                 COOPHASH_BUILD_NVCC_VERSION, COOPHASH_BUILD_CUDA_ARCHS};
  return info;
}

}  // namespace coophash
