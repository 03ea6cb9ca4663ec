// csrc/cuda/hopper/device.cuh's operations on a CPU, by their definitions in the PTX manual.
//
// Memory is as weak as it may be: a thread sees of the words that others raise only what a chain of arrivals and warp
// barriers has told it of. Threads stop at every such step, so that the others' come between.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace host_cuda {

// A set of the launch's raises, by their numbers.
class Raises {
 public:
  void add(size_t number) {
    words_.resize(std::max(words_.size(), number / 64 + 1));
    words_[number / 64] |= uint64_t(1) << number % 64;
  }
  void add(const Raises& others) {
    words_.resize(std::max(words_.size(), others.words_.size()));
    for (size_t i = 0; i < others.words_.size(); ++i) words_[i] |= others.words_[i];
  }
  bool has(size_t number) const { return number / 64 < words_.size() && words_[number / 64] >> number % 64 & 1; }

 private:
  std::vector<uint64_t> words_;
};

struct Raised {
  size_t number;
  uint32_t value;
};

// What has been raised since the last forget_raises(), and who knows of it.
inline size_t raises;
inline std::map<const uint32_t*, std::vector<Raised>> raised;
inline std::map<const uint32_t*, Raises> told_by_arrivals;
inline Raises known[1024], counted[1024], brought[2][1024];
inline std::function<void()> earlier_launch;  // what is not seen before wait_for_launch_before()

// A block's barrier for some of its threads.
struct Barrier {
  int threads = 0, come = 0;
  std::vector<unsigned> waiting;
};
inline Barrier barriers[16];

// Whether all have come now; then those that waited go on.
inline bool come(int number, int threads) {
  pause();
  Barrier& barrier = barriers[number];
  if (barrier.come > 0 && barrier.threads != threads) problem = "threads disagree on how many meet";
  barrier.threads = threads;
  if (++barrier.come < threads) return false;
  for (unsigned thread : barrier.waiting) here->threads[thread].waits = Waits::kNothing;
  barrier = Barrier();
  return true;
}

inline void forget_raises() {
  raises = 0;
  raised.clear();
  told_by_arrivals.clear();
}
inline void forget_known() {
  std::fill(std::begin(barriers), std::end(barriers), Barrier());
  std::fill(std::begin(known), std::end(known), Raises());
  std::fill(std::begin(counted), std::end(counted), Raises());
}

}  // namespace host_cuda

// Each lane knows afterwards what any knew before.
inline void __syncwarp() {
  using namespace host_cuda;
  Untracked untracked;
  const unsigned self = current, first = self / kLanes * kLanes, turn = parity[self] % 2;
  brought[turn][self] = known[self];
  const Slot* warp = meet_warp(Meeting::kSync, 0, 0, 0xffffffffu);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    brought_by<int>(warp[lane], Meeting::kSync, 0);
    known[self].add(brought[turn][first + lane]);
  }
}

namespace dynams {

inline float saturated_product(float a, float b) {
  const float product = a * b;
  return product > 0.0f ? product < 1.0f ? product : 1.0f : 0.0f;  // 0 for NaN too
}

inline void announce(int barrier, int threads) { host_cuda::come(barrier, threads); }
inline void meet(int barrier, int threads) {
  if (host_cuda::come(barrier, threads)) return;
  host_cuda::barriers[barrier].waiting.push_back(host_cuda::current);
  host_cuda::wait_for(host_cuda::Waits::kSome);
}

inline uint32_t raise(uint32_t* word, uint32_t value) {
  host_cuda::pause();
  const uint32_t before = *word;
  *word = before > value ? before : value;
  host_cuda::raised[word].push_back({host_cuda::raises, value});
  host_cuda::known[host_cuda::current].add(host_cuda::raises++);
  return before;
}

inline uint32_t arrive(uint32_t* count) {
  host_cuda::pause();
  host_cuda::Raises& told = host_cuda::told_by_arrivals[count];
  told.add(host_cuda::known[host_cuda::current]);
  host_cuda::counted[host_cuda::current] = told;
  return (*count)++;
}

inline void see_arrivals() { host_cuda::known[host_cuda::current].add(host_cuda::counted[host_cuda::current]); }

inline uint32_t fresh(const uint32_t* word) {
  host_cuda::pause();
  uint32_t value = 0;
  for (const host_cuda::Raised& one : host_cuda::raised[word])
    if (one.value > value && host_cuda::known[host_cuda::current].has(one.number)) value = one.value;
  return value;
}

// Launches come one after the other here; how early one is, is played by `earlier_launch`.
inline void let_next_launch_begin() {}

inline void wait_for_launch_before() {
  if (host_cuda::earlier_launch) host_cuda::earlier_launch();
  host_cuda::earlier_launch = nullptr;
}

}  // namespace dynams
