// Operators of affine warping on CUDA devices.
#include "launch.h"
#include "warp_kernels.cuh"


namespace bev_ops {
namespace {

class WarpLauncher {
  cudaStream_t stream_;

 public:
  explicit WarpLauncher(const Tensor& tensor) : stream_(current_stream(tensor)) {}

  template <typename Args>
  void operator()(void (*kernel)(Args), WarpGrid grid, size_t shared_bytes, const Args& args) const {
    STD_TORCH_CHECK(grid.x <= INT32_MAX && grid.y <= 65535, "a map is too large for one launch: ", args.channels, " x ",
                    args.height, " x ", args.width);
    const dim3 blocks(static_cast<unsigned>(grid.x), grid.y, grid.z);
    kernel<<<blocks, kWarpThreads, shared_bytes, stream_>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

template <bool kBackward>
Tensor warp(const Tensor& maps, const Tensor& cells) {
  STD_TORCH_CHECK(maps.dim() == 4, "maps must be (B, C, Y, X)");
  const bool fits = cells.is_contiguous() && cells.numel() == maps.size(0) * 6;
  STD_TORCH_CHECK(cells.scalar_type() == ScalarType::Float && fits, "cells must be contiguous (B, 2, 3) float32");
  const torch::stable::accelerator::DeviceGuard guard(maps.get_device_index());
  const Tensor source = torch::stable::contiguous(maps);
  const Tensor out =
      empty_on(maps, {maps.size(0), maps.size(1), maps.size(2), maps.size(3)}, maps.scalar_type());
  if (out.numel() == 0) {
    return out;
  }
  with_type(maps.scalar_type(), "maps", [&](auto type) {
    using T = decltype(type);
    launch_warp<T, kBackward>(
        WarpArgs<T>{const_data<T>(source), const_data<float>(cells), data<T>(out), maps.size(0),
                    static_cast<int>(maps.size(1)), static_cast<int>(maps.size(2)), static_cast<int>(maps.size(3))},
        WarpLauncher(maps));
  });
  return out;
}

Tensor warp_affine(const Tensor& maps, const Tensor& cells) { return warp<false>(maps, cells); }
Tensor warp_affine_backward(const Tensor& grad, const Tensor& cells) { return warp<true>(grad, cells); }

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) {
  m.impl("warp_affine", TORCH_BOX(&bev_ops::warp_affine));
  m.impl("warp_affine_backward", TORCH_BOX(&bev_ops::warp_affine_backward));
}
