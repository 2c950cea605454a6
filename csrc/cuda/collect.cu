// The scan for candidates: by counting bits, or by tensor cores.

#include "group.h"
#include "scan.cuh"
#include "tensor.h"

namespace coophash::gpu {

bool scan(const Rows& rows, const Asked& asked, const Group& group, const Machine& machine,
          Path path, cudaStream_t stream) {
  const Collect collect = collect_of(group);
  if (path == Path::kMma && tensor_suits(rows)) {
    scan_mma(rows, asked, collect, machine.multiprocessors, stream);
    return true;
  }
  if (path == Path::kWgmma && tensor_suits(rows)) {
    scan_wgmma(rows, asked, collect, machine.multiprocessors, stream);
    return true;
  }
  launch_scan(rows, asked, collect, machine.multiprocessors, stream);
  return false;
}

}  // namespace coophash::gpu
