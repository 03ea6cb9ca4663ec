// CUDA kernels on a CPU: every thread of a block is a coroutine that runs until it waits for others.
//
// For tests of the kernels' own code where there is no GPU. A warp exchange waits for all 32 lanes and a barrier for
// all threads of the block, so a divergent exchange or barrier is a reported deadlock. The order in which threads take
// turns can be changed: a missing barrier then changes results. Under the thread sanitizer (sanitized.h) blocks are at
// work at the same time and only barriers and launches order memory: neither a warp exchange nor a turn does.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "sanitized.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = 64 << 10;

enum class Waits { kNothing, kWarp, kBlock, kSome, kForever };

struct Copy {
  void* to;
  const void* from;
};

struct Thread {
  std::unique_ptr<char[]> memory{new char[kStackBytes]};
  Stack stack{memory.get(), kStackBytes};
  ucontext_t context;  // to start from
  jmp_buf place;       // to go on from: unlike a context's, its switch is no system call
  bool started;
  Waits waits;
  unsigned barriers;         // met so far
  std::vector<Copy> copies;  // under way
};

// Of the exact size, full of NaN and of nonsense at first.
struct SharedObject {
  SharedObject(const void* type, size_t size)
      : type(type), bytes(::operator new(size, std::align_val_t(16)), [](void* all) {
          ::operator delete(all, std::align_val_t(16));
        }) {
    std::memset(bytes.get(), 0xff, size);
  }
  const void* type;
  std::unique_ptr<void, void (*)(void*)> bytes;
};

// Where blocks run, one after another.
struct Multiprocessor {
  std::deque<Thread> threads;  // as many as any block so far had
  std::vector<SharedObject> shared;
  char meetings[2];  // of a barrier and the next, for `publish` and `observe`
  char warp_meetings[1024 / kLanes];
};

// What lanes of a warp do together, all the same at a time.
enum class Meeting { kShuffleXor, kShuffle, kVote, kSync };

struct Slot {
  unsigned char bytes[16];
  size_t size;
  Meeting meeting;
  int offset;
};

inline Multiprocessor multiprocessors[2];  // in turn, so that a block's threads are not those of the next
inline Multiprocessor* here;
inline jmp_buf scheduler;
inline Stack scheduler_stack;
inline char begun, ended;  // of a launch, for `publish` and `observe`
inline unsigned current;
inline std::function<void()> body;
inline std::string problem;
inline unsigned order_seed;  // 0: threads take turns by number
inline Slot slots[2][1024];
inline unsigned parity[1024];

inline Thread& thread_now() { return here->threads[current]; }

HOST_CUDA_NO_CALL void suspend(Thread& self) {
  self.stack.leave_for(scheduler_stack);
  _longjmp(scheduler, 1);
}

inline void wait_for(Waits what) {
  {
    Untracked untracked;
    thread_now().waits = what;
  }
  if (_setjmp(thread_now().place) == 0) suspend(thread_now());
  thread_now().stack.arrive(scheduler_stack);
}

// Lets the others go on first.
inline void pause() { wait_for(Waits::kNothing); }

inline void run_thread() {
  Thread& self = thread_now();
  self.stack.arrive(scheduler_stack);
  observe(&begun);
  body();
  publish(&ended);
  {
    Untracked untracked;
    self.waits = Waits::kForever;
  }
  self.stack.leave_for(scheduler_stack, true);
  _longjmp(scheduler, 1);
}

HOST_CUDA_NO_CALL void go_on(Thread& thread) {
  const bool started = thread.started;
  thread.started = true;
  scheduler_stack.leave_for(thread.stack);
  if (started) _longjmp(thread.place, 1);
  setcontext(&thread.context);
}

inline void resume(unsigned turn) {
  current = turn;
  threadIdx = dim3(turn);
  if (_setjmp(scheduler) == 0) go_on(thread_now());
  else scheduler_stack.arrive(thread_now().stack);
}

// Whether all of [begin, end) wait for the same; then they go on.
inline bool release(size_t begin, size_t end, Waits what) {
  for (size_t i = begin; i < end; ++i)
    if (here->threads[i].waits != what) return false;
  for (size_t i = begin; i < end; ++i) here->threads[i].waits = Waits::kNothing;
  return true;
}

inline void prepare(Thread& thread) {
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.memory.get();
  thread.context.uc_stack.ss_size = kStackBytes;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, run_thread, 0);
  thread.started = false;
  thread.waits = Waits::kNothing;
  thread.barriers = 0;
  thread.copies.clear();
}

inline void run_block(unsigned count, std::mt19937& random) {
  here->shared.clear();
  while (here->threads.size() < count) here->threads.emplace_back();
  std::fill(std::begin(parity), std::end(parity), 0u);
  for (unsigned turn = 0; turn < count; ++turn) prepare(here->threads[turn]);
  std::vector<unsigned> turns(count);
  std::iota(turns.begin(), turns.end(), 0u);
  // In another order than that of the numbers, one warp falls as far behind the others as barriers let it.
  const unsigned slow_warp = order_seed != 0 ? random() % (count / kLanes) : count;
  bool slow_moves = true;
  while (problem.empty()) {
    if (order_seed != 0) std::shuffle(turns.begin(), turns.end(), random);
    for (unsigned turn : turns)
      if (here->threads[turn].waits == Waits::kNothing && (slow_moves || turn / kLanes != slow_warp)) resume(turn);
    if (release(0, count, Waits::kForever)) return;
    bool moves = release(0, count, Waits::kBlock);
    for (unsigned turn : turns)
      moves |= here->threads[turn].waits == Waits::kNothing && (slow_moves || turn / kLanes != slow_warp);
    for (unsigned warp = 0; warp < count / kLanes; ++warp)
      if (slow_moves || warp != slow_warp) moves |= release(warp * kLanes, (warp + 1) * kLanes, Waits::kWarp);
    if (!moves && slow_moves) problem = "threads wait for others that never come: a divergent exchange or barrier";
    slow_moves = !moves || order_seed == 0;
  }
}

// What every lane of the warp brings to a meeting; where it is, all have come.
template <class Value>
const Slot* meet_warp(Meeting meeting, const Value& value, int offset, unsigned mask) {
  static_assert(std::is_trivially_copyable<Value>::value && sizeof(Value) <= 16, "");
  if (mask != 0xffffffffu) problem = "an exchange among part of a warp";
  const unsigned self = current, first = self / kLanes * kLanes;
  Slot(&row)[1024] = slots[parity[self]++ % 2];
  std::memcpy(row[self].bytes, &value, sizeof(Value));
  row[self].size = sizeof(Value);
  row[self].meeting = meeting;
  row[self].offset = offset;
  wait_for(Waits::kWarp);
  return row + first;
}

// What a lane brought, to the same meeting as this one.
template <class Value>
Value brought_by(const Slot& slot, Meeting meeting, int offset) {
  if (slot.size != sizeof(Value) || slot.meeting != meeting || slot.offset != offset)
    problem = "lanes of a warp exchange different things";
  Value value;
  std::memcpy(&value, slot.bytes, sizeof(Value));
  return value;
}

inline void meet_block() {
  char* meeting;
  {
    Untracked untracked;
    meeting = &here->meetings[thread_now().barriers++ % 2];
  }
  publish(meeting);
  wait_for(Waits::kBlock);
  observe(meeting);
}

// The block's object of a type, which an address names.
inline void* shared_object(const void* type, size_t size) {
  Untracked untracked;
  for (const SharedObject& object : here->shared)
    if (object.type == type) return object.bytes.get();
  return here->shared.emplace_back(type, size).bytes.get();
}

}  // namespace host_cuda

inline void __syncthreads() { host_cuda::meet_block(); }

template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int offset) {
  using namespace host_cuda;
  Untracked untracked;
  const unsigned partner = current % kLanes ^ static_cast<unsigned>(offset);
  const Slot* warp = meet_warp(Meeting::kShuffleXor, value, offset, mask);
  if (offset > 0 && partner < kLanes) return brought_by<Value>(warp[partner], Meeting::kShuffleXor, offset);
  problem = "an exchange with no other lane of the warp";
  return value;
}

// From the lane of that number, each its own.
template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source) {
  using namespace host_cuda;
  Untracked untracked;
  const Slot* warp = meet_warp(Meeting::kShuffle, value, 0, mask);
  return brought_by<Value>(warp[static_cast<unsigned>(source) % kLanes], Meeting::kShuffle, 0);
}

inline int __any_sync(unsigned mask, int value) {
  using namespace host_cuda;
  Untracked untracked;
  const Slot* warp = meet_warp(Meeting::kVote, value, 0, mask);
  int any = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) any |= brought_by<int>(warp[lane], Meeting::kVote, 0) != 0;
  return any;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

template <class... Formal, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Formal...), Actual... arguments) {
  host_cuda::Untracked untracked;
  std::mt19937 random(host_cuda::order_seed);
  host_cuda::publish(&host_cuda::begun);
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  host_cuda::body = [=] { kernel(arguments...); };
  std::vector<std::pair<unsigned, unsigned>> blocks;
  for (unsigned y = 0; y < gridDim.y; ++y)
    for (unsigned x = 0; x < gridDim.x; ++x) blocks.emplace_back(x, y);
  if (host_cuda::order_seed != 0) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const auto& [x, y] : blocks) {
    blockIdx = dim3(x, y);
    host_cuda::here = &host_cuda::multiprocessors[host_cuda::here == &host_cuda::multiprocessors[0]];
    host_cuda::run_block(blockDim.x, random);
  }
  host_cuda::observe(&host_cuda::ended);
  return host_cuda::problem.empty() ? cudaSuccess : cudaErrorUnknown;
}

struct cudaFuncAttributes {
  int numRegs;
};

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
  attributes->numRegs = 0;
  return kernel == nullptr ? cudaErrorUnknown : cudaSuccess;
}

inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
