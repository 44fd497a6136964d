// The greatest numbers of every row, on the CPU.
#include "../tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

namespace bev_ops {
namespace {

// A number and its place as one integer, greater for a better number and, of equal ones, for a smaller place.
using Key = uint64_t;

Key key_of(float value, int64_t index) {
  const float number = value + 0.0f;  // one zero
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  const uint32_t rank = std::isnan(value) ? UINT32_MAX : bits >> 31 ? ~bits : bits | 1u << 31;
  return static_cast<Key>(rank) << 32 | ~static_cast<uint32_t>(index);
}

int64_t index_of(Key key) { return ~static_cast<uint32_t>(key); }

// Buffers of one thread.
struct Scratch {
  std::vector<float> maxima;
  std::vector<Key> found;
};

// A number that at least `count` of the row reach: the row is folded into a few times as many columns, and the greatest
// of every column compete.
float lower_bound(const float* values, int64_t length, int64_t count, std::vector<float>& maxima) {
  const int64_t columns = length / std::max<int64_t>(1, length / (4 * count));
  maxima.assign(columns, -INFINITY);
  for (int64_t first = 0; first + columns <= length; first += columns) {
    for (int64_t i = 0; i < columns; ++i) {
      maxima[i] = values[first + i] > maxima[i] ? values[first + i] : maxima[i];
    }
  }
  std::nth_element(maxima.begin(), maxima.begin() + (count - 1), maxima.end(), std::greater<float>());
  return maxima[count - 1];
}

constexpr int64_t kStride = 16;  // numbers that are compared with the bound at once

bool all_below(const float* values, float bound) {
  int reached = 0;
  for (int64_t i = 0; i < kStride; ++i) {
    reached |= !(values[i] < bound);  // NaN reaches every bound
  }
  return reached == 0;
}

void best_of_row(const float* values, int64_t length, int64_t count, Scratch& scratch, float* best, int64_t* index) {
  const float bound = lower_bound(values, length, count, scratch.maxima);
  std::vector<Key>& found = scratch.found;
  found.clear();
  for (int64_t first = 0; first < length; first += kStride) {
    const int64_t last = std::min(first + kStride, length);
    if (last - first == kStride && all_below(values + first, bound)) {
      continue;
    }
    for (int64_t i = first; i < last; ++i) {
      if (!(values[i] < bound)) {
        found.push_back(key_of(values[i], i));
      }
    }
  }
  std::nth_element(found.begin(), found.begin() + (count - 1), found.end(), std::greater<Key>());
  std::sort(found.begin(), found.begin() + count, std::greater<Key>());
  for (int64_t i = 0; i < count; ++i) {
    index[i] = index_of(found[i]);
    best[i] = values[index[i]];
  }
}

std::tuple<Tensor, Tensor> best_of_rows(const Tensor& values, int64_t count) {
  STD_TORCH_CHECK(values.scalar_type() == ScalarType::Float && values.dim() == 2, "values must be float32 (R, N)");
  const int64_t rows = values.size(0), length = values.size(1);
  STD_TORCH_CHECK(count >= 1 && count <= length, "count must lie in 1..", length, ", got ", count);
  STD_TORCH_CHECK(length <= UINT32_MAX, "rows are too long: ", length);
  const Tensor source = torch::stable::contiguous(values);
  Tensor best = empty_on(source, {rows, count}, ScalarType::Float);
  Tensor index = empty_on(source, {rows, count}, ScalarType::Long);
  const float* data = static_cast<const float*>(source.data_ptr());
  float* best_data = static_cast<float*>(best.data_ptr());
  int64_t* index_data = static_cast<int64_t*>(index.data_ptr());
  torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t row = begin; row < end; ++row) {
      best_of_row(data + row * length, length, count, scratch, best_data + row * count, index_data + row * count);
    }
  });
  return {best, index};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) { m.impl("best_of_rows", TORCH_BOX(&bev_ops::best_of_rows)); }
