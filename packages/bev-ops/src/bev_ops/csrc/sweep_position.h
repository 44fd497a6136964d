// Where a feature pixel of now, at one depth, lies in the same camera's previous view; and where a cell of now lies in
// an earlier map. Shared by the CPU and the CUDA kernels.
//
// The same float32 operations, one after the other, as reference_sweep.py and reference_warp.py: the libraries are
// compiled without contraction, so no multiplication fuses with an addition.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define BEV_OPS_SWEEP_INLINE __host__ __device__ __forceinline__
#else
#define BEV_OPS_SWEEP_INLINE inline
#endif

namespace bev_ops {

constexpr float kBehind = 1e-3f;  // metres in front of the previous camera that a point must at least have (published)

// One image. Matrices lie row by row.
struct SweepCamera {
  float pixel_to_previous[9];  // raw pixel times depth -> previous camera, without the translation
  float translation[3];
  float intrinsics[9];
  float image_aug[9];
};

// Network-input pixels to feature pixels, along one axis of `count` feature pixels.
struct SweepAxis {
  float span;   // count * stride - 1
  float half;   // (count - 1) / 2
  float count;  // positions from here on see nothing, like those up to -1
};

BEV_OPS_SWEEP_INLINE SweepAxis sweep_axis(int64_t count, int64_t stride) {
  return {static_cast<float>(count * stride - 1), static_cast<float>(count - 1) / 2, static_cast<float>(count)};
}

// Numbers are float, or a vector of floats that are worked out side by side.
template <typename Numbers>
struct SweepPosition {
  Numbers x, y;  // feature pixels, within -1..count: both ends see nothing
};

// By way of -1 for the first and 1 for the last pixel (published). What is no number sees nothing.
template <typename Numbers>
BEV_OPS_SWEEP_INLINE Numbers from_normalised(Numbers scaled, const SweepAxis& axis) {
  const Numbers pixel = (scaled * 2 - 1 + 1) * axis.half, last = Numbers{} + axis.count, first = Numbers{} - 1;
  const Numbers bounded = pixel < last ? pixel : last;
  return bounded > first ? bounded : first;
}

// The raw pixel (u, v) is that before the augmentation.
template <typename Numbers>
BEV_OPS_SWEEP_INLINE SweepPosition<Numbers> sweep_position(const SweepCamera& camera, const SweepAxis& columns,
                                                           const SweepAxis& rows, float u, float v, Numbers depth) {
  const float *m = camera.pixel_to_previous, *k = camera.intrinsics, *a = camera.image_aug;
  const Numbers ud = u * depth, vd = v * depth;
  const Numbers x = m[0] * ud + m[1] * vd + m[2] * depth + camera.translation[0];
  const Numbers y = m[3] * ud + m[4] * vd + m[5] * depth + camera.translation[1];
  const Numbers z = m[6] * ud + m[7] * vd + m[8] * depth + camera.translation[2];
  const Numbers seen_u = (k[0] * x + k[1] * y + k[2] * z) / z;
  const Numbers seen_v = (k[3] * x + k[4] * y + k[5] * z) / z;
  const Numbers column = from_normalised((a[0] * seen_u + a[1] * seen_v + a[2]) / columns.span, columns);
  const Numbers row = from_normalised((a[3] * seen_u + a[4] * seen_v + a[5]) / rows.span, rows);
  const Numbers nowhere = Numbers{} - 1, limit = Numbers{} + kBehind;
  return {z < limit ? nowhere : column, z < limit ? nowhere : row};
}

}  // namespace bev_ops
