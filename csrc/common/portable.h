// Marks of code shared by the CPU and the GPU; plain C++ sees none of them.
#pragma once

#if defined(__CUDACC__)
#define DYNAMS_HD __host__ __device__
#define DYNAMS_DEVICE __device__ __forceinline__  // of a kernel only; the tests' executor compiles it as plain C++
#define DYNAMS_PRAGMA(text) _Pragma(#text)
#define DYNAMS_UNROLL DYNAMS_PRAGMA(unroll)
#define DYNAMS_UNROLL_BY(times) DYNAMS_PRAGMA(unroll times)  // a constant expression; 1: not at all
#else
#define DYNAMS_HD
#define DYNAMS_DEVICE inline
#define DYNAMS_UNROLL
#define DYNAMS_UNROLL_BY(times)
#endif
