// Rotated overlap and greedy suppression on the CPU.
#include "../nms_limits.h"

#include <algorithm>

namespace bev_ops {
namespace {

template <typename T>
std::vector<TurnedBox<T>> turned_boxes(const Tensor& boxes) {
  const T* data = static_cast<const T*>(boxes.data_ptr());
  std::vector<TurnedBox<T>> result(boxes.size(0));
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] = turned(box_at(data, i));
  }
  return result;
}

template <typename T>
void fill_iou(const Tensor& boxes_a, const Tensor& boxes_b, const Tensor& out) {
  const std::vector<TurnedBox<T>> a = turned_boxes<T>(boxes_a), b = turned_boxes<T>(boxes_b);
  T* iou = static_cast<T*>(out.data_ptr());
  const int64_t columns = boxes_b.size(0);
  torch::stable::parallel_for(0, boxes_a.size(0), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        iou[i * columns + j] = rotated_iou(a[i], b[j]);
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

template <typename T>
struct Candidate {
  int64_t row;
  TurnedBox<T> box;
};

// One group: the best of those that are left is kept, and what it removes leaves the list.
template <typename T>
void keep_greedily(const T* boxes, const bool* valid, int64_t count, const NmsRule<T>& rule, bool* keep) {
  std::fill(keep, keep + count, false);
  std::vector<Candidate<T>> left;
  for (int64_t row = 0; row < count; ++row) {
    if (valid[row]) {
      left.push_back({row, turned(box_at(boxes, row))});
    }
  }
  auto best = left.begin(), end = left.end();
  for (long long kept = 0; best != end && kept < rule.most; ++best, ++kept) {
    keep[best->row] = true;
    end = std::remove_if(best + 1, end, [&](const Candidate<T>& other) {
      const Verdict verdict = rule.at_a_glance(best->box, other.box);
      return verdict == Verdict::kGoes ||
             (verdict == Verdict::kUnsure && rule.overlaps_too_much(best->box, other.box));
    });
  }
}

template <typename T>
void suppress(const Tensor& boxes, const Tensor& valid, const NmsLimits& limits, const Tensor& keep) {
  const int64_t count = boxes.size(2), rules = boxes.size(1);
  const T* source = static_cast<const T*>(boxes.data_ptr());
  const bool* may_stay = static_cast<const bool*>(valid.data_ptr());
  bool* result = static_cast<bool*>(keep.data_ptr());
  torch::stable::parallel_for(0, boxes.size(0) * rules, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * count;
      keep_greedily(source + 5 * first, may_stay + first, count, limits.rule<T>(group % rules), result + first);
    }
  });
}

Tensor nms_batched(const Tensor& boxes, const Tensor& valid, std::vector<double> overlaps, std::vector<double> radii,
                   std::vector<int64_t> most) {
  const NmsLimits limits{overlaps, radii, most};
  limits.check(boxes, valid);
  const Tensor source = torch::stable::contiguous(boxes), may_stay = torch::stable::contiguous(valid);
  Tensor keep = empty_on(source, {source.size(0), source.size(1), source.size(2)}, ScalarType::Bool);
  (source.scalar_type() == ScalarType::Double ? suppress<double> : suppress<float>)(source, may_stay, limits, keep);
  return keep;
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) {
  m.impl("iou_rotated", TORCH_BOX(&bev_ops::iou_rotated));
  m.impl("nms_batched", TORCH_BOX(&bev_ops::nms_batched));
}
