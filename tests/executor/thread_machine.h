// A machine of C++ threads for the block algorithms of csrc/common: one thread for each of a GPU's, so that a thread
// sanitizer sees every race, an address sanitizer every stray access, and a barrier that not all threads reach ends the
// process. Warps are of 8 and everything is slow: it is for proofs on small inputs.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "smallest_k_block.h"

namespace executor {

class Barrier {
 public:
  explicit Barrier(uint32_t parties) : parties_(parties) {}

  // Returns what must be waited for.
  uint32_t arrive() {
    const uint32_t phase = phase_.load(std::memory_order_relaxed);  // stays until this very arrival
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == parties_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      phase_.notify_all();
    }
    return phase;
  }
  void wait(uint32_t phase) const {
    while (phase_.load(std::memory_order_acquire) == phase) phase_.wait(phase, std::memory_order_acquire);
  }
  void arrive_and_wait() { wait(arrive()); }

 private:
  const uint32_t parties_;
  std::atomic<uint32_t> arrived_{0}, phase_{0};
};

// What a kernel writes as its answer: every place may be written once only.
class Output {
 public:
  Output(const void* begin, size_t count, size_t size)
      : begin_(static_cast<const char*>(begin)), size_(size), times_(count) {}

  bool note(const void* to) {
    const ptrdiff_t offset = static_cast<const char*>(to) - begin_;
    if (begin_ == nullptr || offset < 0 || offset >= static_cast<ptrdiff_t>(times_.size() * size_)) return false;
    times_[offset / size_].fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  bool each_once() const {
    for (const auto& times : times_)
      if (times.load() != 1) return false;
    return true;
  }

 private:
  const char* begin_;
  size_t size_;
  std::vector<std::atomic<uint32_t>> times_;
};

struct Grid {
  Grid(uint32_t blocks, std::vector<Output>& outputs) : blocks(blocks), barrier(blocks), outputs(outputs) {}

  const uint32_t blocks;
  Barrier barrier;
  std::vector<Output>& outputs;
  std::atomic<uint32_t> events{0};
};

// The lanes' words of one exchange. Two are used in turn: the barrier of the next exchange parts readers from writers.
constexpr int kLanes = 8;
struct Warp {
  Barrier barrier{kLanes};
  struct Exchange {
    int operation;
    uint64_t word;
  } exchanges[2][kLanes];
};

struct Block {
  Block(uint32_t index, uint32_t threads) : index(index), barrier(threads), warps(threads / kLanes) {}

  const uint32_t index;
  Barrier barrier;
  std::vector<Warp> warps;
  uint32_t token = 0;  // of the block in the grid's barrier, kept by its first thread
};

class ThreadMachine {
 public:
  static constexpr int kWarp = kLanes;

  ThreadMachine(Grid& grid, Block& block, uint32_t thread)
      : grid_(grid), block_(block), warp_(block.warps[thread / kWarp]), thread_(thread), lane_(thread % kWarp) {}

  uint32_t thread() const { return thread_; }
  uint32_t block() const { return block_.index; }
  uint32_t blocks() const { return grid_.blocks; }

  void renew(uint32_t*) const {}

  void sync() { block_.barrier.arrive_and_wait(); }
  void sync_warp() { exchange(5, 0); }
  // As on the GPU: one thread arrives for its block after all have come, and waits for the others' blocks.
  void arrive() {
    sync();
    if (grid_.blocks > 1 && thread_ == 0) block_.token = grid_.barrier.arrive();
  }
  void wait() {
    if (grid_.blocks > 1 && thread_ == 0) grid_.barrier.wait(block_.token);
    sync();
  }
  template <class T>
  void meet(T* count) {
    sync();
    if (grid_.blocks == 1) return;
    if (thread_ == 0) {
      __atomic_fetch_add(count, T(1), __ATOMIC_RELEASE);
      while (__atomic_load_n(count, __ATOMIC_ACQUIRE) != grid_.blocks) std::this_thread::yield();
    }
    sync();
  }

  uint32_t ballot(bool vote) {
    const Warp::Exchange* all = exchange(1, vote);
    uint32_t votes = 0;
    for (int lane = 0; lane < kWarp; ++lane) votes |= static_cast<uint32_t>(all[lane].word) << lane;
    return votes;
  }
  template <class T>
  T shuffle(T value, uint32_t lane) {
    if (lane >= kWarp) fail("a shuffle from no lane");
    return static_cast<T>(exchange(2, value)[lane].word);
  }
  template <class T>
  T shuffle_up(T value, uint32_t distance) {
    const Warp::Exchange* all = exchange(3, value);
    return lane_ < distance ? value : static_cast<T>(all[lane_ - distance].word);
  }
  uint32_t warp_sum(uint32_t value) {
    const Warp::Exchange* all = exchange(4, value);
    uint32_t sum = 0;
    for (int lane = 0; lane < kWarp; ++lane) sum += static_cast<uint32_t>(all[lane].word);
    return sum;
  }

  uint32_t count_bits(uint32_t bits) const { return __builtin_popcount(bits); }
  uint32_t lowest_bit(uint32_t bits) const { return __builtin_ctz(bits); }
  int bit_length(uint64_t value) const { return value == 0 ? 0 : 64 - __builtin_clzll(value); }

  uint32_t add_shared(uint32_t* word, uint32_t value) { return __atomic_fetch_add(word, value, __ATOMIC_RELAXED); }
  template <class T>
  void add_global(T* word, T value) {
    __atomic_fetch_add(word, value, __ATOMIC_RELAXED);
  }

  template <class T>
  void add_two_global(T* words, uint32_t first, uint32_t second) {
    add_global(words, T(first));
    add_global(words + 1, T(second));
  }

  template <class T>
  T read(const T* from) const {
    return *from;
  }
  template <class T>
  dynams::Quad<T> read(const dynams::Quad<T>* from) const {
    if (reinterpret_cast<uintptr_t>(from) % alignof(dynams::Quad<T>) != 0) fail("a vector that is not aligned");
    return *from;
  }
  template <class T>
  T fresh(const T* from) const {
    return *from;
  }
  template <class T, int kCount>
  void fresh(const T* from, T (&out)[kCount]) const {
    if (reinterpret_cast<uintptr_t>(from) % (2 * sizeof(T)) != 0) fail("a vector that is not aligned");
    std::copy(from, from + kCount, out);
  }
  // As late as they may be.
  template <class T>
  void start_copy(dynams::Quad<T>* to, const dynams::Quad<T>* from) {
    if (reinterpret_cast<uintptr_t>(from) % alignof(dynams::Quad<T>) != 0) fail("a vector that is not aligned");
    copies_.push_back([to, from] { *to = *from; });
  }
  void finish_copies() {
    for (const auto& copy : copies_) copy();
    copies_.clear();
  }
  template <class T>
  void leave(dynams::Pair<T>* to, const dynams::Pair<T>& values) const {
    if (reinterpret_cast<uintptr_t>(to) % alignof(dynams::Pair<T>) != 0) fail("a vector that is not aligned");
    *to = values;
  }
  template <class T>
  void write(T* to, T value) {
    *to = value;
    for (Output& output : grid_.outputs)
      if (output.note(to)) return;
    fail("a write outside the outputs");
  }

  template <class T>
  void write(dynams::Quad<T>* to, const dynams::Quad<T>& values) {
    if (reinterpret_cast<uintptr_t>(to) % alignof(dynams::Quad<T>) != 0) fail("a vector that is not aligned");
    for (int i = 0; i < 4; ++i) write(&to->at[i], values.at[i]);
  }
  template <class T>
  void write(dynams::Pair<T>* to, const dynams::Pair<T>& values) {
    if (reinterpret_cast<uintptr_t>(to) % alignof(dynams::Pair<T>) != 0) fail("a vector that is not aligned");
    for (int i = 0; i < 2; ++i) write(&to->at[i], values.at[i]);
  }

  void note(dynams::SelectionEvent event) { grid_.events.fetch_or(1u << static_cast<int>(event)); }

 private:
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "executor: %s\n", what);
    std::abort();
  }

  template <class T>
  const Warp::Exchange* exchange(int operation, T value) {
    static_assert(std::is_integral_v<T>);
    Warp::Exchange* all = warp_.exchanges[turn_ ^= 1];
    all[lane_] = {operation, static_cast<uint64_t>(value)};
    warp_.barrier.arrive_and_wait();
    for (int lane = 0; lane < kWarp; ++lane)
      if (all[lane].operation != operation) fail("lanes of a warp at different operations");
    return all;
  }

  Grid& grid_;
  Block& block_;
  Warp& warp_;
  const uint32_t thread_, lane_;
  std::vector<std::function<void()>> copies_;
  int turn_ = 0;
};

// Runs body(machine, block's index) on every thread of a grid; returns the events noted.
template <class Body>
uint32_t run_grid(uint32_t blocks, uint32_t threads, std::vector<Output>& outputs, Body body) {
  Grid grid(blocks, outputs);
  std::vector<std::unique_ptr<Block>> all;
  for (uint32_t block = 0; block < blocks; ++block) all.push_back(std::make_unique<Block>(block, threads));
  std::vector<std::thread> running;
  for (uint32_t block = 0; block < blocks; ++block) {
    for (uint32_t thread = 0; thread < threads; ++thread) {
      running.emplace_back([&, block, thread] {
        ThreadMachine machine(grid, *all[block], thread);
        body(machine, block);
      });
    }
  }
  for (std::thread& thread : running) thread.join();
  return grid.events.load();
}

}  // namespace executor
