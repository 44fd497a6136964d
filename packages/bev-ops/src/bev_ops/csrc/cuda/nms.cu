// Operators of rotated overlap and greedy suppression on CUDA devices.
#include "launch.h"
#include "nms_kernels.cuh"

namespace bev_ops {
namespace {

template <typename T>
void run_iou(const Tensor& a, const Tensor& b, const Tensor& out, cudaStream_t stream) {
  const int64_t pairs = out.numel(), blocks = (pairs + kPairThreads - 1) / kPairThreads;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "too many pairs of boxes for one launch: ", pairs);
  if (blocks > 0) {
    fill_iou<T><<<static_cast<unsigned>(blocks), kPairThreads, 0, stream>>>(
        const_data<T>(a), const_data<T>(b), a.size(0), b.size(0), data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

Tensor iou_rotated(const Tensor& boxes_a, const Tensor& boxes_b) {
  STD_TORCH_CHECK(boxes_a.scalar_type() == boxes_b.scalar_type(), "boxes must have one type");
  const torch::stable::accelerator::DeviceGuard guard(boxes_a.get_device_index());
  const Tensor a = torch::stable::contiguous(boxes_a), b = torch::stable::contiguous(boxes_b);
  const Tensor out = empty_on(a, {a.size(0), b.size(0)}, a.scalar_type());
  (a.scalar_type() == ScalarType::Double ? run_iou<double> : run_iou<float>)(a, b, out, current_stream(a));
  return out;
}

template <typename T, typename Test>
Tensor suppress(const Tensor& candidates, Test test) {
  const int64_t count = candidates.size(0), words = (count + kWord - 1) / kWord;
  const Tensor keep = empty_on(candidates, {count}, ScalarType::Bool);
  if (count == 0) {
    return keep;
  }
  const size_t shared_bytes = words * sizeof(unsigned long long);
  STD_TORCH_CHECK(shared_bytes <= 46 * 1024, "too many candidates for suppression: ", count);
  const Tensor bits = empty_on(candidates, {count * words}, ScalarType::Long);
  const cudaStream_t stream = current_stream(candidates);
  const dim3 blocks(static_cast<unsigned>(words), static_cast<unsigned>(words));
  fill_suppression<<<blocks, kWord, 0, stream>>>(const_data<T>(candidates), count, test,
                                                 data<unsigned long long>(bits));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  keep_greedily<<<1, kGreedyThreads, shared_bytes, stream>>>(const_data<unsigned long long>(bits), count,
                                                             static_cast<int>(words), data<bool>(keep));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return keep;
}

Tensor nms_rotated(const Tensor& boxes, double threshold) {
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor source = torch::stable::contiguous(boxes);
  return source.scalar_type() == ScalarType::Double
             ? suppress<double>(source, RotatedTest<double>{threshold})
             : suppress<float>(source, RotatedTest<float>{static_cast<float>(threshold)});
}

Tensor nms_circle(const Tensor& centers, double radius) {
  const torch::stable::accelerator::DeviceGuard guard(centers.get_device_index());
  const Tensor source = torch::stable::contiguous(centers);
  return source.scalar_type() == ScalarType::Double ? suppress<double>(source, CircleTest<double>{radius})
                                                    : suppress<float>(source, CircleTest<float>{radius});
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) {
  m.impl("iou_rotated", TORCH_BOX(&bev_ops::iou_rotated));
  m.impl("nms_rotated", TORCH_BOX(&bev_ops::nms_rotated));
  m.impl("nms_circle", TORCH_BOX(&bev_ops::nms_circle));
}
