// Blocks of work, handed to threads as they come for them: a thread on a busy core takes fewer, and nobody waits for
// its share.
#pragma once

#include <atomic>
#include <cstdint>

namespace dynams {

class Handout {
 public:
  explicit Handout(int64_t blocks) : blocks_(blocks) {}

  // The next block in ascending order, or -1 where none is left.
  int64_t next() {
    const int64_t block = next_.fetch_add(1, std::memory_order_relaxed);
    return block < blocks_ ? block : -1;
  }

  // All blocks once more; no thread may ask meanwhile.
  void restart() { next_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t blocks_;
};

}  // namespace dynams
