// Teams run on the OpenMP threads that torch brought into the process, where it did.
//
// Those threads keep spinning for a while after each of torch's own parallel regions: threads of ours, started beside
// them, would share their cores with them (measured at 2 cores: twice the time of a margin between two torch calls).
// The library is not linked but looked up, because torch brings its own copy, sometimes under another name; without
// one, or in a forked child, where its threads are gone, a team's threads are started for the call.
#include "parallel.h"

#include <dlfcn.h>
#include <unistd.h>

#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dynams {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

struct OpenMp {
  // The entry point behind `#pragma omp parallel`: the same in GNU's, LLVM's and Intel's libraries.
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*rank)();
  int (*size)();
  pid_t process;

  OpenMp()
      : parallel(find<decltype(parallel)>("GOMP_parallel")),
        rank(find<decltype(rank)>("omp_get_thread_num")),
        size(find<decltype(size)>("omp_get_num_threads")),
        process(getpid()) {}

  bool usable() const { return parallel != nullptr && rank != nullptr && size != nullptr && process == getpid(); }

 private:
  template <class Function>
  static Function find(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  }
};

const OpenMp& openmp() {
  static const OpenMp found;
  return found;
}

struct Team {
  TeamBody body;
  void* context;
  Barrier barrier{};
};

void run_openmp_member(void* data) {
  Team& team = *static_cast<Team*>(data);
  team.body(Member{openmp().rank(), openmp().size(), team.barrier}, team.context);
}

// Where the system refuses a thread the team is smaller: nobody starts before its size is known.
void run_started_threads(int threads, Team& team) {
  std::vector<std::thread> others;
  std::mutex mutex;
  std::condition_variable opened;
  int size = 0;
  int started = 1;
  try {
    others.reserve(static_cast<size_t>(threads - 1));
    for (; started < threads; ++started) {
      others.emplace_back([&, rank = started] {
        std::unique_lock<std::mutex> lock(mutex);
        opened.wait(lock, [&] { return size > 0; });
        lock.unlock();
        team.body(Member{rank, size, team.barrier}, team.context);
      });
    }
  } catch (const std::system_error&) {
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    size = started;
  }
  opened.notify_all();
  team.body(Member{0, size, team.barrier}, team.context);
  for (std::thread& other : others) other.join();
}

}  // namespace

void Barrier::wait(int team) {
  const uint32_t round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team) {
    arrived_.store(0, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      round_.store(round + 1, std::memory_order_release);
    }
    opened_.notify_all();
    return;
  }
  constexpr int kSpins = 512;  // some 20 microseconds
  for (int spin = 0; spin < kSpins; ++spin) {
    if (round_.load(std::memory_order_acquire) != round) return;
    pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  opened_.wait(lock, [&] { return round_.load(std::memory_order_relaxed) != round; });
}

void run_team(int threads, TeamBody body, void* context) {
  Team team{body, context};
  if (threads <= 1) return body(Member{0, 1, team.barrier}, context);
  if (openmp().usable()) return openmp().parallel(run_openmp_member, &team, static_cast<unsigned>(threads), 0);
  run_started_threads(threads, team);
}

const char* team_kind() { return openmp().usable() ? "openmp" : "std::thread"; }

}  // namespace dynams
