// Arguments of the batched suppression, as the operator gets them.
#pragma once

#include "nms_rule.h"
#include "tensors.h"

namespace bev_ops {

// One entry per rule; group (b, t) of the boxes follows rule t.
struct NmsLimits {
  const std::vector<double>& overlaps;
  const std::vector<double>& radii;
  const std::vector<int64_t>& most;

  void check(const Tensor& boxes, const Tensor& valid) const {
    STD_TORCH_CHECK(boxes.dim() == 4 && boxes.size(3) == 5, "boxes must be (B, T, M, 5)");
    STD_TORCH_CHECK(valid.scalar_type() == ScalarType::Bool && valid.dim() == 3 && valid.size(0) == boxes.size(0) &&
                        valid.size(1) == boxes.size(1) && valid.size(2) == boxes.size(2),
                    "valid must be bool (B, T, M), one per box");
    const size_t rules = static_cast<size_t>(boxes.size(1));
    STD_TORCH_CHECK(overlaps.size() == rules && radii.size() == rules && most.size() == rules, "there must be ", rules,
                    " rules, one per index of the second dimension of boxes");
  }

  template <typename T>
  NmsRule<T> rule(int64_t index) const {
    return {static_cast<T>(overlaps[index]), radii[index], most[index]};
  }
};

}  // namespace bev_ops
