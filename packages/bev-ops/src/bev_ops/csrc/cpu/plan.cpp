// Plan building on the CPU: a stable counting sort of the frustum points by cell.
#include "../tensors.h"

#include <algorithm>
#include <array>

namespace bev_ops {
namespace {

struct Grid {
  std::array<float, 3> lower, step, size;
  int64_t x, y, z;

  int64_t cells() const { return x * y * z; }

  // Cell of a point within its sample, -1 if it is outside. Truncates toward zero: (-1, 0) belongs to index 0.
  int32_t cell_of(const float* point) const {
    std::array<int64_t, 3> index;
    for (int axis = 0; axis < 3; ++axis) {
      const float position = (point[axis] - lower[axis]) / step[axis];
      if (!(position > -1.0f && position < size[axis])) {
        return -1;
      }
      index[axis] = static_cast<int64_t>(position);
    }
    return static_cast<int32_t>((index[2] * y + index[1]) * x + index[0]);
  }
};

struct PlanTables {
  int32_t* cell_start;
  int32_t* point_depth;
  int32_t* point_pixel;
  int32_t* cell_of_point;
};

void find_cells(const float* points, int64_t count, int64_t points_per_sample, const Grid& grid, int32_t* cell) {
  torch::stable::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int32_t local = grid.cell_of(points + 3 * p);
      cell[p] = local < 0 ? -1 : static_cast<int32_t>(p / points_per_sample * grid.cells() + local);
    }
  });
}

void count_cells(int64_t count, int64_t num_cells, const PlanTables& tables) {
  std::fill(tables.cell_start, tables.cell_start + num_cells + 1, 0);
  for (int64_t p = 0; p < count; ++p) {
    if (tables.cell_of_point[p] >= 0) {
      ++tables.cell_start[tables.cell_of_point[p] + 1];
    }
  }
  for (int64_t cell = 0; cell < num_cells; ++cell) {
    tables.cell_start[cell + 1] += tables.cell_start[cell];
  }
}

void sort_points(int64_t images, int64_t bins, int64_t pixels, int64_t num_cells, const PlanTables& tables) {
  std::vector<int32_t> next(tables.cell_start, tables.cell_start + num_cells + 1);
  for (int64_t image = 0, p = 0; image < images; ++image) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t pixel = 0; pixel < pixels; ++pixel, ++p) {
        const int32_t cell = tables.cell_of_point[p];
        const int32_t slot = next[cell < 0 ? num_cells : cell]++;
        tables.point_depth[slot] = static_cast<int32_t>(p);
        tables.point_pixel[slot] = static_cast<int32_t>(image * pixels + pixel);
      }
    }
  }
}

void list_long_cells(const int32_t* cell_start, int64_t num_cells, int64_t long_cell, int32_t* list, int64_t slots) {
  int64_t used = 0;
  for (int64_t cell = 0; cell < num_cells; ++cell) {
    if (cell_start[cell + 1] - cell_start[cell] > long_cell) {
      list[used++] = static_cast<int32_t>(cell);
    }
  }
  std::fill(list + used, list + slots, -1);
}

int32_t* data_of(const Tensor& table) { return static_cast<int32_t*>(table.data_ptr()); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pool_plan(const Tensor& points, std::vector<double> lower,
                                                             std::vector<double> step, std::vector<int64_t> size,
                                                             int64_t long_cell) {
  STD_TORCH_CHECK(points.dim() == 6 && points.scalar_type() == ScalarType::Float, "points must be float32 with 6 dims");
  Grid grid{{}, {}, {}, size[0], size[1], size[2]};
  for (int axis = 0; axis < 3; ++axis) {
    grid.lower[axis] = static_cast<float>(lower[axis]);
    grid.step[axis] = static_cast<float>(step[axis]);
    grid.size[axis] = static_cast<float>(size[axis]);
  }
  const int64_t samples = points.size(0), images = samples * points.size(1), bins = points.size(2);
  const int64_t pixels = points.size(3) * points.size(4), count = images * bins * pixels;
  const int64_t num_cells = samples * grid.cells(), slots = long_cell_slots(count, long_cell);
  const auto table = [&](std::vector<int64_t> shape) { return empty_on(points, shape, ScalarType::Int); };
  const Tensor start = table({num_cells + 1}), depth = table({count}), pixel = table({count}), crowded = table({slots});
  const Tensor cells = table({samples, points.size(1), bins, points.size(3), points.size(4)});
  const PlanTables tables{data_of(start), data_of(depth), data_of(pixel), data_of(cells)};
  const Tensor source = torch::stable::contiguous(points);
  const int64_t points_per_sample = std::max<int64_t>(1, samples == 0 ? 1 : count / samples);
  find_cells(static_cast<const float*>(source.data_ptr()), count, points_per_sample, grid, tables.cell_of_point);
  count_cells(count, num_cells, tables);
  sort_points(images, bins, pixels, num_cells, tables);
  list_long_cells(tables.cell_start, num_cells, long_cell, data_of(crowded), slots);
  return {start, depth, pixel, crowded, cells};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) { m.impl("pool_plan", TORCH_BOX(&bev_ops::pool_plan)); }
