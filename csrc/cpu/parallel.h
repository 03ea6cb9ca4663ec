// Work shared among a handful of threads for one call.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace dynams {

// All of a team's threads wait until the last arrives: awake at first, as phases between waits take microseconds, then
// asleep, so as not to keep a busy machine's core from the thread that is waited for.
class Barrier {
 public:
  void wait(int team);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
  std::mutex mutex_;
  std::condition_variable opened_;
};

// One thread's place in a team.
struct Member {
  int rank, size;
  Barrier& barrier;

  void wait() const { barrier.wait(size); }
};

// How many threads `work` units deserve, each worth at least `grain` of them.
inline int threads_for(int64_t work, int64_t grain, int available) {
  const int64_t wanted = work / grain;
  const int64_t count = wanted < available ? wanted : available;
  return count < 1 ? 1 : static_cast<int>(count);
}

using TeamBody = void (*)(const Member& member, void* context);

void run_team(int threads, TeamBody body, void* context);

// body(member) in up to `threads` threads, the caller's among them; `body` must not throw.
template <class Body>
void run_team(int threads, Body body) {
  run_team(threads, [](const Member& member, void* context) { (*static_cast<Body*>(context))(member); }, &body);
}

// "openmp" where teams run on the process' OpenMP threads, else "std::thread".
const char* team_kind();

}  // namespace dynams
