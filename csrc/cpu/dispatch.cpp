// Which instruction sets this CPU can run, found once by asking it.
#include "kernels.h"

namespace dynams {

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
#endif
namespace baseline {
extern const Kernels kKernels;
}

namespace {

struct Usable {
  const Kernels* sets[4] = {};

  Usable() {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    // Every AVX2 CPU converts half precision too (F16C came a generation earlier).
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      sets[count++] = &avx512::kKernels;
    if (has_avx2) sets[count++] = &avx2::kKernels;
#endif
    sets[count++] = &baseline::kKernels;
  }
};

}  // namespace

const Kernels* const* usable_kernels() {
  static const Usable usable;
  return usable.sets;
}

}  // namespace dynams
