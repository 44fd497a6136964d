// Runs the CUDA source of heat-map peaks on the CPU, behind a plain C function for the tests. It returns an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_emulator.h"
#include <algorithm>

#include "cuda_emulator.h"

inline int atomicMax(int* target, int value) {
  const int before = *target;
  *target = std::max(before, value);
  return before;
}

#include "cuda/peak_kernels.cuh"

extern "C" const char* emulate_peaks(int order, int64_t boxes, const bev_ops::PeakArgs* args) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    const Index3 blocks{static_cast<unsigned>(boxes), 1, 1};
    emulator::launch(blocks, bev_ops::kPeakThreads, 0, [&] { bev_ops::draw_peak(*args); });
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
