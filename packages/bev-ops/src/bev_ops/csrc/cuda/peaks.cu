// Operator of heat-map peaks on CUDA devices.
#include "launch.h"
#include "peak_kernels.cuh"

namespace bev_ops {
namespace {

const int64_t* numbers(const Tensor& tensor, int64_t numel, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long && tensor.is_contiguous() && tensor.numel() == numel, name,
                  " must be a contiguous int64 tensor of ", numel, " numbers");
  return const_data<int64_t>(tensor);
}

Tensor draw_peaks(const Tensor& plane, const Tensor& cell_xy, const Tensor& radius, int64_t num_planes, int64_t height,
                  int64_t width) {
  const torch::stable::accelerator::DeviceGuard guard(plane.get_device_index());
  const int64_t boxes = plane.numel();
  Tensor out = torch::stable::new_zeros(plane, {num_planes, height, width}, ScalarType::Float);
  STD_TORCH_CHECK(boxes <= INT32_MAX, "too many boxes for one launch: ", boxes);
  if (boxes > 0 && out.numel() > 0) {
    const PeakArgs args{numbers(plane, boxes, "plane"), numbers(cell_xy, 2 * boxes, "cell_xy"),
                        numbers(radius, boxes, "radius"), data<int>(out), height, width};
    draw_peak<<<static_cast<unsigned>(boxes), kPeakThreads, 0, current_stream(plane)>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return out;
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) { m.impl("draw_peaks", TORCH_BOX(&bev_ops::draw_peaks)); }
