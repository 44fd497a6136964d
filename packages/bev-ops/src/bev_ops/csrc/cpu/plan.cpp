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
  int32_t* entry_start;
  int32_t* entries;
  int32_t* column_runs;
  int32_t* cell_of_point;
};

// Which columns and points are entries: the cell of a column's run, cells + cell of a point by itself, 2 * cells of all
// others; first those of every column, then those of every point.
struct Keys {
  std::vector<int32_t> values;
  int64_t columns, cells;
  int32_t nowhere() const { return static_cast<int32_t>(2 * cells); }
};

struct Rows {
  int64_t first, end;
};

void find_cells(const float* points, int64_t count, int64_t points_per_sample, const Grid& grid, int32_t* cell) {
  torch::stable::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int32_t local = grid.cell_of(points + 3 * p);
      cell[p] = local < 0 ? -1 : static_cast<int32_t>(p / points_per_sample * grid.cells() + local);
    }
  });
}

// Rows of the longest stretch of points of one cell down a column, the topmost of equals; none if too short.
Rows longest_run(const int32_t* cell_of_point, int64_t height, int64_t width, int64_t min_run) {
  Rows best{0, 0};
  int64_t start = 0;
  int32_t before = -1;
  for (int64_t row = 0; row < height; ++row) {
    const int32_t cell = cell_of_point[row * width];
    start = cell == before ? start : row;
    before = cell;
    if (cell >= 0 && row + 1 - start > best.end - best.first) {
      best = {start, row + 1};
    }
  }
  return best.end - best.first < min_run ? Rows{0, 0} : best;
}

void find_runs(int64_t column, int64_t height, int64_t width, int64_t min_run, const PlanTables& tables, Keys& keys) {
  const int64_t first = column / width * height * width + column % width;
  const int32_t* cell_of_point = tables.cell_of_point + first;
  const Rows run = longest_run(cell_of_point, height, width, min_run);
  tables.column_runs[column] = static_cast<int32_t>(run.first | run.end << 16);
  keys.values[column] = run.end == 0 ? keys.nowhere() : cell_of_point[run.first * width];
  for (int64_t row = 0; row < height; ++row) {
    const int32_t cell = cell_of_point[row * width];
    const bool alone = cell >= 0 && (row < run.first || row >= run.end);
    keys.values[keys.columns + first + row * width] = alone ? static_cast<int32_t>(keys.cells + cell) : keys.nowhere();
  }
}

void count_entries(const Keys& keys, int32_t* entry_start) {
  std::fill(entry_start, entry_start + 2 * keys.cells + 1, 0);
  for (const int32_t key : keys.values) {
    if (key != keys.nowhere()) {
      ++entry_start[key + 1];
    }
  }
  for (int64_t key = 0; key < 2 * keys.cells; ++key) {
    entry_start[key + 1] += entry_start[key];
  }
}

void sort_entries(const Keys& keys, const PlanTables& tables) {
  std::vector<int32_t> next(tables.entry_start, tables.entry_start + 2 * keys.cells + 1);
  const auto count = static_cast<int64_t>(keys.values.size());
  for (int64_t i = 0; i < count; ++i) {
    tables.entries[next[keys.values[i]]++] = static_cast<int32_t>(i < keys.columns ? i : i - keys.columns);
  }
}

void list_long_cells(const int32_t* entry_start, int64_t cells, int64_t long_cell, int32_t* list, int64_t slots) {
  int64_t used = 0;
  for (int64_t cell = 0; cell < cells; ++cell) {
    const int64_t runs = entry_start[cell + 1] - entry_start[cell];
    if (runs + entry_start[cells + cell + 1] - entry_start[cells + cell] > long_cell) {
      list[used++] = static_cast<int32_t>(cell);
    }
  }
  std::fill(list + used, list + slots, -1);
}

int32_t* data_of(const Tensor& table) { return static_cast<int32_t*>(table.data_ptr()); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pool_plan(const Tensor& points, std::vector<double> lower,
                                                             std::vector<double> step, std::vector<int64_t> size,
                                                             int64_t long_cell, int64_t min_run) {
  STD_TORCH_CHECK(points.dim() == 6 && points.scalar_type() == ScalarType::Float, "points must be float32 with 6 dims");
  Grid grid{{}, {}, {}, size[0], size[1], size[2]};
  for (int axis = 0; axis < 3; ++axis) {
    grid.lower[axis] = static_cast<float>(lower[axis]);
    grid.step[axis] = static_cast<float>(step[axis]);
    grid.size[axis] = static_cast<float>(size[axis]);
  }
  const int64_t samples = points.size(0), height = points.size(3), width = points.size(4);
  STD_TORCH_CHECK(height < 32768, "a plan takes fewer than 32768 feature rows, got ", height);
  const int64_t count = points.numel() / 3, columns = count == 0 ? 0 : count / height, cells = samples * grid.cells();
  const std::vector<int64_t> shape = {samples, points.size(1), points.size(2), height, width};
  const auto table = [&](std::vector<int64_t> sizes) { return empty_on(points, sizes, ScalarType::Int); };
  const Tensor start = table({2 * cells + 1}), entries = table({columns + count});
  const Tensor runs = table({shape[0], shape[1], shape[2], width}), cell_of_point = table(shape);
  const Tensor crowded = table({long_cell_slots(columns + count, long_cell)});
  const PlanTables tables{data_of(start), data_of(entries), data_of(runs), data_of(cell_of_point)};
  const Tensor source = torch::stable::contiguous(points);
  find_cells(static_cast<const float*>(source.data_ptr()), count, count == 0 ? 1 : count / samples, grid,
             tables.cell_of_point);
  Keys keys{std::vector<int32_t>(columns + count), columns, cells};
  torch::stable::parallel_for(0, columns, 256, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      find_runs(column, height, width, min_run, tables, keys);
    }
  });
  count_entries(keys, tables.entry_start);
  sort_entries(keys, tables);
  list_long_cells(tables.entry_start, cells, long_cell, data_of(crowded), crowded.numel());
  return {start, entries, runs, crowded, cell_of_point};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) { m.impl("pool_plan", TORCH_BOX(&bev_ops::pool_plan)); }
