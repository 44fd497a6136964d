// Runs the CUDA kernels of overlap and suppression on the CPU, behind plain C functions for the tests. Every function
// returns an empty string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_votes.h"
#include <algorithm>

#include "cuda/nms_kernels.cuh"

namespace {

struct NmsSizes {
  int64_t samples, rules, count;
};

template <typename T>
void suppress(const NmsSizes& sizes, const T* boxes, const bool* valid, const double* overlaps, const double* radii,
              const int64_t* most, bool* keep) {
  using bev_ops::kWord;
  const unsigned words = static_cast<unsigned>((sizes.count + kWord - 1) / kWord);
  const unsigned groups = static_cast<unsigned>(sizes.samples * sizes.rules);
  bev_ops::NmsRules<T> rules{};
  rules.count = static_cast<int>(sizes.rules);
  for (int64_t i = 0; i < sizes.rules; ++i) {
    rules.rules[i] = {static_cast<T>(overlaps[i]), radii[i], most[i]};
  }
  std::vector<unsigned long long> bits(groups * sizes.count * words, ~0ull);
  emulator::launch({words, words, groups}, bev_ops::kTileThreads, 0,
                   [&] { bev_ops::fill_suppression(boxes, valid, sizes.count, rules, bits.data()); });
  emulator::launch({groups, 1, 1}, bev_ops::kGreedyThreads, words * sizeof(bits[0]), [&] {
    bev_ops::keep_greedily(bits.data(), valid, sizes.count, static_cast<int>(words), rules, keep);
  });
}

template <typename Body>
const char* guarded(int order, const Body& body) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    body();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

}  // namespace

extern "C" {

const char* emulate_nms_float(int order, const NmsSizes* sizes, const float* boxes, const bool* valid,
                              const double* overlaps, const double* radii, const int64_t* most, bool* keep) {
  return guarded(order, [&] { suppress(*sizes, boxes, valid, overlaps, radii, most, keep); });
}

const char* emulate_nms_double(int order, const NmsSizes* sizes, const double* boxes, const bool* valid,
                               const double* overlaps, const double* radii, const int64_t* most, bool* keep) {
  return guarded(order, [&] { suppress(*sizes, boxes, valid, overlaps, radii, most, keep); });
}

const char* emulate_iou(int order, const float* boxes_a, const float* boxes_b, int64_t rows, int64_t columns,
                        float* iou) {
  const unsigned blocks = static_cast<unsigned>((rows * columns + bev_ops::kPairThreads - 1) / bev_ops::kPairThreads);
  return guarded(order, [&] {
    emulator::launch({blocks, 1, 1}, bev_ops::kPairThreads, 0,
                     [&] { bev_ops::fill_iou(boxes_a, boxes_b, rows, columns, iou); });
  });
}

}  // extern "C"
