// What the thread and the address sanitizer must be told of threads that are coroutines; nothing in a plain build.
//
// To the thread sanitizer every coroutine is a thread of its own, and that one runs after another orders nothing: only
// what `publish` and `observe` say does. So it sees the races of all orders, not only of the one that happened to run.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#define HOST_CUDA_THREAD_SANITIZER
#elif defined(__SANITIZE_ADDRESS__)
#define HOST_CUDA_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HOST_CUDA_THREAD_SANITIZER
#elif __has_feature(address_sanitizer)
#define HOST_CUDA_ADDRESS_SANITIZER
#endif
#endif

#ifdef HOST_CUDA_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif
#ifdef HOST_CUDA_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif

namespace host_cuda {

#if defined(HOST_CUDA_THREAD_SANITIZER) || defined(HOST_CUDA_ADDRESS_SANITIZER)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// While one lives the thread's accesses are the simulation's, not the kernel's: they race with nothing. Memory
// allocated meanwhile is new to all threads.
struct Untracked {
#ifdef HOST_CUDA_THREAD_SANITIZER
  Untracked() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Untracked() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Untracked() {}
#endif
  Untracked(const Untracked&) = delete;
  Untracked& operator=(const Untracked&) = delete;
};

// What the caller did so far is done for whoever observes the same address later.
inline void publish([[maybe_unused]] void* address) {
#ifdef HOST_CUDA_THREAD_SANITIZER
  __tsan_release(address);
#endif
}
inline void observe([[maybe_unused]] void* address) {
#ifdef HOST_CUDA_THREAD_SANITIZER
  __tsan_acquire(address);
#endif
}

// A stack that execution switches to and from. A sanitizer counts the calls on each stack: what switches is no call.
#define HOST_CUDA_NO_CALL __attribute__((always_inline)) inline

class Stack {
 public:
  // The stack that the program runs on.
  Stack() {
#ifdef HOST_CUDA_THREAD_SANITIZER
    fiber_ = __tsan_get_current_fiber();
#endif
  }
  // That of a coroutine, which sees all that its creator did.
  Stack([[maybe_unused]] const void* begin, [[maybe_unused]] size_t size) {
#ifdef HOST_CUDA_THREAD_SANITIZER
    fiber_ = __tsan_create_fiber(0);
    own_ = true;
#elif defined(HOST_CUDA_ADDRESS_SANITIZER)
    begin_ = begin;
    size_ = size;
#endif
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() {
#ifdef HOST_CUDA_THREAD_SANITIZER
    if (own_) __tsan_destroy_fiber(fiber_);
#endif
  }

  // Right before the jump to another.
  HOST_CUDA_NO_CALL void leave_for([[maybe_unused]] const Stack& other, [[maybe_unused]] bool for_ever = false) {
#ifdef HOST_CUDA_THREAD_SANITIZER
    __tsan_switch_to_fiber(other.fiber_, __tsan_switch_to_fiber_no_sync);
#elif defined(HOST_CUDA_ADDRESS_SANITIZER)
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake_, other.begin_, other.size_);
#endif
  }
  // Right after the jump from another.
  HOST_CUDA_NO_CALL void arrive([[maybe_unused]] Stack& from) {
#ifdef HOST_CUDA_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake_, &from.begin_, &from.size_);
#endif
  }

 private:
#ifdef HOST_CUDA_THREAD_SANITIZER
  void* fiber_;
  bool own_ = false;
#elif defined(HOST_CUDA_ADDRESS_SANITIZER)
  const void* begin_ = nullptr;
  size_t size_ = 0;
  void* fake_ = nullptr;
#endif
};

}  // namespace host_cuda
