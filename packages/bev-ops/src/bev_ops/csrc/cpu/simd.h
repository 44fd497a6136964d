// Blocks of channels held in SIMD registers.
//
// Written with the vector types of GCC and Clang, so that sums stay in registers at any optimisation the compiler picks
// for the loop around them, and for any instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(__GNUC__) && !defined(__clang__)
#error "the CPU kernels need GCC or Clang; without them bev_ops runs its plain-PyTorch path"
#endif

namespace bev_ops {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// `Width` neighbouring numbers, a multiple of 16.
template <typename T, int Width>
class Simd {
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int kCount = Width / kLanes;
  typedef T Vector __attribute__((vector_size(kVectorBytes)));

  Vector vectors_[kCount];

 public:
  static Simd zero() {
    Simd result;
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      result.vectors_[i] = Vector{};
    }
    return result;
  }

  static Simd load(const T* source) {
    Simd result;
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      std::memcpy(&result.vectors_[i], source + i * kLanes, kVectorBytes);
    }
    return result;
  }

  void store(T* target) const {
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      std::memcpy(target + i * kLanes, &vectors_[i], kVectorBytes);
    }
  }

  void add(const Simd& other) {
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      vectors_[i] += other.vectors_[i];
    }
  }

  // this += weight * other
  void add_scaled(T weight, const Simd& other) {
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      vectors_[i] += weight * other.vectors_[i];
    }
  }

  T dot(const Simd& other) const {
    Vector sum = vectors_[0] * other.vectors_[0];
#pragma GCC unroll 32
    for (int i = 1; i < kCount; ++i) {
      sum += vectors_[i] * other.vectors_[i];
    }
    T lanes[kLanes];
    std::memcpy(lanes, &sum, kVectorBytes);
#pragma GCC unroll 8
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) {
        lanes[lane] += lanes[lane + half];
      }
    }
    return lanes[0];
  }
};

}  // namespace bev_ops
