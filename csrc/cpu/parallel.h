// Work shared among a handful of threads started for one call.
//
// Threads are started per call, not kept: a pool would be lost in a forked data-loader worker. Starting one takes some
// 15 microseconds, so callers ask for as many as their work is worth.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace dynams {

// All of `count` threads wait until the last arrives.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t round = round_;
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  const int count_;
  int arrived_ = 0;
  uint64_t round_ = 0;
};

// How many threads `work` units deserve, each worth at least `grain` of them.
inline int threads_for(int64_t work, int64_t grain, int available) {
  const int64_t wanted = work / grain;
  const int64_t count = wanted < available ? wanted : available;
  return count < 1 ? 1 : static_cast<int>(count);
}

// Where part `index` of `parts` of a range of `size` begins; parts differ by at most one element.
inline int64_t part_begin(int64_t size, int64_t index, int64_t parts) {
  const int64_t quotient = size / parts, remainder = size % parts;
  return index * quotient + (index < remainder ? index : remainder);
}

// One thread's place in a team.
struct Member {
  int rank, size;
  Barrier& barrier;

  int64_t begin(int64_t total) const { return part_begin(total, rank, size); }
  int64_t end(int64_t total) const { return part_begin(total, rank + 1, size); }
};

// body(member) in up to `threads` threads, the caller's among them. `body` must not throw. Where the system refuses a
// thread the team is smaller: nobody starts before its size is known.
template <class Body>
void run_team(int threads, const Body& body) {
  std::vector<std::thread> others;
  std::mutex mutex;
  std::condition_variable opened;
  Barrier* barrier = nullptr;
  int size = 1;
  try {
    others.reserve(static_cast<size_t>(threads > 1 ? threads - 1 : 0));
    for (; size < threads; ++size) {
      others.emplace_back([&, rank = size] {
        std::unique_lock<std::mutex> lock(mutex);
        opened.wait(lock, [&] { return barrier != nullptr; });
        const Member member{rank, size, *barrier};
        lock.unlock();
        body(member);
      });
    }
  } catch (const std::system_error&) {
  }
  Barrier shared(size);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    barrier = &shared;
  }
  opened.notify_all();
  body(Member{0, size, shared});
  for (std::thread& other : others) other.join();
}

}  // namespace dynams
