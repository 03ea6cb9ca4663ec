// Memory for kernels on the host that tells whether they wrote past its ends.
#pragma once

#include <cstdint>
#include <vector>

#include "sanitized.h"

// Full of NaN, between two guards where no sanitizer knows its ends.
struct Guarded {
  static constexpr size_t kGuard = host_cuda::kSanitized ? 0 : 64;
  explicit Guarded(int64_t size) : bytes(static_cast<size_t>(size) + 2 * kGuard, 0xff) {}
  void* data() { return bytes.data() + kGuard; }
  std::vector<unsigned char> contents() const { return {bytes.begin() + kGuard, bytes.end() - kGuard}; }
  bool is_overrun() const {
    for (size_t i = 0; i < kGuard; ++i)
      if (bytes[i] != 0xff || bytes[bytes.size() - 1 - i] != 0xff) return true;
    return false;
  }
  std::vector<unsigned char> bytes;
};
