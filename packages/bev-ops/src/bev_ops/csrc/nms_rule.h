// When a kept candidate removes a worse one, shared by the CPU and the CUDA kernels.
#pragma once

#include "rotated_box.h"

namespace bev_ops {

enum class Verdict { kStays, kGoes, kUnsure };

template <typename T>
struct NmsRule {
  T overlap;       // a candidate goes if its overlap with a better one is greater
  double radius;   // or if its squared distance to a better one is at most this
  long long most;  // candidates that are kept

  // What can be said without the area of an intersection.
  BEV_OPS_HOST_DEVICE Verdict at_a_glance(const TurnedBox<T>& better, const TurnedBox<T>& worse) const {
    const T dx = better.box.x - worse.box.x, dy = better.box.y - worse.box.y;
    if (static_cast<double>(dx * dx + dy * dy) <= radius || overlap < T(0)) {
      return Verdict::kGoes;
    }
    // An overlap is at most 1; the other half of the range leaves room for its rounding.
    return overlap > T(1.5) || clearly_apart(better, worse) ? Verdict::kStays : Verdict::kUnsure;
  }

  BEV_OPS_HOST_DEVICE bool overlaps_too_much(const TurnedBox<T>& better, const TurnedBox<T>& worse) const {
    return rotated_iou(better, worse) > overlap;
  }
};

}  // namespace bev_ops
