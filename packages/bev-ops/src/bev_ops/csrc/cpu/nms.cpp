// Rotated overlap and greedy suppression on the CPU.
#include "../rotated_box.h"
#include "../tensors.h"

#include <algorithm>

namespace bev_ops {
namespace {

template <typename T>
void fill_iou(const Tensor& boxes_a, const Tensor& boxes_b, const Tensor& out) {
  const T* a = static_cast<const T*>(boxes_a.data_ptr());
  const T* b = static_cast<const T*>(boxes_b.data_ptr());
  T* iou = static_cast<T*>(out.data_ptr());
  const int64_t columns = boxes_b.size(0);
  torch::stable::parallel_for(0, boxes_a.size(0), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        iou[i * columns + j] = rotated_iou(box_at(a, i), box_at(b, j));
      }
    }
  });
}

Tensor iou_rotated(const Tensor& boxes_a, const Tensor& boxes_b) {
  STD_TORCH_CHECK(boxes_a.scalar_type() == boxes_b.scalar_type(), "boxes must have one type");
  const Tensor a = torch::stable::contiguous(boxes_a), b = torch::stable::contiguous(boxes_b);
  Tensor out = empty_on(a, {a.size(0), b.size(0)}, a.scalar_type());
  (a.scalar_type() == ScalarType::Double ? fill_iou<double> : fill_iou<float>)(a, b, out);
  return out;
}

// Walks candidates best first; `suppresses(i, j)` says whether a kept i removes a later j.
template <typename Suppresses>
Tensor keep_greedily(const Tensor& candidates, const Suppresses& suppresses) {
  const int64_t count = candidates.size(0);
  Tensor mask = empty_on(candidates, {count}, ScalarType::Bool);
  bool* keep = static_cast<bool*>(mask.data_ptr());
  std::fill(keep, keep + count, true);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = i + 1; keep[i] && j < count; ++j) {
      keep[j] = keep[j] && !suppresses(i, j);
    }
  }
  return mask;
}

template <typename T>
Tensor suppress_rotated(const Tensor& boxes, double threshold) {
  const T* data = static_cast<const T*>(boxes.data_ptr());
  return keep_greedily(boxes, [=](int64_t i, int64_t j) {
    return rotated_iou(box_at(data, i), box_at(data, j)) > static_cast<T>(threshold);
  });
}

Tensor nms_rotated(const Tensor& boxes, double threshold) {
  const Tensor source = torch::stable::contiguous(boxes);
  return (source.scalar_type() == ScalarType::Double ? suppress_rotated<double> : suppress_rotated<float>)(source,
                                                                                                           threshold);
}

template <typename T>
Tensor suppress_circle(const Tensor& centers, double radius) {
  const T* data = static_cast<const T*>(centers.data_ptr());
  return keep_greedily(centers, [=](int64_t i, int64_t j) {
    const T dx = data[2 * i] - data[2 * j], dy = data[2 * i + 1] - data[2 * j + 1];
    return static_cast<double>(dx * dx + dy * dy) <= radius;
  });
}

Tensor nms_circle(const Tensor& centers, double radius) {
  const Tensor source = torch::stable::contiguous(centers);
  return (source.scalar_type() == ScalarType::Double ? suppress_circle<double> : suppress_circle<float>)(source,
                                                                                                         radius);
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) {
  m.impl("iou_rotated", TORCH_BOX(&bev_ops::iou_rotated));
  m.impl("nms_rotated", TORCH_BOX(&bev_ops::nms_rotated));
  m.impl("nms_circle", TORCH_BOX(&bev_ops::nms_circle));
}
