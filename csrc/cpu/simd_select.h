// Vector comparisons as bit masks, and stores of the lanes that a mask selects, packed.
//
// Packed stores write a whole vector: the caller provides the room, and overwrites or ignores what follows the
// selected.
#pragma once

#include "../common/half.h"
#include "simd.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace dynams::DYNAMS_ISA {
namespace {

#if defined(__AVX512F__) || defined(__AVX2__)
#define DYNAMS_PACKED_STORES 1
#endif

// Comparisons see subnormal numbers as they are, whatever the caller's thread does with them
// (torch.set_flush_denormal).
class ExactSubnormals {
 public:
#if defined(__x86_64__)
  ExactSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040u); }
  ~ExactSubnormals() { _mm_setcsr(saved_); }
  ExactSubnormals(const ExactSubnormals&) = delete;
  ExactSubnormals& operator=(const ExactSubnormals&) = delete;

 private:
  unsigned saved_;
#endif
};

#if defined(__AVX512F__)

inline uint32_t less(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
inline uint32_t less(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ); }
inline uint32_t equal(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
inline uint32_t equal(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
inline uint32_t not_above(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
inline uint32_t not_above(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
}

inline void store_packed(float* to, uint32_t mask, Vec<float> value) {
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), (__m512)value));
}
inline void store_packed(double* to, uint32_t mask, Vec<double> value) {
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(static_cast<__mmask8>(mask), (__m512d)value));
}
inline void store_packed(uint16_t* to, uint32_t mask, const uint16_t* from) {
  // Sixteen-bit compression needs AVX-512 VBMI2: widened to 32 bits, which every AVX-512 CPU can compress.
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  const __m512i packed = _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), wide);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(packed));
}
// The numbers first, first + 1, ... of the selected among `kCount` lanes.
template <int kCount>
inline void store_packed_indices(int64_t* to, uint32_t mask, int64_t first) {
  const __m512i index = _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(static_cast<__mmask8>(mask), index));
  if constexpr (kCount == 16) {
    const __m512i upper = _mm512_add_epi64(index, _mm512_set1_epi64(8));
    to += __builtin_popcount(mask & 255u);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(static_cast<__mmask8>(mask >> 8), upper));
  }
}

#elif defined(__AVX2__)

inline uint32_t bits_of(__m256 mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
inline uint32_t bits_of(__m256d mask) { return static_cast<uint32_t>(_mm256_movemask_pd(mask)); }
inline uint32_t less(Vec<float> a, Vec<float> b) { return bits_of(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ)); }
inline uint32_t less(Vec<double> a, Vec<double> b) {
  return bits_of(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_LT_OQ));
}
inline uint32_t equal(Vec<float> a, Vec<float> b) { return bits_of(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_EQ_OQ)); }
inline uint32_t equal(Vec<double> a, Vec<double> b) {
  return bits_of(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_EQ_OQ));
}
inline uint32_t not_above(Vec<float> a, Vec<float> b) {
  return bits_of(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LE_OQ));
}
inline uint32_t not_above(Vec<double> a, Vec<double> b) {
  return bits_of(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_LE_OQ));
}

// The places of the set bits of every byte, lowest first: what AVX2 lacks an instruction for.
struct PackTable {
  alignas(64) uint64_t places[256];

  constexpr PackTable() : places{} {
    for (int mask = 0; mask < 256; ++mask) {
      int used = 0;
      for (int bit = 0; bit < 8; ++bit)
        if (mask & (1 << bit)) places[mask] |= static_cast<uint64_t>(bit) << (8 * used++);
    }
  }
};
constexpr PackTable kPack;

inline __m256i pack_order(uint32_t mask) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kPack.places[mask])));
}
// The order of 64-bit lanes as pairs of 32-bit ones: 2 p and 2 p + 1 for each place p.
inline __m256i pack_order_wide(uint32_t mask) {
  const __m256i places = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(static_cast<int>(kPack.places[mask])));
  const __m256i even = _mm256_add_epi64(places, places);
  return _mm256_or_si256(even, _mm256_slli_epi64(_mm256_add_epi64(even, _mm256_set1_epi64x(1)), 32));
}

inline void store_packed(float* to, uint32_t mask, Vec<float> value) {
  _mm256_storeu_ps(to, _mm256_permutevar8x32_ps((__m256)value, pack_order(mask)));
}
inline void store_packed(double* to, uint32_t mask, Vec<double> value) {
  const __m256 packed = _mm256_permutevar8x32_ps((__m256)value, pack_order_wide(mask));
  _mm256_storeu_pd(to, _mm256_castps_pd(packed));
}
inline void store_packed(uint16_t* to, uint32_t mask, const uint16_t* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  const __m256i packed = _mm256_permutevar8x32_epi32(wide, pack_order(mask));
  const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow);
}
template <int kCount>
inline void store_packed_indices(int64_t* to, uint32_t mask, int64_t first) {
  const __m256i index = _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_set_epi64x(3, 2, 1, 0));
  const uint32_t lower = mask & 15u;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(index, pack_order_wide(lower)));
  if constexpr (kCount == 8) {
    const __m256i upper = _mm256_add_epi64(index, _mm256_set1_epi64x(4));
    to += __builtin_popcount(lower);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(upper, pack_order_wide(mask >> 4)));
  }
}

#endif

}  // namespace
}  // namespace dynams::DYNAMS_ISA
