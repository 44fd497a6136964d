// Operators of rotated overlap and greedy suppression on CUDA devices.
#include "../nms_limits.h"
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

template <typename T>
NmsRules<T> rules_of(const NmsLimits& limits, int64_t count) {
  STD_TORCH_CHECK(count <= kMostRules, "at most ", kMostRules, " rules fit one launch, got ", count);
  NmsRules<T> rules{};
  rules.count = static_cast<int>(count);
  for (int64_t i = 0; i < count; ++i) {
    rules.rules[i] = limits.rule<T>(i);
  }
  return rules;
}

template <typename T>
void suppress(const Tensor& boxes, const Tensor& valid, const NmsLimits& limits, const Tensor& keep) {
  const int64_t groups = boxes.size(0) * boxes.size(1), count = boxes.size(2), words = (count + kWord - 1) / kWord;
  if (groups * count == 0) {
    return;
  }
  const size_t shared_bytes = words * sizeof(unsigned long long);
  STD_TORCH_CHECK(shared_bytes <= 46 * 1024, "too many candidates for suppression: ", count);
  STD_TORCH_CHECK(groups <= UINT16_MAX, "too many groups for suppression: ", groups);
  const NmsRules<T> rules = rules_of<T>(limits, boxes.size(1));
  const Tensor bits = empty_on(boxes, {groups * count * words}, ScalarType::Long);
  const cudaStream_t stream = current_stream(boxes);
  const unsigned tiles = static_cast<unsigned>(words), all = static_cast<unsigned>(groups);
  fill_suppression<T><<<dim3(tiles, tiles, all), kTileThreads, 0, stream>>>(
      const_data<T>(boxes), const_data<bool>(valid), count, rules, data<unsigned long long>(bits));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  keep_greedily<T><<<all, kGreedyThreads, shared_bytes, stream>>>(
      const_data<unsigned long long>(bits), const_data<bool>(valid), count, static_cast<int>(words), rules,
      data<bool>(keep));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor nms_batched(const Tensor& boxes, const Tensor& valid, std::vector<double> overlaps, std::vector<double> radii,
                   std::vector<int64_t> most) {
  const NmsLimits limits{overlaps, radii, most};
  limits.check(boxes, valid);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor source = torch::stable::contiguous(boxes), may_stay = torch::stable::contiguous(valid);
  const Tensor keep = empty_on(source, {source.size(0), source.size(1), source.size(2)}, ScalarType::Bool);
  (source.scalar_type() == ScalarType::Double ? suppress<double> : suppress<float>)(source, may_stay, limits, keep);
  return keep;
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) {
  m.impl("iou_rotated", TORCH_BOX(&bev_ops::iou_rotated));
  m.impl("nms_batched", TORCH_BOX(&bev_ops::nms_batched));
}
