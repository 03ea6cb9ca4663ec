// Memory of the allocator's that nobody has touched yet.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dynams {

// An allocation from this size on is freshly mapped by glibc, always.
constexpr int64_t kSurelyFresh = 32 << 20;

// The whole pages of `page` bytes within a range; empty where there are none.
struct Pages {
  uintptr_t begin, end;

  Pages(const void* data, int64_t bytes, uintptr_t page)
      : begin((reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1)),
        end((reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(page - 1)) {}
};

// Makes the pages of a range present before it is written: one call, where each page's first touch would trap.
inline void populate(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_POPULATE_WRITE)
  const Pages pages(data, bytes, 4096);
  if (pages.end > pages.begin)
    madvise(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, MADV_POPULATE_WRITE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace dynams
