// The kinds of score as bits of a request mask; dynams_kernels/_kinds.py holds the same order.
#pragma once

#include <cstdint>

namespace dynams {

enum Kind : uint32_t {
  kGap = 1u << 0,
  kProbability = 1u << 1,
  kDistance = 1u << 2,
  kLabel = 1u << 3,
  kLoss = 1u << 4,
  kEl2n = 1u << 5,
  kEntropy = 1u << 6,
  kConfidence = 1u << 7,
  // No score, but what gradients are made of: asked of a linear head alone.
  kLogsumexp = 1u << 8,
};

constexpr uint32_t kSoftmaxKinds = kProbability | kLoss | kEl2n | kEntropy | kConfidence | kLogsumexp;
constexpr uint32_t kLabelledKinds = kLabel | kLoss | kEl2n;
constexpr uint32_t kAllKinds = (1u << 8) - 1;
constexpr uint32_t kLinearKinds = kAllKinds | kLogsumexp;

// Element types of inputs, in the order the bindings number them.
enum class DType : int32_t { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

}  // namespace dynams
