// Channel rows: (outer, C, inner) tensors as one row of channels per (outer, inner) position, padded with zeros to a
// whole number of SIMD blocks, so that the kernels read and write whole blocks for any C.
#pragma once

#include "../tensors.h"

#include <algorithm>
#include <vector>

namespace bev_ops {

constexpr int kBlock = 16;      // channels of the smallest block
constexpr int kWideBlock = 64;  // channels whose sums are held in registers at once
constexpr int64_t kTile = 16;       // neighbouring positions that are transposed together: one cache line of float32

inline int64_t padded(int64_t channels) { return (channels + kBlock - 1) / kBlock * kBlock; }

// Rows of a tensor; `storage` keeps the memory alive.
template <typename T>
struct Rows {
  Tensor storage;
  const T* data;
  int64_t stride;

  const T* row(int64_t index) const { return data + index * stride; }
};

// source: contiguous (outer, channels, inner). Also used the other way round, see `unpack_tile`.
template <typename T>
void pack_tile(const T* source, int64_t channels, int64_t inner, int64_t count, T* rows, int64_t stride) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < count; ++i) {
      rows[i * stride + c] = source[c * inner + i];
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    std::fill(rows + i * stride + channels, rows + (i + 1) * stride, T(0));
  }
}

// Writes `count` neighbouring positions of a contiguous (channels, inner) tensor from their rows.
template <typename T>
void unpack_tile(const T* rows, int64_t stride, int64_t channels, int64_t inner, int64_t count, T* target) {
  if (count == kTile) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < kTile; ++i) {
        target[c * inner + i] = rows[i * stride + c];
      }
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < count; ++i) {
      target[c * inner + i] = rows[i * stride + c];
    }
  }
}

// Channel rows of a tensor of type T whose channels stand at `channel_dim`; without a copy where memory already is so.
template <typename T>
Rows<T> channel_rows(const Tensor& tensor, int64_t channel_dim) {
  const int64_t channels = tensor.size(channel_dim);
  const int64_t stride = padded(channels);
  if (stride == channels && is_channels_last(tensor, channel_dim)) {
    return {tensor, static_cast<const T*>(tensor.data_ptr()), stride};
  }
  const Tensor source = torch::stable::contiguous(tensor);
  int64_t outer = 1;
  for (int64_t dim = 0; dim < channel_dim; ++dim) {
    outer *= tensor.size(dim);
  }
  const int64_t inner = outer * channels == 0 ? 0 : tensor.numel() / (outer * channels);
  Tensor storage = empty_on(tensor, {outer * inner, stride}, tensor.scalar_type());
  const T* from = static_cast<const T*>(source.data_ptr());
  T* to = static_cast<T*>(storage.data_ptr());
  const int64_t tiles = (inner + kTile - 1) / kTile;
  torch::stable::parallel_for(0, outer * tiles, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t o = t / tiles, i = t % tiles * kTile;
      pack_tile(from + o * channels * inner + i, channels, inner, std::min(kTile, inner - i),
                to + (o * inner + i) * stride, stride);
    }
  });
  return {storage, to, stride};
}

}  // namespace bev_ops
