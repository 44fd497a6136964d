// Vectors of floats of any width, and what cannot be said with the compilers' vector types alone.
#pragma once

#include "simd.h"

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

namespace bev_ops {

template <int Lanes>
struct VectorOf {
  typedef float Floats __attribute__((vector_size(Lanes * sizeof(float))));
  typedef int32_t Ints __attribute__((vector_size(Lanes * sizeof(int32_t))));
};

constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(float));
using FloatVector = VectorOf<kVectorLanes>::Floats;
using IntVector = VectorOf<kVectorLanes>::Ints;
using Four = VectorOf<4>::Floats;

template <typename Vector = FloatVector>
inline Vector load(const float* source) {
  Vector vector;
  std::memcpy(&vector, source, sizeof(vector));
  return vector;
}

template <typename Vector, typename T>
inline void store(Vector vector, T* target) {
  std::memcpy(target, &vector, sizeof(vector));
}

template <int Lanes>
inline typename VectorOf<Lanes>::Floats absolute(typename VectorOf<Lanes>::Floats vector) {
  using Vector = VectorOf<Lanes>;
  return reinterpret_cast<typename Vector::Floats>(reinterpret_cast<typename Vector::Ints>(vector) & 0x7fffffff);
}

// weight * vector + sum, rounded once; twice on processors without such an instruction. By name, because compilers fuse
// the products they like, or none.
template <typename Vector>
inline Vector fused(float weight, Vector vector, Vector sum) {
  return weight * vector + sum;
}

#if defined(__FMA__)
inline float fused(float weight, float number, float sum) { return __builtin_fmaf(weight, number, sum); }

inline Four fused(float weight, Four vector, Four sum) { return _mm_fmadd_ps(_mm_set1_ps(weight), vector, sum); }

inline VectorOf<8>::Floats fused(float weight, VectorOf<8>::Floats vector, VectorOf<8>::Floats sum) {
  return _mm256_fmadd_ps(_mm256_set1_ps(weight), vector, sum);
}
#if defined(__AVX512F__)
inline VectorOf<16>::Floats fused(float weight, VectorOf<16>::Floats vector, VectorOf<16>::Floats sum) {
  return _mm512_fmadd_ps(_mm512_set1_ps(weight), vector, sum);
}
#endif
#elif defined(__ARM_FEATURE_FMA)
inline float fused(float weight, float number, float sum) { return __builtin_fmaf(weight, number, sum); }

inline Four fused(float weight, Four vector, Four sum) {
  const auto added = reinterpret_cast<float32x4_t>(sum), scaled = reinterpret_cast<float32x4_t>(vector);
  return reinterpret_cast<Four>(vfmaq_n_f32(added, scaled, weight));
}
#endif

#if defined(__clang__)
#define BEV_OPS_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BEV_OPS_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, VectorOf<4>::Ints{__VA_ARGS__})
#endif

// Rows become columns.
inline void transpose(Four& a, Four& b, Four& c, Four& d) {
  const Four ab = BEV_OPS_SHUFFLE(a, b, 0, 4, 1, 5), cd = BEV_OPS_SHUFFLE(c, d, 0, 4, 1, 5);
  const Four later_ab = BEV_OPS_SHUFFLE(a, b, 2, 6, 3, 7), later_cd = BEV_OPS_SHUFFLE(c, d, 2, 6, 3, 7);
  a = BEV_OPS_SHUFFLE(ab, cd, 0, 1, 4, 5);
  b = BEV_OPS_SHUFFLE(ab, cd, 2, 3, 6, 7);
  c = BEV_OPS_SHUFFLE(later_ab, later_cd, 0, 1, 4, 5);
  d = BEV_OPS_SHUFFLE(later_ab, later_cd, 2, 3, 6, 7);
}

#undef BEV_OPS_SHUFFLE

}  // namespace bev_ops
