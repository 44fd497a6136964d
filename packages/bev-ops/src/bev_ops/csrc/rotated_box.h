// Overlap of rotated rectangles, shared by the CPU and the CUDA kernels.
//
// The same arithmetic, in the same order, as reference.py; see there for the idea (Green's theorem along the edges of
// one box, clamped to the other).
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define BEV_OPS_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define BEV_OPS_HOST_DEVICE inline
#endif

namespace bev_ops {

template <typename T>
struct RotatedBox {
  T x, y, length, width, yaw;  // metres, metres, metres, metres, radians
};

// A row of a contiguous (M, 5) tensor.
template <typename T>
BEV_OPS_HOST_DEVICE RotatedBox<T> box_at(const T* boxes, long long row) {
  const T* p = boxes + row * 5;
  return {p[0], p[1], p[2], p[3], p[4]};
}

template <typename T>
BEV_OPS_HOST_DEVICE T smaller(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
BEV_OPS_HOST_DEVICE T larger(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
BEV_OPS_HOST_DEVICE T clamp(T value, T low, T high) {
  return smaller(larger(value, low), high);
}

template <typename T>
struct Interval {
  T low, high;
};

// Where start + t*delta is at -half and at +half, in order of t, limited to `within`.
template <typename T>
BEV_OPS_HOST_DEVICE Interval<T> crossings(T start, T delta, T half, Interval<T> within) {
  const bool flat = delta == T(0);
  const T safe = flat ? T(1) : delta;
  const T first = flat ? T(0) : (-half - start) / safe;
  const T second = flat ? T(0) : (half - start) / safe;
  return {clamp(smaller(first, second), within.low, within.high),
          clamp(larger(first, second), within.low, within.high)};
}

// Integral of (clamp(x) - origin) d clamp(y) along the edge from (x0, y0) to (x1, y1).
template <typename T>
BEV_OPS_HOST_DEVICE T edge_integral(T x0, T y0, T x1, T y1, T half_x, T half_y, T origin) {
  const T dx = x1 - x0, dy = y1 - y0;
  const Interval<T> inside = crossings(y0, dy, half_y, Interval<T>{T(0), T(1)});
  const Interval<T> bend = crossings(x0, dx, half_x, inside);
  const T y_in = clamp(y0 + bend.low * dy, -half_y, half_y);
  const T y_out = clamp(y0 + bend.high * dy, -half_y, half_y);
  const T x_enter = clamp(x0 + inside.low * dx, -half_x, half_x) - origin;
  const T x_leave = clamp(x0 + inside.high * dx, -half_x, half_x) - origin;
  const T x_in = clamp(x0 + bend.low * dx, -half_x, half_x) - origin;
  const T x_out = clamp(x0 + bend.high * dx, -half_x, half_x) - origin;
  const T first = x_enter * (y_in - clamp(y0, -half_y, half_y));
  const T middle = (x_in + x_out) * T(0.5) * (y_out - y_in);
  return first + middle + x_leave * (clamp(y1, -half_y, half_y) - y_out);
}

// A box with what its pairs share.
template <typename T>
struct TurnedBox {
  RotatedBox<T> box;
  T cos_yaw, sin_yaw;
  T reach;  // radius of the circle around it
};

template <typename T>
BEV_OPS_HOST_DEVICE TurnedBox<T> turned(const RotatedBox<T>& box) {
  return {box, std::cos(box.yaw), std::sin(box.yaw), std::hypot(box.length, box.width) / T(2)};
}

// The centre of a as b sees it.
template <typename T>
struct Position {
  T x, y;
};

template <typename T>
BEV_OPS_HOST_DEVICE Position<T> position_in(const TurnedBox<T>& b, const RotatedBox<T>& a) {
  const T dx = a.x - b.box.x, dy = a.y - b.box.y;
  return {dx * b.cos_yaw + dy * b.sin_yaw, dy * b.cos_yaw - dx * b.sin_yaw};
}

// True only for boxes whose overlap is zero to the last bit: the circle around a lies beyond a side of b, so that every
// corner of a is clamped to that side, with a margin far above the rounding of the corners.
template <typename T>
BEV_OPS_HOST_DEVICE bool clearly_apart(const TurnedBox<T>& a, const TurnedBox<T>& b) {
  const Position<T> center = position_in(b, a.box);
  const T margin = T(1.001), half = T(0.5);
  return std::fabs(center.x) > margin * (half * std::fabs(b.box.length) + a.reach) ||
         std::fabs(center.y) > margin * (half * std::fabs(b.box.width) + a.reach);
}

template <typename T>
BEV_OPS_HOST_DEVICE T intersection_area(const RotatedBox<T>& a, const TurnedBox<T>& turned_b) {
  const RotatedBox<T>& b = turned_b.box;
  const T half_x = b.length / T(2), half_y = b.width / T(2);
  const Position<T> center = position_in(turned_b, a);
  const T center_x = center.x, center_y = center.y;
  const T turn = a.yaw - b.yaw;
  const T cos_turn = std::cos(turn), sin_turn = std::sin(turn);
  const T along_x = cos_turn * (a.length / T(2)), along_y = sin_turn * (a.length / T(2));
  const T across_x = -sin_turn * (a.width / T(2)), across_y = cos_turn * (a.width / T(2));
  // Corners of a, counter-clockwise.
  const T xs[4] = {center_x + along_x + across_x, center_x - along_x + across_x, center_x - along_x - across_x,
                   center_x + along_x - across_x};
  const T ys[4] = {center_y + along_y + across_y, center_y - along_y + across_y, center_y - along_y - across_y,
                   center_y + along_y - across_y};
  const T origin = clamp(center_x, -half_x, half_x);
  return (edge_integral(xs[3], ys[3], xs[0], ys[0], half_x, half_y, origin) +
          edge_integral(xs[0], ys[0], xs[1], ys[1], half_x, half_y, origin)) +
         (edge_integral(xs[1], ys[1], xs[2], ys[2], half_x, half_y, origin) +
          edge_integral(xs[2], ys[2], xs[3], ys[3], half_x, half_y, origin));
}

// A box without area, or with a value that is not finite, overlaps nothing.
template <typename T>
BEV_OPS_HOST_DEVICE T rotated_iou(const TurnedBox<T>& a, const TurnedBox<T>& b) {
  const T area_a = larger(a.box.length, T(0)) * larger(a.box.width, T(0));
  const T area_b = larger(b.box.length, T(0)) * larger(b.box.width, T(0));
  if (!(area_a > T(0) && area_b > T(0)) || clearly_apart(a, b)) {
    return T(0);
  }
  const T shared = smaller(smaller(larger(intersection_area(a.box, b), T(0)), area_a), area_b);
  const T iou = shared / (area_a + area_b - shared);
  return shared > T(0) && iou > T(0) ? iou : T(0);
}

}  // namespace bev_ops
