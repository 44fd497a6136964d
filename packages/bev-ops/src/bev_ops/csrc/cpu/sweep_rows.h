// Feature maps as rows of channels, for stereo matching on the CPU.
//
// Channels belong to groups of four neighbours, and a row is cut into runs of 64, 32 or 16 channels. A run begins with
// the first channels of its groups, then come their second ones, and so on: its four quarters added up as vectors are
// the sums of all its groups. Channels that fill the last run are zeros.
#pragma once

#include "../tensors.h"
#include "vectors.h"

#include <algorithm>
#include <type_traits>

namespace bev_ops {

constexpr int kGroup = 4;  // channels that the published code compares together
constexpr int kLongRun = 64, kShortRun = 16;
constexpr int kTransposed = 16;  // channels and pixels that are transposed together: a cache line of float32

struct SweepShape {
  int64_t images, channels, height, width, depths;

  int64_t stride() const { return (channels + kShortRun - 1) / kShortRun * kShortRun; }  // of rows
  int64_t pixels() const { return height * width; }
  int64_t bordered_width() const { return width + 2; }
  int64_t bordered_rows() const { return (height + 2) * bordered_width(); }
};

// Calls work(first channel, number of groups as a std::integral_constant) for every run of a row.
template <typename Work>
inline void for_each_run(int64_t stride, const Work& work) {
  int64_t channel = 0;
  for (; channel + kLongRun <= stride; channel += kLongRun) {
    work(channel, std::integral_constant<int, kLongRun / kGroup>());
  }
  if (channel + kLongRun / 2 <= stride) {
    work(channel, std::integral_constant<int, kLongRun / 2 / kGroup>());
    channel += kLongRun / 2;
  }
  if (channel < stride) {
    work(channel, std::integral_constant<int, kShortRun / kGroup>());
  }
}

// Where the first channel of the last group stands.
inline int64_t last_group(const SweepShape& shape) {
  int64_t place = 0;
  for_each_run(shape.stride(), [&](int64_t run, auto) { place = run + (shape.channels - run) / kGroup - 1; });
  return place;
}

// Features (M, C, H, W) of any of the supported types, plain or channels-last.
struct Features {
  Tensor storage;
  int64_t image, channel, pixel;  // strides

  template <typename T>
  const T* at(int64_t m, int64_t p) const {
    return static_cast<const T*>(storage.data_ptr()) + m * image + p * pixel;
  }
};

inline Features features_of(const Tensor& tensor) {
  const bool as_rows = is_channels_last(tensor, 1);
  const Tensor storage = as_rows ? tensor : torch::stable::contiguous(tensor);
  const int64_t channels = tensor.size(1), pixels = tensor.size(2) * tensor.size(3);
  return {storage, channels * pixels, as_rows ? 1 : pixels, as_rows ? channels : 1};
}

// kTransposed channels of `count` neighbouring pixels; a square at a time, so that whole cache lines are read and
// written.
template <typename T>
inline void transpose(const T* source, int64_t channel_stride, int64_t count, int64_t row_stride, float* rows) {
  int64_t first = 0;
  for (; first + kTransposed <= count; first += kTransposed) {
    for (int c = 0; c < kTransposed; ++c) {
      for (int i = 0; i < kTransposed; ++i) {
        rows[(first + i) * row_stride + c] = static_cast<float>(source[c * channel_stride + first + i]);
      }
    }
  }
  for (; first < count; ++first) {
    for (int c = 0; c < kTransposed; ++c) {
      rows[first * row_stride + c] = static_cast<float>(source[c * channel_stride + first]);
    }
  }
}

// Channels in their order -> first channels of the groups, second ones, ...
template <int Groups>
inline void sort_run(float* run) {
  float sorted[kGroup * Groups];
#pragma GCC unroll 4
  for (int group = 0; group < Groups; group += 4) {
    const float* const from = run + kGroup * group;
    Four a = load<Four>(from), b = load<Four>(from + 4), c = load<Four>(from + 8), d = load<Four>(from + 12);
    transpose(a, b, c, d);
    store(a, sorted + group);
    store(b, sorted + Groups + group);
    store(c, sorted + 2 * Groups + group);
    store(d, sorted + 3 * Groups + group);
  }
  std::memcpy(run, sorted, sizeof(sorted));
}

// `count` neighbouring pixels as float32 rows.
template <typename T>
inline void copy_rows(const Features& from, int64_t image, int64_t first, int64_t count, const SweepShape& shape,
                      float* to) {
  const T* source = from.at<T>(image, first);
  const int64_t stride = shape.stride();
  int64_t channel = 0;
  for (; from.channel != 1 && channel + kTransposed <= shape.channels; channel += kTransposed) {
    transpose(source + channel * from.channel, from.channel, count, stride, to + channel);
  }
  for (int64_t i = 0; i < count; ++i) {
    float* const row = to + i * stride;
    for (int64_t c = channel; c < shape.channels; ++c) {
      row[c] = static_cast<float>(source[i * from.pixel + c * from.channel]);
    }
    std::fill(row + shape.channels, row + stride, 0.0f);
    for_each_run(stride, [&](int64_t run, auto groups) { sort_run<groups>(row + run); });
  }
}

// The previous map of one image with a border of zeros.
template <typename T>
inline void border_map(const Features& from, int64_t image, const SweepShape& shape, float* to) {
  const int64_t stride = shape.stride(), line = shape.bordered_width() * stride;
  torch::stable::parallel_for(0, shape.height + 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = to + row * line;
      if (row == 0 || row == shape.height + 1) {
        std::fill(target, target + line, 0.0f);
        continue;
      }
      std::fill(target, target + stride, 0.0f);
      std::fill(target + line - stride, target + line, 0.0f);
      copy_rows<T>(from, image, (row - 1) * shape.width, shape.width, shape, target + stride);
    }
  });
}

}  // namespace bev_ops
