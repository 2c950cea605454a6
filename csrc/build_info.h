// What this build contains, for `coophash doctor`.

#ifndef COOPHASH_BUILD_INFO_H_
#define COOPHASH_BUILD_INFO_H_

namespace coophash {

struct BuildInfo {
  const char* version;
  const char* compiler;
  bool cuda;
  const char* cuda_reason;   // why there is no CUDA part, or ""
  const char* nvcc_version;  // "" without CUDA
  const char* cuda_archs;    // cubins and PTX, e.g. "80 90 ptx120"
};

const BuildInfo& build_info();

}  // namespace coophash

#endif  // COOPHASH_BUILD_INFO_H_
