// Helpers over PyTorch's stable C++ ABI that the CPU and the CUDA kernels share.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace bev_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor empty_on(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

// Sizes of one pooling call.
struct PoolShape {
  int64_t samples, cameras, bins, channels, height, width;  // B, N, D, C, h, w
  int64_t cells_per_sample;                                 // Z * Y * X

  int64_t pixels_per_image() const { return height * width; }
  int64_t images() const { return samples * cameras; }
  int64_t pixels() const { return images() * pixels_per_image(); }
  int64_t columns() const { return images() * bins * width; }
  int64_t cells() const { return samples * cells_per_sample; }
};

inline PoolShape pool_shape(const Tensor& depth, const Tensor& context, int64_t cells_per_sample) {
  STD_TORCH_CHECK(depth.dim() == 5 && context.dim() == 5, "depth and context must have 5 dimensions");
  STD_TORCH_CHECK(depth.scalar_type() == context.scalar_type(), "depth and context must have one type");
  STD_TORCH_CHECK(depth.size(0) == context.size(0) && depth.size(1) == context.size(1) &&
                      depth.size(3) == context.size(3) && depth.size(4) == context.size(4),
                  "depth (B, N, D, h, w) and context (B, N, C, h, w) must agree in B, N, h and w");
  return {depth.size(0), depth.size(1), depth.size(2),   context.size(2),
          depth.size(3), depth.size(4), cells_per_sample};
}

inline void check_table(const Tensor& table, int64_t numel, const char* name) {
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Int && table.is_contiguous(), name,
                  " must be a contiguous int32 table");
  STD_TORCH_CHECK(table.numel() == numel, name, " must have ", numel, " entries, got ", table.numel());
}

// Samples of a plan, whose points have the shape of depth: as many as depth has, or one that serves them all.
inline int64_t plan_samples(const PoolShape& shape, const Tensor& cell_of_point) {
  const int64_t samples = cell_of_point.dim() == 5 ? cell_of_point.size(0) : -1;
  STD_TORCH_CHECK(samples == shape.samples || samples == 1, "cell_of_point (B or 1, N, D, h, w) must be of ",
                  shape.samples, " samples or of one, got ", samples);
  check_table(cell_of_point, samples * shape.cameras * shape.bins * shape.pixels_per_image(), "cell_of_point");
  return samples;
}

inline void check_tables(const PoolShape& shape, int64_t samples, const Tensor& entry_start, const Tensor& entries,
                         const Tensor& column_runs) {
  const int64_t columns = samples * shape.cameras * shape.bins * shape.width;
  check_table(entry_start, 2 * samples * shape.cells_per_sample + 1, "entry_start");
  check_table(column_runs, columns, "column_runs");
  check_table(entries, columns * (shape.height + 1), "entries");
}

// Length of the list of long cells; see reference.py.
inline int64_t long_cell_slots(int64_t num_points, int64_t long_cell) { return num_points / (long_cell + 1) + 2; }

// Memory for the result of pooling: (B, C, Z, Y, X), contiguous or with the channels innermost.
inline Tensor pooled_like(const Tensor& context, const std::vector<int64_t>& grid_size, bool channels_last,
                          ScalarType dtype) {
  const int64_t samples = context.size(0), channels = context.size(2);
  if (!channels_last) {
    return empty_on(context, {samples, channels, grid_size[2], grid_size[1], grid_size[0]}, dtype);
  }
  const Tensor memory = empty_on(context, {samples, grid_size[2], grid_size[1], grid_size[0], channels}, dtype);
  return torch::stable::transpose(torch::stable::transpose(torch::stable::transpose(memory, 3, 4), 2, 3), 1, 2);
}

inline bool is_channels_last(const Tensor& t, int64_t channel_dim) {
  // Walks the dimensions from the innermost of (outer..., inner..., C) outwards. Dimensions of size 1 have any stride.
  int64_t expected = 1;
  const auto step = [&](int64_t dim) {
    const bool fits = t.size(dim) == 1 || t.stride(dim) == expected;
    expected *= t.size(dim);
    return fits;
  };
  if (!step(channel_dim)) {
    return false;
  }
  for (int64_t dim = t.dim() - 1; dim >= 0; --dim) {
    if (dim != channel_dim && !step(dim)) {
      return false;
    }
  }
  return true;
}

}  // namespace bev_ops
